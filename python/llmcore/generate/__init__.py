"""From a model to text: sampling, the engine, stop texts, and `LanguageModel` on top of them."""

from llmcore.generate.engine.engine import Engine
from llmcore.generate.engine.params import SamplingParams
from llmcore.generate.engine.request import QueueFull, Request
from llmcore.generate.language_model import LanguageModel
from llmcore.generate.load import load
from llmcore.generate.text import Completion

__all__ = ["Completion", "Engine", "LanguageModel", "QueueFull", "Request", "SamplingParams", "load"]
