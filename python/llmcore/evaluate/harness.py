"""A model for EleutherAI's lm-evaluation-harness (`pip install 'llmcore[eval]'`):

import lm_eval, llmcore
from llmcore.evaluate.harness import HarnessLM

lm_eval.simple_evaluate(HarnessLM(llmcore.load("run")), tasks=["hellaswag"])
"""

from __future__ import annotations

from typing import Any

try:
    from lm_eval.api.model import TemplateLM
except ImportError as error:
    raise ImportError("[eval] the harness needs lm-eval: pip install 'llmcore[eval]'") from error

from llmcore.errors import Error
from llmcore.evaluate.likelihood import likelihoods
from llmcore.generate import LanguageModel


class HarnessLM(TemplateLM):
    """The interface that the harness expects of a model. batch_size: sequences that are scored at a time."""

    def __init__(self, lm: LanguageModel, batch_size: int = 16):
        super().__init__()
        self.lm, self.batch_size = lm, batch_size

    @property
    def eot_token_id(self) -> int:
        ends = self.lm.end_ids
        if not ends:
            raise Error("eval", expected="a model with an end-of-text token", got="one without")
        return ends[0]

    @property
    def prefix_token_id(self) -> int:
        """The first token of a text without context."""
        begin = self.lm.prompt_ids("")
        return begin[0] if begin else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        return str(self.lm.source or "llmcore").replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self.lm.tokenizer.encode_ordinary(string)

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        return [(f.logprob, f.greedy) for f in likelihoods(self.lm.model, pairs, self.batch_size)]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of whole texts, in windows of the context; every token counts once."""
        found = []
        for (text,) in (r.args for r in requests):
            ids, room = self.tok_encode(text), self.lm.config.context
            pairs = [
                ([self.prefix_token_id] if not start else [ids[start - 1]], ids[start : start + room])
                for start in range(0, len(ids), room)
            ]
            found.append(sum(f.logprob for f in likelihoods(self.lm.model, pairs, self.batch_size)))
        return found

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Generate greedily, unless a task asks for samples."""
        written = []
        for prompt, options in (r.args for r in requests):
            until = options.get("until") or []
            temperature = float(options.get("temperature") or 0.0) if options.get("do_sample") else 0.0
            limit = int(options.get("max_gen_toks") or 256)
            room = max(1, self.lm.config.context - limit)
            done = self.lm.generate(
                self.lm.prompt_ids(prompt)[-room:],
                limit,
                temperature=temperature,
                top_p=float(options.get("top_p") or 1.0),
                stop=[until] if isinstance(until, str) else list(until),
            )
            written.append(str(done))
        return written
