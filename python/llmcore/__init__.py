"""llmcore: from raw text to a language model, with every step in view.

    import llmcore
    model = llmcore.load("run")                    # a directory made by `llmcore pretrain`
    print(model.generate("The function returns", max_tokens=40))

The C++ core does the arithmetic; everything here is thin. Heavy imports are lazy: `import llmcore` stays under 100 ms.
"""

from __future__ import annotations

from llmcore._lazy import lazy
from llmcore._version import __version__

# Public name -> module that defines it (None: the submodule of that name).
_LAZY = {
    "LanguageModel": "llmcore.generate",
    "Tensor": "llmcore.ops",
    "Tokenizer": "llmcore.tokenizer",
    "build_info": "llmcore.runtime",
    "device": "llmcore._device",
    "load": "llmcore.train.runs",
    "no_grad": "llmcore.autograd",
    "num_threads": "llmcore.runtime",
    "pull": "llmcore.hub",
    "set_device": "llmcore._device",
    "set_num_threads": "llmcore.runtime",
    "tensor": "llmcore.ops",
    "bench": None,
    "data": None,
    "errors": None,
    "evaluate": None,
    "formats": None,
    "generate": None,
    "losses": None,
    "models": None,
    "nn": None,
    "ops": None,
    "optim": None,
    "plot": None,
    "tokenizer": None,
    "train": None,
}

__all__ = ["__version__", *_LAZY]

__getattr__, __dir__ = lazy(__name__, _LAZY)
