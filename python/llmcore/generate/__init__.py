"""From a model to text: sampling parameters, the decoding loop, stop strings, and `LanguageModel` on top."""

from llmcore.generate.language_model import LanguageModel
from llmcore.generate.loading import load
from llmcore.generate.sampling import SamplingParams
from llmcore.generate.text import Completion

__all__ = ["Completion", "LanguageModel", "SamplingParams", "load"]
