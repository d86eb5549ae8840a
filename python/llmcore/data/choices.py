"""What people choose: every choice is on the disk when it is made, can be undone, and a stopped session goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from llmcore._files import read_json, write_atomically
from llmcore.errors import CorpusError


class ChoiceFile:
    """Pairs {"prompt", "chosen", "rejected"} as JSON lines, and beside them `NAME.progress`: how long the file was after
    each prompt. What is longer was not finished and is cut off."""

    def __init__(self, path: str | os.PathLike, prompts: Sequence[str]):
        """Open or begin a file. CorpusError where it holds something else, or choices about other prompts."""
        self.path, self.prompts = Path(path), list(prompts)
        self._progress = self.path.with_name(self.path.name + ".progress")
        self._sizes = [0]  # of the file, after each prompt that was answered
        if self._progress.exists():
            self._resume()
        elif self.path.exists() and self.path.stat().st_size:
            raise CorpusError(
                "prefer", f"{self.path} exists, and {self._progress.name} beside it does not: give another --out"
            )

    @property
    def next(self) -> int:
        """Return the number of the prompt that is asked next."""
        return len(self._sizes) - 1

    @property
    def pairs(self) -> int:
        """Return how many pairs the file has."""
        return self.path.read_bytes().count(b"\n") if self.path.exists() else 0

    def choose(self, answers: Sequence[str], best: int) -> None:
        """Record that one answer to the next prompt is better than all that differ from it."""
        chosen, prompt = answers[best], self.prompts[self.next]
        others = dict.fromkeys(a for a in answers if a != chosen)
        lines = [
            json.dumps({"prompt": prompt, "chosen": chosen, "rejected": other}, ensure_ascii=False) + "\n"
            for other in others
        ]
        self._append("".join(lines).encode())

    def pass_over(self) -> None:
        """Record that the next prompt has no best answer."""
        self._append(b"")

    def undo(self) -> bool:
        """Take the last choice back; False if there is none."""
        if self.next == 0:
            return False
        self._sizes.pop()
        self._save()  # first: what is longer than that is cut off again
        self._cut()
        return True

    def _append(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._sizes.append(self._sizes[-1] + len(data))
        self._save()

    def _save(self) -> None:
        state = {"prompts": self.prompts, "sizes": self._sizes}
        write_atomically(self._progress, json.dumps(state, ensure_ascii=False).encode())

    def _cut(self) -> None:
        if self.path.exists():
            os.truncate(self.path, self._sizes[-1])

    def _resume(self) -> None:
        try:
            state = read_json(self._progress, "prefer")
            sizes, prompts = state["sizes"], state["prompts"]
            if not (isinstance(sizes, list) and sizes[:1] == [0] and all(isinstance(s, int) for s in sizes)):
                raise ValueError
        except (ValueError, KeyError):
            raise CorpusError(
                "prefer", self._progress, expected="the progress of a session", got="something else"
            ) from None
        if prompts != self.prompts:
            raise CorpusError("prefer", f"{self.path} is about other prompts: give another --out")
        size = self.path.stat().st_size if self.path.exists() else 0
        if sorted(sizes) != sizes or sizes[-1] > size:
            raise CorpusError(
                "prefer", self.path, expected=f"at least {sizes[-1]} bytes", got=f"{size}: it was changed"
            )
        self._sizes = sizes
        self._cut()
