"""Modular pipelines of diffusers: what their blocks take and return.

A whole pipeline says so in the signature of its ``__call__``; a modular one takes any keywords, and
its blocks state their inputs and outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from typing import Any, TypeGuard

import diffusers
from diffusers.modular_pipelines.modular_pipeline import ModularPipeline
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

RESULTS = ("images", "videos", "audios", "audio", "sound", "sampling_rate")
"""Outputs of blocks that are delivered. All others are states on the way there."""


OF_REQUESTS = frozenset({"prompt", "height", "width", "num_frames"})
"""Arguments that steps rewrite or choose: FLUX.3 and Ideogram 4 the prompt, ERNIE-Image also the
size, LTX-2 the number of frames."""


def is_modular(kind: type) -> bool:
    return issubclass(kind, ModularPipeline)


def is_pipeline(kind: object) -> TypeGuard[type]:
    """Return whether it is a class of a whole pipeline, or of a modular one with blocks of
    diffusers."""
    if not isinstance(kind, type):
        return False
    named = getattr(kind, "default_blocks_name", None)
    return issubclass(kind, DiffusionPipeline) or (is_modular(kind) and named is not None)


def blocks_of(kind: Any, available: Collection[str] | None = None) -> Any:
    """Blocks of the class. A step that only rewrites or chooses what a request says is left out if
    not all of its components are ``available``."""
    blocks = getattr(diffusers, kind.default_blocks_name)()
    for name, step in list(blocks.sub_blocks.items()):
        outputs = {output.name for output in step.intermediate_outputs}
        rewrites = bool(outputs) and outputs <= OF_REQUESTS
        if available is not None and rewrites and not components_needed(step) <= {*available}:
            del blocks.sub_blocks[name]
    return blocks


def workflows(blocks: Any, available: Collection[str] | None = None) -> Sequence[Any]:
    """The blocks of each workflow whose components are ``available``; of all if None.

    ``ValueError`` names what is missing for any of them.
    """
    named = getattr(blocks, "_workflow_map", None) or ()
    ways = [blocks.get_workflow(name) for name in named] or [blocks]
    if available is None:
        return ways
    usable = [way for way in ways if components_needed(way) <= {*available}]
    if not usable:
        fewest = min((components_needed(way) - {*available} for way in ways), key=len)
        raise ValueError(f"needs {', '.join(sorted(fewest))}, which these weights do not have")
    return usable


def components_needed(blocks: Any) -> frozenset[str]:
    """Names of the components with weights or settings that blocks load."""
    loaded = "from_pretrained"
    expected = blocks.expected_components
    return frozenset(
        component.name for component in expected if component.default_creation_method == loaded
    )


def nested_blocks(blocks: Any) -> Iterator[Any]:
    """Blocks inside other blocks, at all depths."""
    for block in getattr(blocks, "sub_blocks", {}).values():
        yield block
        yield from nested_blocks(block)


@cache
def block_inputs(kind: Any) -> frozenset[str]:
    """Names of the inputs of the blocks, and ``output``, which chooses their results."""
    named = (block_input.name for block_input in blocks_of(kind).inputs)
    return frozenset(name for name in named if name is not None) | {"output"}


@cache
def block_results(kind: Any) -> tuple[str, ...]:
    """Results that the blocks make, by the names of ``RESULTS``."""
    outputs = {output.name for output in blocks_of(kind).outputs}
    return tuple(name for name in RESULTS if name in outputs)


def modular_view(pipeline: Any, kind: Any) -> Any:
    """Create a modular pipeline of class ``kind`` with the components of ``pipeline``.

    Raises ``TypeError`` if a component is missing.
    """
    if kind is type(pipeline):
        return copy.copy(pipeline)
    components = {
        name: component for name, component in pipeline.components.items() if component is not None
    }
    blocks = blocks_of(kind, components)
    try:
        workflows(blocks, components)
    except ValueError as error:
        raise TypeError(f"it {error}") from error
    view = kind(blocks=blocks)
    loaded = view.pretrained_component_names
    view.register_components(**{name: components[name] for name in loaded if name in components})
    hide_progress_bars(view)
    return view


def guider_with(guider: Any, **changes: Any) -> Any:
    """Create a guider like ``guider`` with these settings, which has an effect."""
    return guider.new(**changes, enabled=True)


def hide_progress_bars(pipeline: Any) -> None:
    """Disable the progress bars of a pipeline, of pipelines inside it, and of its blocks."""
    pipeline.set_progress_bar_config(disable=True)
    for part in vars(pipeline).values():
        if isinstance(part, DiffusionPipeline):
            hide_progress_bars(part)
    for part in nested_blocks(getattr(pipeline, "_blocks", None)):
        if hasattr(part, "set_progress_bar_config"):
            part.set_progress_bar_config(disable=True)
