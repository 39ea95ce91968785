# ruff: noqa: SLF001 - torch has no other way to let a compiled module run uncompiled
"""Compilation of the blocks that a denoiser repeats: one graph for all blocks of a kind.

Blocks are compiled with dynamic sizes, once for all calls. The number of rows is an exception: a
single row is compiled separately. Both are compiled by a rehearsal before anybody gets the
pipeline. Afterwards nothing is compiled any more: a call for which no code fits, such as one of
another dtype, runs as written. Else all generations would wait for the compiler.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from deployments.engine.errors import release_frames
from deployments.engine.interception.components import (
    KnownDenoisers,
    looks_like_denoiser,
    modules_of,
)
from deployments.engine.interception.model_traits import ModelTraits
from deployments.engine.interception.pipeline import InterceptedPipeline
from deployments.engine.interception.proxy import ComponentCall
from deployments.engine.merging.arguments import ContentDigests
from deployments.engine.merging.plan import NotMergeable, plan_merge
from deployments.engine.merging.stack import stack
from serve_app.domain.errors import Misconfigured

log = logging.getLogger(__name__)


def compile_regions(pipeline: Any, backend: str = "inductor") -> None:
    """Compile from now on until ``rehearse`` has ended; the first calls take seconds to minutes.

    Raises ``Misconfigured`` if diffusers names no repeated blocks for any denoiser.
    """
    denoisers = with_repeated_blocks(pipeline)
    if not denoisers:
        raise Misconfigured(
            f"{type(pipeline).__name__} has no denoiser for which diffusers names blocks to "
            "compile. Leave out `compile` in its recipe."
        )
    for module in denoisers:
        module.compile_repeated_blocks(dynamic=True, backend=backend)
        compiled = [(each, each._compiled_call_impl) for each in module.modules()]
        module.compiled_regions = [each for each in compiled if each[1] is not None]


def run_as_written(denoiser: Any) -> None:
    """Run the blocks uncompiled until ``run_compiled``.

    With LoRAs, whose rows differ from call to call, they would be compiled again and again, while
    all generations wait.
    """
    for block, _ in _regions(denoiser):
        block._compiled_call_impl = None


def run_compiled(denoiser: Any) -> None:
    """Run the blocks compiled again. Does nothing without compiled blocks."""
    for block, compiled in _regions(denoiser):
        block._compiled_call_impl = compiled


@contextmanager
def as_written(denoiser: Any) -> Generator[None]:
    """Run the blocks uncompiled inside the block."""
    before = [(block, block._compiled_call_impl) for block, _ in _regions(denoiser)]
    run_as_written(denoiser)
    try:
        yield
    finally:
        for block, compiled in before:
            block._compiled_call_impl = compiled


def _only_run_compiled(denoiser: Any) -> None:
    """Compile nothing more: run compiled code where it fits, and blocks as written elsewhere."""
    denoiser.compiled_regions = [
        (block, torch._dynamo.run(block._call_impl)) for block, _ in _regions(denoiser)
    ]
    run_compiled(denoiser)


def _regions(denoiser: Any) -> Sequence[tuple[Any, Any]]:
    """Pairs of a block and its compiled call."""
    return vars(denoiser).get("compiled_regions", ())


def rehearse(
    pipeline: Any, arguments: Callable[[], Mapping[str, Any]], declarations: ModelTraits
) -> None:
    """Compile all blocks by a call of ``pipeline(**arguments())``, for one row and for several.

    If the arguments contain a ``view``, that is called instead. It is slow and computes, so call it
    on a separate thread. If it fails, the blocks run uncompiled, and a warning is logged.
    """
    try:
        _rehearse(pipeline, arguments(), declarations)
        for denoiser in with_repeated_blocks(pipeline):
            _only_run_compiled(denoiser)
    except Exception as error:
        log.warning(
            "%s cannot be compiled and runs uncompiled, which is slower.",
            type(pipeline).__name__,
            exc_info=True,
        )
        release_frames(error)
        for denoiser in with_repeated_blocks(pipeline):
            run_as_written(denoiser)
            denoiser.compiled_regions = ()


def _rehearse(pipeline: Any, arguments: Mapping[str, Any], declarations: ModelTraits) -> None:
    first: dict[torch.nn.Module, ComponentCall] = {}
    given_to = {name: value for name, value in arguments.items() if name != "view"}
    called = arguments.get("view", pipeline)

    def keep(module: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        first.setdefault(module, ComponentCall(module, given, named))

    hooks = [
        each.register_forward_pre_hook(keep, with_kwargs=True)
        for each in with_repeated_blocks(pipeline)
    ]
    with torch.no_grad():
        try:
            # Schedulers keep state from their steps; the copy has its own.
            InterceptedPipeline(called, KnownDenoisers()).copy(lambda: None)(**given_to)
        finally:
            for hook in hooks:
                hook.remove()
        for call in first.values():
            try:
                plan = plan_merge(call, ContentDigests(), declarations.of(type(call.module)))
            except NotMergeable:
                continue
            stack([plan, plan]).call(call.module)


def with_repeated_blocks(pipeline: Any) -> list[Any]:
    """Denoisers of a pipeline for which diffusers names repeated blocks."""
    return [
        module
        for name, module in modules_of(pipeline)
        if looks_like_denoiser(name, module) and getattr(module, "_repeated_blocks", None)
    ]
