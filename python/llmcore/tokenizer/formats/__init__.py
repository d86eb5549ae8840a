"""The files that vocabularies come in: one module for each format, each from a path to a Vocabulary or back.

A file is hostile until checked: every error is one ValueError that names the file and the field. Encoding and
decoding are the Tokenizer's; here is only what stands in files.
"""

from llmcore.tokenizer.formats.files import collector_paused
from llmcore.tokenizer.formats.folder import read_file, read_folder
from llmcore.tokenizer.formats.tiktoken import is_tiktoken, read_tiktoken, write_tiktoken
from llmcore.tokenizer.formats.tokenizer_json import file_name, write_tokenizer_json

__all__ = [
    "collector_paused",
    "file_name",
    "is_tiktoken",
    "read_file",
    "read_folder",
    "read_tiktoken",
    "write_tiktoken",
    "write_tokenizer_json",
]
