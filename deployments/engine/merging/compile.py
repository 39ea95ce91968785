# ruff: noqa: SLF001 - torch has no other way to let a compiled module run as it is
"""The blocks that a denoiser repeats, compiled by torch: one graph for all of a kind.

Compiled is at the first call, with that call's shapes; then, with sizes that may be any, for all
others. Rows are an exception: one alone is compiled of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from deployments.engine.content import Digests
from deployments.engine.declarations import Declarations
from deployments.engine.denoisers import KnownDenoisers, looks_like_one, modules_of
from deployments.engine.failures import release_frames
from deployments.engine.interception import InterceptedPipeline
from deployments.engine.merge_plan import plan_of, woven
from deployments.engine.roles import Refused
from deployments.engine.stand_in import DenoiserCall
from serve_app.domain.errors import Misconfigured

log = logging.getLogger(__name__)


def compile_regions(pipeline: Any, backend: str = "inductor") -> None:
    """From now on; the first calls take seconds to minutes. ``Misconfigured`` where diffusers does
    not say of any denoiser which blocks it repeats."""
    denoisers = _with_regions(pipeline)
    if not denoisers:
        raise Misconfigured(
            f"{type(pipeline).__name__} has no denoiser of which diffusers says what can be "
            "compiled. Leave out `compile` in its recipe."
        )
    for module in denoisers:
        module.compile_repeated_blocks(dynamic=True, backend=backend)
        compiled = [(each, each._compiled_call_impl) for each in module.modules()]
        module.compiled_regions = [each for each in compiled if each[1] is not None]


def run_as_written(denoiser: Any) -> None:
    """Its regions run as they are until ``run_compiled``. With adapters, whose rows differ from
    call to call, they would be compiled again and again, while everybody waits."""
    for block, _ in _regions(denoiser):
        block._compiled_call_impl = None


def run_compiled(denoiser: Any) -> None:
    """Nothing happens where it has no regions."""
    for block, compiled in _regions(denoiser):
        block._compiled_call_impl = compiled


def _regions(denoiser: Any) -> Sequence[tuple[Any, Any]]:
    """Blocks, and what runs in place of each."""
    return vars(denoiser).get("compiled_regions", ())


def rehearse(
    pipeline: Any, arguments: Callable[[], Mapping[str, Any]], declarations: Declarations
) -> None:
    """Have all regions compiled by a call of ``pipeline(**arguments())``, or of the ``view`` among
    the arguments, for the rows of one and of several that share a forward. Slow, and computes: on a
    thread that nobody waits for. Where it fails they run uncompiled, as the log says."""
    try:
        _rehearse(pipeline, arguments(), declarations)
    except Exception as error:
        log.warning(
            "%s cannot be compiled, and runs as it is.", type(pipeline).__name__, exc_info=True
        )
        release_frames(error)
        for denoiser in _with_regions(pipeline):
            run_as_written(denoiser)
            denoiser.compiled_regions = ()


def _rehearse(pipeline: Any, arguments: Mapping[str, Any], declarations: Declarations) -> None:
    first: dict[torch.nn.Module, DenoiserCall] = {}
    given_to = {name: value for name, value in arguments.items() if name != "view"}
    called = arguments.get("view", pipeline)

    def keep(module: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        first.setdefault(module, DenoiserCall(module, given, named))

    hooks = [
        each.register_forward_pre_hook(keep, with_kwargs=True) for each in _with_regions(pipeline)
    ]
    with torch.no_grad():
        try:
            # Solvers keep what they did; the copy has its own.
            InterceptedPipeline(called, KnownDenoisers()).copy(lambda: None)(**given_to)
        finally:
            for hook in hooks:
                hook.remove()
        for call in first.values():
            try:
                plan = plan_of(call, Digests(), declarations.of(type(call.module)))
            except Refused:
                continue
            woven([plan, plan]).call(call.module)


def _with_regions(pipeline: Any) -> list[Any]:
    return [
        module
        for name, module in modules_of(pipeline)
        if looks_like_one(name, module) and getattr(module, "_repeated_blocks", None)
    ]
