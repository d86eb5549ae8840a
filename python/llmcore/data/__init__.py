"""Text in, batches of tokens out: corpora and their split, token windows, figures to compare a model with."""

from llmcore.data.batches import MixedBatches, TokenBatches, document_starts, encode_documents
from llmcore.data.corpus import Corpus, read_corpus, stream_documents
from llmcore.data.evaluation import (
    EvaluationWindows,
    bits_per_byte,
    compressed_bits_per_byte,
    evaluation_windows,
)
from llmcore.data.shards import ShardSet, is_shard_set
from llmcore.data.token_file import TokenFile, is_token_file
from llmcore.data.tokenizing import tokenize_files
from llmcore.errors import CorpusError

__all__ = [
    "Corpus",
    "CorpusError",
    "EvaluationWindows",
    "MixedBatches",
    "ShardSet",
    "TokenBatches",
    "TokenFile",
    "bits_per_byte",
    "compressed_bits_per_byte",
    "document_starts",
    "encode_documents",
    "evaluation_windows",
    "is_shard_set",
    "is_token_file",
    "read_corpus",
    "stream_documents",
    "tokenize_files",
]
