"""Conversations that spell no control tokens become the ids that transformers' apply_chat_template gives."""

import json
import random

import pytest

from llmcore import Tokenizer
from llmcore.errors import Error
from llmcore.generate.chat.prompt import chat_prompt
from llmcore.generate.chat.template import ChatOptions, ChatTemplate
from support.chat_templates import CONTROL, TEMPLATES

pytestmark = [pytest.mark.peers, pytest.mark.host]

ADDED = ["<think>", "</think>", "<tool_response>"]  # no control tokens
TEXT = ["hi", " ", "\n", "Ünï 你好", "<think>a</think>", "{x}", "'", '"', "12", "|>", "\u00a0"]


def byte_level(tokenizers):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={}, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the user said hi to the assistant"] * 3, trainer)
    return tokenizer


def metaspace(tokenizers, scheme):
    """As Llama's: U+2581 before words, tokens of bytes for what there is no other of."""
    pieces = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz", "▁h", "▁hi"]
    merges = [("▁", "h"), ("▁h", "i")]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if scheme == "legacy":
        tokenizer.normalizer = tokenizers.normalizers.Sequence(
            [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
        )
    else:
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=False)
    decoders = tokenizers.decoders
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


KINDS = {
    "byte-level": byte_level,
    "first": lambda tokenizers: metaspace(tokenizers, "first"),
    "never": lambda tokenizers: metaspace(tokenizers, "never"),
    "legacy": lambda tokenizers: metaspace(tokenizers, "legacy"),
}


@pytest.fixture(scope="module", params=[(kind, strips) for kind in KINDS for strips in ("", "rstrip", "lstrip")])
def pair(request, tmp_path_factory):
    """Our tokenizer and theirs, whose control tokens take the whitespace beside them or do not."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    kind, strips = request.param
    tokenizer = KINDS[kind](tokenizers)
    flags = {strips: True} if strips else {}
    tokenizer.add_special_tokens([tokenizers.AddedToken(t, special=True, normalized=False, **flags) for t in CONTROL])
    tokenizer.add_tokens([tokenizers.AddedToken(t, special=False, normalized=False) for t in ADDED])
    path = tmp_path_factory.mktemp(kind) / "tokenizer.json"
    tokenizer.save(str(path))
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(path), bos_token="<|bos|>", eos_token="<|eos|>", clean_up_tokenization_spaces=False
    )
    return Tokenizer.load(path), theirs


def said(r):
    def text():
        return "".join(r.choice(TEXT) for _ in range(r.randrange(1, 6)))

    found = [{"role": "system", "content": text()}] if r.random() < 0.3 else []
    for _ in range(r.randrange(1, 4)):
        found.append({"role": "user", "content": text()})
        answer = {"role": "assistant", "content": text(), "reasoning_content": text()}
        if r.random() < 0.3:
            arguments = {"a": text(), "b": [1, None]}
            call = {"id": "123456789", "type": "function", "function": {"name": "f", "arguments": arguments}}
            found.append({"role": "assistant", "content": text(), "tool_calls": [call]})
            found.append({"role": "tool", "content": text()})
        found.append(answer)
    return found


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids(pair, name):
    ours, theirs = pair
    template = ChatTemplate(TEMPLATES[name], name, bos_token="<|bos|>", eos_token="<|eos|>")
    reads, r, compared = template.chosen().reads, random.Random(name), 0
    for number in range(12):
        messages = said(r)
        if "tool_calls" not in TEMPLATES[name] and "tojson" not in TEMPLATES[name]:
            messages = [m for m in messages if "tool_calls" not in m and m["role"] != "tool"]
        schema = {"type": "object", "properties": {"a": {"type": "string", "description": "ä"}}}
        tools = [{"type": "function", "function": {"name": "f", "description": "F 'it'", "parameters": schema}}]
        options = {
            "tools": tools if "tools" in reads and number % 2 else None,
            "documents": [{"id": 1, "title": "t", "text": "x y"}] if "documents" in reads and number % 3 else None,
        }
        variables = {"enable_thinking": False} if "enable_thinking" in reads and number % 2 else {}
        more = {"continue_final_message": True} if number % 4 == 3 else {"add_generation_prompt": bool(number % 4)}
        if "add_generation_prompt" not in more:
            more["add_generation_prompt"] = False
        try:
            right = theirs.apply_chat_template(
                json.loads(json.dumps(messages)),
                chat_template=TEMPLATES[name],
                return_dict=False,
                **options,
                **variables,
                **more,
            )
        except Exception:
            right = None
        try:
            chat_options = ChatOptions(**options, chat_template_kwargs=variables)
            found = chat_prompt(template, ours, messages, options=chat_options, **more)
        except Error:
            found = None
        assert found == right, (number, messages, more)
        compared += found is not None
    assert compared > 3
