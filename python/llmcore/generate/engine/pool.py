"""How much memory an engine takes for keys and values."""

from __future__ import annotations

import os

from llmcore._device import cuda_info
from llmcore.errors import Error
from llmcore.models import CausalLM
from llmcore.models.kv_cache import BlockPool, blocks_for


def new_pool(model: CausalLM, cache_bytes: int | None, dtype: str | None, max_batch: int) -> BlockPool:
    """Return a pool of blocks for up to max_batch contexts. cache_bytes, dtype: as of `Engine`. Raises ValueError for less
    than a block."""
    context = blocks_for(model.config.context)
    size = model.new_pool(1, dtype).bytes_per_block
    if cache_bytes is None:
        cache_bytes = max(_default_bytes(model.device), min(context, blocks_for(8192)) * size)
    blocks = min(cache_bytes // size, context * max_batch) + 1
    if blocks < 2:
        raise Error("engine", expected=f"cache_bytes of at least {size}, a block's", got=cache_bytes)
    return model.new_pool(blocks, dtype)


def _default_bytes(device: str) -> int:
    """CPU memory is taken as it is used, a GPU's at once."""
    if device == "cuda":
        return cuda_info()["free_memory"] // 4
    return min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8, 1 << 30)
