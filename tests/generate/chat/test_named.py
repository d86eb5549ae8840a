"""Several chat templates with names, in every place where model files keep them."""

import json

import pytest

import llmcore
from llmcore import models
from llmcore.generate import LanguageModel
from llmcore.generate.chat.files import gguf_chat_metadata, gguf_chat_template, read_chat_template, save_chat_template
from llmcore.generate.chat.template import ChatTemplate

pytestmark = pytest.mark.host

SAID = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
SOURCES = {"default": "d{{ messages[0].content }}", "tool_use": "t{{ tools | length }}", "rag": "r{{ documents }}"}


def as_list(sources):
    return [{"name": name, "template": source} for name, source in sources.items()]


def in_config(folder):
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": as_list(SOURCES)}))


def in_files(folder):
    (folder / "chat_template.jinja").write_text(SOURCES["default"])
    (folder / "additional_chat_templates").mkdir()
    for name in ("tool_use", "rag"):
        (folder / "additional_chat_templates" / f"{name}.jinja").write_text(SOURCES[name])


def in_processor(folder):
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": SOURCES}))


def in_both(folder):
    """Files win over the same name in the configuration."""
    in_files(folder)
    other = {"default": "{{ 1 }}", "tool_use": "{{ 2 }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": as_list(other)}))


@pytest.mark.parametrize("write", [in_config, in_files, in_processor, in_both])
def test_folders(tmp_path, write):
    write(tmp_path)
    assert read_chat_template(tmp_path).sources == SOURCES


def test_saved_and_read_again(tmp_path):
    template = ChatTemplate(SOURCES, bos_token="<s>", eos_token="</s>")
    save_chat_template(template, tmp_path)
    assert read_chat_template(tmp_path).sources == SOURCES
    found = gguf_chat_template(gguf_chat_metadata(template), "x.gguf", {"bos": "<s>", "eos": "</s>"}.get)
    assert (found.sources, found.tokens) == (SOURCES, template.tokens)
    # As gguf-py's add_chat_template names them.
    assert gguf_chat_metadata(template) == {
        "tokenizer.chat_template": SOURCES["default"],
        "tokenizer.chat_template.tool_use": SOURCES["tool_use"],
        "tokenizer.chat_template.rag": SOURCES["rag"],
        "tokenizer.chat_templates": ["tool_use", "rag"],
    }
    assert gguf_chat_metadata(None) == {}


def test_names_that_cannot_be_written(tmp_path):
    for name in ("../x", "a/b", "", ".hidden", "a\n"):
        with pytest.raises(ValueError, match=r"\[save\] expected names of chat templates"):
            save_chat_template(ChatTemplate({"default": "", name: ""}), tmp_path)
    with pytest.raises(ValueError, match=r"\[save\] expected names .* differ in letters"):
        gguf_chat_metadata(ChatTemplate({"a b": "", "a-b": ""}))


def test_a_name_without_its_template():
    with pytest.raises(ValueError, match=r"x.gguf: expected tokenizer.chat_template.rag, .* got none"):
        gguf_chat_template({"tokenizer.chat_templates": ["rag"]}, "x.gguf", lambda name: None)


@pytest.mark.parametrize("entry", [3, {}, {"name": 1, "template": ""}, {"name": "a"}])
def test_broken_lists(tmp_path, entry):
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": [{"name": "b", "template": ""}, entry]})
    )
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: chat_template: expected .* as number 1"):
        read_chat_template(tmp_path)


def test_a_broken_template_is_named(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": as_list({"a": "", "b": "{% if %}"})}))
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: chat_template: b: expected a Jinja template"):
        read_chat_template(tmp_path)


def test_special_tokens_are_variables(tmp_path):
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<pad>", "bos_token": "<old>"}))
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "extra_special_tokens": {"image_token": "<img>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "{{ image_token }}"}))
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "image_token": "<img>"}
    assert read_chat_template(tmp_path).tokens == tokens


def test_what_is_taken_unasked():
    assert ChatTemplate(SOURCES).render(SAID) == "dhi"
    assert ChatTemplate(SOURCES).render(SAID, tools=TOOLS) == "t1"
    assert ChatTemplate({"default": "d{{ tools | length }}", "rag": "r"}).render(SAID, tools=TOOLS) == "d1"
    with pytest.raises(ValueError, match="expected chat_template one of a, rag: none of them is the default"):
        ChatTemplate({"rag": "r", "a": "a"}).render(SAID)


def test_models_keep_all(tmp_path):
    tokenizer = llmcore.Tokenizer.train(iter(["the cat sat"] * 3), 260, special_tokens=["<|endoftext|>"])
    model = models.Llama(models.LlamaConfig(tokenizer.vocab_size, 64, 32, 1, 2))
    lm = LanguageModel(model, tokenizer, chat_template=ChatTemplate(SOURCES))
    assert llmcore.load(lm.save(tmp_path / "folder")).chat_template.sources == SOURCES
    again = llmcore.load(lm.save(tmp_path / "model.gguf"))
    assert again.chat_template.sources == SOURCES
    assert again.chat_template.eos_token == "<|endoftext|>"
