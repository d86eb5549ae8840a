"""BPE tokenizers: train, encode, decode, save, load. The work is done in C++ (csrc/tokenizer)."""

from llmcore.tokenizer.stream import StreamDecoder
from llmcore.tokenizer.tokenizer import Tokenizer
from llmcore.tokenizer.vocabulary import SentencePieceVocabulary, Vocabulary

__all__ = ["SentencePieceVocabulary", "StreamDecoder", "Tokenizer", "Vocabulary"]
