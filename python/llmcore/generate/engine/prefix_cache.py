"""The prefixes whose keys and values are cached: a tree of blocks (as in SGLang's radix attention, Zheng et al. 2024), so
that a system prompt, or a chat so far, is computed once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from llmcore._sequences import common_prefix
from llmcore.models.kv_cache import BLOCK, BlockPool

_LOOKED_AT = 256  # how many of the newest prefixes with the same first token are compared


@dataclass(eq=False)
class Node:
    """A block and the tokens of its positions; only full blocks have children."""

    tokens: tuple[int, ...]
    block: int
    parent: Node | None
    used: int = 0  # the time of its last use
    children: dict[int, list[Node]] = field(default_factory=dict)  # by their first token


class PrefixCache:
    """The tree holds one reference to each of its blocks. Positions of a block never change once they are computed, so a
    request that shares only the first ones copies them."""

    def __init__(self, pool: BlockPool):
        self._pool = pool
        self._root = Node((), -1, None)
        self._clock = itertools.count(1)
        self._size = 0
        self.changing = False  # also after an exception in the middle of a change: then it is of no use any more

    def __len__(self) -> int:
        """Return how many blocks the tree holds."""
        return self._size

    def find(self, tokens: Sequence[int]) -> tuple[list[int], tuple[int, int] | None]:
        """Find the longest cached prefix of `tokens`: the blocks that it fills, and (block, positions) of one whose first
        positions continue it, or None. The blocks are borrowed: retain them before anything is evicted."""
        node, blocks = self._root, list[int]()
        now = next(self._clock)
        for start in range(0, len(tokens), BLOCK):
            part = tuple(tokens[start : start + BLOCK])
            best, same = None, 0
            for child in itertools.islice(reversed(node.children.get(part[0], ())), _LOOKED_AT):
                n = common_prefix(child.tokens, part)
                if n > same:
                    best, same = child, n
                    if n == len(part):
                        break
            if best is None:
                return blocks, None
            best.used = now
            if same < BLOCK:
                return blocks, (best.block, same)
            blocks.append(best.block)
            node = best
        return blocks, None

    def blocks(self) -> Iterator[int]:
        """Yield the blocks that the tree holds."""
        return (node.block for node in self.nodes())

    def add(self, tokens: Sequence[int], blocks: Sequence[int]) -> None:
        """Add blocks that hold the keys and values of `tokens`; the last of them may not be full."""
        self.changing = True
        self._add(tokens, blocks)
        self.changing = False

    def _add(self, tokens: Sequence[int], blocks: Sequence[int]) -> None:
        node = self._root
        now = next(self._clock)
        for i, start in enumerate(range(0, len(tokens), BLOCK)):
            part = tuple(tokens[start : start + BLOCK])
            siblings = node.children.setdefault(part[0], [])
            found = None
            for child in siblings:
                if child.block == blocks[i] or len(child.tokens) >= len(part):
                    same = common_prefix(child.tokens, part)
                    if same == len(part) or (child.block == blocks[i] and same == len(child.tokens)):
                        found = child
                        break
            if found is None:
                found = Node(part, self._pool.retain(blocks[i]), node)
                siblings.append(found)
                self._size += 1
                # Leaves that are a prefix of this block are superseded.
                for child in [c for c in siblings if len(c.tokens) < len(part) and part[: len(c.tokens)] == c.tokens]:
                    self._remove(child)
            elif len(found.tokens) < len(part):
                found.tokens = part
            found.used = now
            if len(found.tokens) < BLOCK:
                return
            node = found

    def evict(self, blocks: int) -> int:
        """Forget prefixes that no request uses, the least recently used first, until so many blocks are free. Returns how
        many were freed."""
        freed = 0
        while freed < blocks:
            leaves = [n for n in self._leaves() if self._pool.references(n.block) == 1]
            if not leaves:
                break
            # Several at once, because finding the leaves walks the whole tree.
            for leaf in sorted(leaves, key=lambda n: n.used)[: max(blocks - freed, len(leaves) // 8)]:
                self._remove(leaf)
                freed += 1
        return freed

    def clear(self) -> None:
        """Forget all prefixes."""
        while leaves := list(self._leaves()):
            for leaf in leaves:
                self._remove(leaf)

    def _leaves(self) -> Iterator[Node]:
        return (node for node in self.nodes() if not node.children)

    def nodes(self) -> Iterator[Node]:
        """Yield all blocks with their tokens, each after the one before it."""
        stack = [c for siblings in self._root.children.values() for c in siblings]
        while stack:
            node = stack.pop()
            stack += [c for siblings in node.children.values() for c in siblings]
            yield node

    def _remove(self, node: Node) -> None:
        assert node.parent is not None
        was, self.changing = self.changing, True
        siblings = node.parent.children[node.tokens[0]]
        siblings.remove(node)
        if not siblings:
            del node.parent.children[node.tokens[0]]
        self._pool.release(node.block)
        self._size -= 1
        self.changing = was
