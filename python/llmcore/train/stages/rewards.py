"""Rewards for a policy's answers: plain functions `reward(prompts, completions, **columns) -> list[float | None]`, or reward
models, alone or as a weighted sum. None is no opinion of an answer, whose reward is then the sum of the others."""

from __future__ import annotations

import ast
import importlib.util
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmcore.errors import CorpusError, Error, MissingFileError
from llmcore.train.report import Report

RewardFunction = Callable[..., Sequence[float | None]]
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_CODE = re.compile(r"```(?:python|py)?\n(.*?)(?:```|$)", re.DOTALL)


def arithmetic(prompts, completions, answer: Sequence[str], **columns) -> list[float]:
    """Return 1 for a completion whose last number is the row's `answer`, else 0."""
    found = []
    for text, wanted in zip(completions, answer, strict=True):
        numbers = _NUMBER.findall(text)
        found.append(float(bool(numbers) and float(numbers[-1].replace(",", "")) == float(wanted)))
    return found


def valid_python(prompts, completions, **columns) -> list[float]:
    """Return 1 if the first code block, or without one the whole completion, is Python that parses, else 0."""
    found = []
    for text in completions:
        block = _CODE.search(text)
        code = block[1] if block else text
        try:
            ast.parse(code)
            found.append(float(bool(code.strip())))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            found.append(0.0)
    return found


def length(prompts, completions, words: Sequence[int], **columns) -> list[float]:
    """Return 1 for an answer with as many words as the row's `words`, less in proportion to the difference, at least 0."""
    return [
        max(0.0, 1.0 - abs(len(text.split()) - int(n)) / max(int(n), 1))
        for text, n in zip(completions, words, strict=True)
    ]


BUILT_IN: dict[str, RewardFunction] = {"arithmetic": arithmetic, "valid_python": valid_python, "length": length}


def open_rewards(names: Sequence[str]) -> dict[str, RewardFunction]:
    """Return the reward function of each name: one of `BUILT_IN`, `FILE.py:FUNCTION` (the file is executed), or the folder
    of a reward model. Raises ValueError or FileNotFoundError for anything else."""
    return {name: _open(name) for name in names}


def _open(name: str) -> RewardFunction:
    if name in BUILT_IN:
        return BUILT_IN[name]
    file, colon, function = name.rpartition(":")
    if colon and file.endswith(".py"):
        return _function_of(Path(file), function)
    if Path(name).is_dir():
        from llmcore.generate.reward_model import RewardModel

        return RewardModel.load(name)
    raise Error(
        "rewards",
        expected=f"one of {', '.join(BUILT_IN)}, FILE.py:FUNCTION, or the folder of a reward model",
        got=f"{name!r:.200}",
    )


def _function_of(file: Path, name: str) -> RewardFunction:
    if not file.is_file():
        raise MissingFileError("rewards", expected=f"{file}, which does not exist")
    spec = importlib.util.spec_from_file_location("llmcore_rewards", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # anything that a user's file may raise
        raise Error("rewards", f"{file}: {_line(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise Error("rewards", expected=f"a function {name} in {file}", got="none")
    return function


class Rewards:
    """A weighted sum of reward functions."""

    def __init__(self, functions: dict[str, RewardFunction], weights: Sequence[float], bad: str, report: Report):
        if not functions:
            raise Error("rewards", expected="at least one reward", got="none")
        weights = list(weights) or [1.0] * len(functions)
        if len(weights) != len(functions):
            raise Error("rewards", expected=f"{len(functions)} reward_weights, one for each", got=len(weights))
        self.functions, self.weights, self._bad, self._report = functions, weights, bad, report
        self.unrewarded = 0  # answers of the last call for which all functions abstained
        self._said = False

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[str], rows: Sequence[dict[str, Any]], where: Sequence[str]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the rewards (N) of answers to rows, which stand where `where` says, and the rewards by each function.

        A function that returns None for an answer abstains: the reward is the sum of the others, and NaN, which is no
        reward, if all abstain (in TRL 0, with a warning). A function that fails or returns NaN is an error, or, with bad
        "skip", makes NaN of the rewards of the answers concerned.
        """
        names = set.intersection(*(set(r) for r in rows)) - {"prompt", "completion", "prompts", "completions"}
        columns = {name: [r[name] for r in rows] for name in sorted(names)}
        total, spoken = np.zeros(len(completions)), np.zeros(len(completions), bool)
        each: dict[str, np.ndarray] = {}
        for (name, function), weight in zip(self.functions.items(), self.weights, strict=True):
            found, abstains = self._asked(name, function, prompts, completions, columns, where)
            total += np.where(abstains, 0.0, weight * found)
            spoken |= ~abstains
            each[name] = found
        total[~spoken] = np.nan
        self.unrewarded = int((~spoken).sum())
        if self.unrewarded and not self._said:
            self._said = True
            self._report.warn(
                f"all rewards are None for {self.unrewarded} of {len(spoken)} answers, such as one to "
                f"{where[int(spoken.argmin())]}: nothing is learned from such answers"
            )
        return total, each

    def _asked(self, name, function, prompts, completions, columns, where) -> tuple[np.ndarray, np.ndarray]:
        """Return what a function says (N), NaN where it abstains or what it says is skipped, and where it abstains."""
        try:
            given = list(function(prompts, completions, **columns))
            abstains = np.array([v is None for v in given], bool)
            found = np.array([math.nan if v is None else float(v) for v in given], np.float64)
        except Exception as error:  # anything that a user's function may raise
            if self._bad == "error":
                raise CorpusError("rewards", f"{name} failed at answers to {where[0]}: {_line(error)}") from error
            self._report.warn(
                f"{name} failed at answers to {where[0]}: {_line(error)}; {len(completions)} answers skipped"
            )
            return np.full(len(completions), np.nan), np.zeros(len(completions), bool)
        if found.shape != (len(completions),):
            raise CorpusError("rewards", expected=f"{len(completions)} rewards of {name}", got=found.size)
        bad = np.flatnonzero(~np.isfinite(found) & ~abstains)
        if bad.size:
            at = int(bad[0])
            what = f"{name} returned {found[at]} for an answer to {where[at]}: {completions[at]!r:.100}"
            if self._bad == "error":
                raise CorpusError("rewards", expected=f"a number, or None to abstain, but {what}")
            self._report.warn(f"{what}; {bad.size} answers skipped")
            found[bad] = math.nan
        return found, abstains


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
