"""What is learned is what TRL learns with assistant_only_loss: the tokens that transformers finds between the marks of TRL's own
templates for training, of 34 kinds of models."""

import importlib.util
import random
import re
from pathlib import Path

import pytest

from llmcore.generate.chat.learned import renderings
from llmcore.generate.chat.template import ChatOptions, ChatTemplate
from llmcore.tokenizer import Tokenizer

pytestmark = pytest.mark.peers

CONTROL = [
    *(
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<s>",
        "</s>",
        "<bos>",
        "<eos>",
        "<|begin_of_text|>",
        "<|eot_id|>",
    ),
    *(
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|user|>",
        "<|assistant|>",
        "<|system|>",
        "<|end|>",
        "<start_of_turn>",
    ),
    *(
        "<end_of_turn>",
        "<|start|>",
        "<|channel|>",
        "<|message|>",
        "<|return|>",
        "<|call|>",
        "<｜User｜>",
        "<｜Assistant｜>",
    ),
    *(
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "[gMASK]",
        "<sop>",
        "<|observation|>",
        "<|START_OF_TURN_TOKEN|>",
    ),
    *(
        "<|END_OF_TURN_TOKEN|>",
        "<|USER_TOKEN|>",
        "<|CHATBOT_TOKEN|>",
        "<|SYSTEM_TOKEN|>",
        "<|turn>",
        "<turn|>",
        "<|channel>",
    ),
]
ADDED = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
WORDS = [
    *[
        "hello",
        "there",
        "what",
        "is",
        "two",
        "plus",
        "import",
        "def",
        "return",
        "naïve",
        "你好",
        "🙂",
        "<b>",
        "12",
        "```",
        "-",
        "{",
        "}",
        "'",
        "\t",
    ],
    "\n",
    "\n\n",
    " ",
    "  ",
]
PARTS = ("idefics", "smolvlm", "llava")  # whose templates take content in parts alone
SPLIT = r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TOOLS = [
    {
        "type": "function",
        "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}},
    }
]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    pre = tokenizers.pre_tokenizers
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = pre.Split(tokenizers.Regex(SPLIT), "isolated")
    theirs.pre_tokenizer = pre.Sequence([split, pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    theirs.decoder = tokenizers.decoders.ByteLevel()
    texts = [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=800, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False
    )
    theirs.train_from_iterator(texts, trainer)
    theirs.add_special_tokens(CONTROL)
    theirs.add_tokens(ADDED)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    theirs.save(str(path))
    return theirs, Tokenizer.load(path)


def text(rng):
    return "ok " + " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 10)))


def conversation(rng, tools):
    found = [{"role": "system", "content": text(rng)}] if rng.random() < 0.4 else []
    for _ in range(rng.randint(1, 4)):
        thought = f"<think>\n{text(rng)}\n</think>\n\n" if rng.random() < 0.5 else ""
        found += [{"role": "user", "content": text(rng)}, {"role": "assistant", "content": thought + text(rng)}]
    if tools:
        call = {
            "type": "function",
            "id": "call12345",
            "function": {"name": "add", "arguments": {"a": rng.randint(0, 99)}},
        }
        found += [{"role": "user", "content": text(rng)}, {"role": "assistant", "content": "", "tool_calls": [call]}]
        found += [{"role": "tool", "name": "add", "tool_call_id": "call12345", "content": text(rng)}]
        found += [{"role": "assistant", "content": text(rng)}]
    return found


def templates():
    trl = importlib.util.find_spec("trl")
    folders = [] if trl is None else trl.submodule_search_locations
    paths = [path for folder in folders for path in sorted(Path(folder, "chat_templates").glob("*.jinja"))]
    return [path for path in paths if re.search(r"{%-?\s*generation", path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("path", templates(), ids=lambda path: path.stem)
def test_as_trl(both, path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    source, (theirs, tokenizer) = path.read_text(encoding="utf-8"), both
    tokens = {"bos_token": "<bos>", "eos_token": "<eos>"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=theirs, **tokens)
    template = ChatTemplate(source, tokens=tokens)
    rng, compared = random.Random(path.name), 0
    for _ in range(6):
        tools = TOOLS if rng.random() < 0.3 and "<tool" in source else None
        messages = conversation(rng, tools)
        if path.name.startswith(PARTS):
            messages = [m | {"content": [{"type": "text", "text": m["content"]}]} for m in messages]
        try:
            right = fast.apply_chat_template(
                messages, chat_template=source, tools=tools, return_dict=True, return_assistant_tokens_mask=True
            )
        except Exception as error:  # a template refuses system prompts, or tools
            assert "system" in str(error).lower() or tools  # noqa: PT017
            continue
        (got,) = renderings(template, tokenizer, messages, (), options=ChatOptions(tools), learn="marked")
        assert got.ids == right["input_ids"]
        assert list(map(int, got.mask)) == right["assistant_masks"]
        compared += 1
    assert compared > 2
