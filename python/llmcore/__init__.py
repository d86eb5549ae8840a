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
    "Tensor": "llmcore.ops",
    "tensor": "llmcore.ops",
    "no_grad": "llmcore.autograd",
    "Tokenizer": "llmcore.tokenizer",
    "LanguageModel": "llmcore.generate",
    "load": "llmcore.generate",
    "device": "llmcore._device",
    "set_device": "llmcore._device",
    "build_info": "llmcore.runtime",
    "num_threads": "llmcore.runtime",
    "set_num_threads": "llmcore.runtime",
    "bench": None,
    "data": None,
    "formats": None,
    "losses": None,
    "models": None,
    "nn": None,
    "ops": None,
    "optim": None,
    "train": None,
}

__all__ = ["__version__", *_LAZY]

__getattr__, __dir__ = lazy(__name__, _LAZY)
