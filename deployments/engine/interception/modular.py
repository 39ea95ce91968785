"""Modular pipelines of diffusers: what their blocks take and return.

A whole pipeline says so in the signature of its ``__call__``; a modular one takes any keywords, and
its blocks state their inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import diffusers
from diffusers.modular_pipelines.modular_pipeline import ModularPipeline
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

RESULTS = ("images", "videos", "audios", "audio", "sound", "sampling_rate")
"""Outputs of blocks that are delivered. All others are states on the way there."""


def is_modular(kind: type) -> bool:
    return issubclass(kind, ModularPipeline)


@cache
def default_blocks(kind: type[ModularPipeline]) -> Any:
    """Blocks of the class, with which its weights are loaded."""
    return getattr(diffusers, str(kind.default_blocks_name))()


@cache
def block_inputs(kind: type[ModularPipeline]) -> frozenset[str]:
    """Names of the inputs of the blocks, and ``output``, which chooses their results."""
    named = (each.name for each in default_blocks(kind).inputs)
    return frozenset(name for name in named if name is not None) | {"output"}


@cache
def block_results(kind: type[ModularPipeline]) -> tuple[str, ...]:
    """Those of ``RESULTS`` that the blocks make."""
    made = {each.name for each in default_blocks(kind).outputs}
    return tuple(name for name in RESULTS if name in made)


def hide_progress_bars(pipeline: Any) -> None:
    """Disable the progress bars of a pipeline, of pipelines inside it, and of its blocks."""
    pipeline.set_progress_bar_config(disable=True)
    for each in vars(pipeline).values():
        if isinstance(each, DiffusionPipeline):
            hide_progress_bars(each)
    for each in _inside(getattr(pipeline, "_blocks", None)):
        if hasattr(each, "set_progress_bar_config"):
            each.set_progress_bar_config(disable=True)


def _inside(blocks: Any) -> Iterator[Any]:
    for each in getattr(blocks, "sub_blocks", {}).values():
        yield each
        yield from _inside(each)
