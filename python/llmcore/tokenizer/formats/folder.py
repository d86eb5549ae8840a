"""Which file of a folder holds the vocabulary, and which reader a file gets."""

from __future__ import annotations

from pathlib import Path

from llmcore.errors import MissingFileError
from llmcore.tokenizer.formats.gguf import read_gguf
from llmcore.tokenizer.formats.sentencepiece import read_sentencepiece
from llmcore.tokenizer.formats.tokenizer_json import read_tokenizer_json
from llmcore.tokenizer.vocabulary import AnyVocabulary


def read_file(path: Path) -> AnyVocabulary:
    """Read a file that knows its own pattern."""
    if not path.is_file():
        raise MissingFileError("load", expected="a tokenizer file", got=f"{path}, which is not there")
    if path.suffix == ".gguf":
        return read_gguf(path)
    if path.suffix == ".model":
        return read_sentencepiece(path)
    return read_tokenizer_json(path)


def read_folder(folder: Path) -> AnyVocabulary:
    """Read the vocabulary of a model's folder, with the tokens that stand in further files."""
    document, model = folder / "tokenizer.json", folder / "tokenizer.model"
    if document.is_file():
        return read_tokenizer_json(document, with_folder=True)
    return read_file(model if model.is_file() else document)
