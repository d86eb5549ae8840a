"""Which file of a folder holds the vocabulary, and which reader a file gets."""

from __future__ import annotations

from pathlib import Path

from llmcore.errors import MissingFileError
from llmcore.tokenizer.formats.gguf import read_gguf
from llmcore.tokenizer.formats.sentencepiece import read_sentencepiece
from llmcore.tokenizer.formats.tekken import read_tekken
from llmcore.tokenizer.formats.tiktoken import is_tiktoken, read_tiktoken_folder
from llmcore.tokenizer.formats.tokenizer_json import read_tokenizer_json
from llmcore.tokenizer.formats.vocab_merges import read_vocab_merges
from llmcore.tokenizer.vocabulary import AnyVocabulary


def read_file(path: Path) -> AnyVocabulary:
    """Read a file that knows its own pattern."""
    if not path.is_file():
        raise MissingFileError("load", expected="a tokenizer file", got=f"{path}, which is not there")
    if path.suffix == ".gguf":
        return read_gguf(path)
    if path.suffix == ".model":
        return read_sentencepiece(path)
    if path.name == "tekken.json":
        return read_tekken(path)
    return read_tokenizer_json(path)


def read_folder(folder: Path) -> AnyVocabulary:
    """Read the vocabulary of a model's folder, with the tokens that stand in further files."""
    document = folder / "tokenizer.json"
    if document.is_file():
        return read_tokenizer_json(document, with_folder=True)
    ranks = [*sorted(folder.glob("*.tiktoken")), folder / "tiktoken.model"]
    model = folder / "tokenizer.model"
    if model.is_file() and is_tiktoken(model):
        ranks.insert(0, model)
    for path in ranks:
        if path.is_file():
            return read_tiktoken_folder(path)
    for path in (model, folder / "tekken.json"):
        if path.is_file():
            return read_file(path)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return read_vocab_merges(folder)
    return read_file(document)
