"""The recipe that fits this machine, in words."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.domain.endpoint import Recipe, fitting


def said(recipes: Sequence[Recipe], memory: int | None) -> str:
    """``recipes`` ascend by memory, and there is one at least; ``memory`` is that of the smallest
    GPU, in bytes; None: there is none."""
    least = recipes[0].memory_gb
    if memory is None:
        return f"none: no GPU is found on this machine; from {least:g} GB on there is one"
    chosen = fitting(recipes, memory)
    if chosen is None:
        return f"none: this machine's GPU has {memory / 1e9:.0f} GB, and it takes {least:g} GB"
    return (
        f"{chosen.precision}, offload {chosen.offload}, hot: {', '.join(chosen.hot)} "
        f"(for {chosen.memory_gb:g} GB; this machine has {memory / 1e9:.0f})"
    )
