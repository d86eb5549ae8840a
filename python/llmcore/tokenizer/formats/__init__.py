"""The files that vocabularies come in: one module for each format, each from a path to a Vocabulary or back.

A file is hostile until checked: every error is one ValueError that names the file and the field. Encoding and
decoding are the Tokenizer's; here is only what stands in files.
"""

from llmcore.tokenizer.formats.files import collector_paused
from llmcore.tokenizer.formats.gguf import read_gguf
from llmcore.tokenizer.formats.sentencepiece import read_sentencepiece
from llmcore.tokenizer.formats.tiktoken import read_tiktoken, write_tiktoken
from llmcore.tokenizer.formats.tokenizer_json import read_tokenizer_json, write_tokenizer_json

__all__ = [
    "collector_paused",
    "read_gguf",
    "read_sentencepiece",
    "read_tiktoken",
    "read_tokenizer_json",
    "write_tiktoken",
    "write_tokenizer_json",
]
