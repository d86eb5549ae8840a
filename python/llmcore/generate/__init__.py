"""From a model to text: sampling, the engine, stop texts, and `LanguageModel` on top. Loaded when first used, so that the
command line shows the options of sampling without loading what samples."""

from llmcore._lazy import lazy

_LAZY = {
    "Completion": "llmcore.generate.text",
    "Engine": "llmcore.generate.engine.engine",
    "LanguageModel": "llmcore.generate.language_model",
    "QueueFull": "llmcore.generate.engine.request",
    "Request": "llmcore.generate.engine.request",
    "SamplingParams": "llmcore.generate.engine.params",
    "load": "llmcore.generate.loader",
}

__all__ = list(_LAZY)
__getattr__, __dir__ = lazy(__name__, _LAZY)
