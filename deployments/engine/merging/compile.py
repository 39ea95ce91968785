# ruff: noqa: SLF001 - torch has no other way to let a compiled module run uncompiled
"""Compilation of the blocks that a denoiser repeats, one graph for all blocks of a kind, and of the
decoder of an image autoencoder.

Blocks are compiled with dynamic sizes, once for all calls. The number of rows is an exception: a
single row is compiled separately. Both are compiled while requests run (``late_code.py``), or by a
rehearsal before anybody gets the pipeline. Afterwards nothing is compiled on the engine's thread: a
call for which no code fits, such as one of another dtype, runs as written. Else all generations
would wait for the compiler. Calls with LoRAs get code of their own later (``lora/compiled.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from diffusers import AutoencoderKL

from deployments.engine.accelerator.errors import is_out_of_memory
from deployments.engine.accelerator.interface import Accelerator
from deployments.engine.errors import release_frames
from deployments.engine.interception.components import (
    KnownDenoisers,
    looks_like_denoiser,
    modules_of,
)
from deployments.engine.interception.model_traits import ModelTraits
from deployments.engine.interception.pipeline import InterceptedPipeline
from deployments.engine.interception.proxy import ComponentCall
from deployments.engine.merging.arguments import ContentDigests, map_tensors, tensors_in
from deployments.engine.merging.parts import parts_of
from deployments.engine.merging.plan import MergePlan, NotMergeable, plan_merge
from deployments.engine.merging.stack import stack
from serve_app.domain.errors import Misconfigured

log = logging.getLogger(__name__)

DIVIDES_ROWS = "divides_rows"
"""Attribute of a denoiser whose rows several devices divide, so that single ones need code."""

RECORDS_GRAPHS = "records_graphs"
"""Attribute of a denoiser whose forwards are recorded and replayed."""


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
        blocks = [(submodule, submodule._compiled_call_impl) for submodule in module.modules()]
        module.compiled_regions = [region for region in blocks if region[1] is not None]
        module.compiler_backend = backend


def compile_decoder(pipeline: Any, backend: str = "inductor") -> None:
    """Compile the decoder of the image autoencoder from now on until ``rehearse`` has ended.

    Its sizes are dynamic, so tiles have the same code. Raises ``Misconfigured`` if the pipeline has
    no ``AutoencoderKL``.
    """
    vae: Any = getattr(pipeline, "vae", None)
    if not isinstance(vae, AutoencoderKL):
        raise Misconfigured(
            f"{type(pipeline).__name__} has no image autoencoder of the class AutoencoderKL. Leave "
            "out `compile_decoder` in its recipe."
        )
    decoder: Any = vae.decoder  # pyrefly: ignore[missing-attribute]
    decoder.compile(dynamic=True, backend=backend)
    regions = [(decoder, decoder._compiled_call_impl)]
    vars(vae).update(compiled_regions=regions, compiler_backend=backend)


def compiled_modules(pipeline: Any) -> list[Any]:
    """Denoisers that may be compiled, and the autoencoder if its decoder is."""
    vae = getattr(pipeline, "vae", None)
    decoding = [] if vae is None or not regions_of(vae) else [vae]
    return [*with_repeated_blocks(pipeline), *decoding]


def record_graphs(pipeline: Any) -> None:
    """Let the engine record the forwards of the denoisers, where the device can."""
    for name, module in modules_of(pipeline):
        if looks_like_denoiser(name, module):
            setattr(module, RECORDS_GRAPHS, True)


def run_as_written(denoiser: Any) -> None:
    """Run the blocks uncompiled until ``run_compiled``."""
    for block, _ in regions_of(denoiser):
        block._compiled_call_impl = None


def run_compiled(denoiser: Any) -> None:
    """Run the blocks compiled again. Does nothing without compiled blocks."""
    for block, compiled in regions_of(denoiser):
        block._compiled_call_impl = compiled


@contextmanager
def as_written(denoiser: Any) -> Generator[None]:
    """Run the denoiser's blocks uncompiled until the end of the ``with`` block."""
    before = [(block, block._compiled_call_impl) for block, _ in regions_of(denoiser)]
    run_as_written(denoiser)
    try:
        yield
    finally:
        for block, compiled in before:
            block._compiled_call_impl = compiled


WORKING_SET = 24
"""Bytes that a block holds while it is compiled and compared, as a multiple of its arguments'.

Tensors that live at once in blocks of full width in bfloat16, counted on a CPU: 8 (Wan), 10 and 14
(Flux), 12 (Qwen-Image), 17 (SDXL). The arguments are there twice, beside the output to compare. The
rest is for the allocator and for what no GPU has measured."""


@dataclass(frozen=True, slots=True)
class RehearsedCall:
    """Call of a block in the rehearsal, without values."""

    arguments: Sequence[Any]  # tensors are on the meta device
    keywords: Mapping[str, Any]
    device: torch.device
    mixes: int  # rows of the denoiser's call that may have LoRAs of their own; 1: all have the same

    @property
    def kind(self) -> Hashable:
        return kind_of([self.arguments, self.keywords, self.mixes == 1])

    @property
    def working_bytes(self) -> int:
        """Estimated bytes that the block takes to compute the call, beside its weights."""
        tensors = tensors_in([self.arguments, self.keywords])
        return WORKING_SET * sum(tensor.nbytes for tensor in tensors)

    def on_device(
        self, values: Callable[[torch.Tensor], torch.Tensor] = lambda zeros: zeros
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Arguments with what ``values`` makes of zeros in place of values."""

        def make(like: torch.Tensor) -> torch.Tensor:
            return values(torch.zeros_like(like, device=self.device))

        return map_tensors(make, self.arguments), map_tensors(make, self.keywords)


def distinct(
    calls: Mapping[torch.nn.Module, Sequence[RehearsedCall]],
) -> Mapping[torch.nn.Module, Sequence[RehearsedCall]]:
    """Return one block of each kind: code for it fits those that are built and called alike.

    What is compiled on another thread keeps these alone, so an evicted model leaves the device.
    """
    blocks = dict[Hashable, torch.nn.Module]()
    for block, its in calls.items():
        blocks.setdefault((_build_of(block), tuple(call.kind for call in its)), block)
    return {block: calls[block] for block in blocks.values()}


def _build_of(block: torch.nn.Module) -> Hashable:
    """Layers, sizes and settings of a block."""
    return tuple(
        (
            path,
            type(module),
            *(
                (name, parameter.shape, parameter.dtype)
                for name, parameter in module.named_parameters(recurse=False)
            ),
            *(
                (name, value)
                for name, value in vars(module).items()
                if isinstance(value, _SETTINGS)
            ),
        )
        for path, module in block.named_modules()
    )


_SETTINGS = (bool, int, float, str)


def kind_of(value: Any) -> Hashable:
    """Kind of a call's arguments: what compiled code with dynamic sizes depends on."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.device, tuple(size == 1 for size in value.shape)
    if isinstance(value, Mapping):
        return tuple((name, kind_of(item)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return type(value), tuple(kind_of(item) for item in value)
    return value if value is None or isinstance(value, bool | str) else type(value)


def without_values(
    arguments: Sequence[Any], keywords: Mapping[str, Any], mixes: int
) -> RehearsedCall | None:
    """Return a block's call without values; None for one without tensors."""
    tensor = next(tensors_in([arguments, keywords]), None)
    if tensor is None:
        return None

    def meta(value: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(value, device="meta")

    return RehearsedCall(
        map_tensors(meta, arguments), map_tensors(meta, keywords), tensor.device, mixes
    )


class OwnForward(Exception):
    """Module whose forward was replaced, so that a copy would run the module itself."""


def copy_with(module: Any, children: Mapping[str, Any]) -> Any:
    """Return a copy of a block that shares its weights and has other children.

    Code that is compiled for it fits the block with such children. Raises ``OwnForward``.
    """
    if "forward" in vars(module):
        raise OwnForward
    copy = object.__new__(type(module))
    copy.__dict__ = {**vars(module), "_modules": {**module._modules, **children}}
    return copy


def rehearsed_calls(denoiser: Any) -> Mapping[torch.nn.Module, Sequence[RehearsedCall]]:
    """Calls of each compiled block. Empty if there is none."""
    return vars(denoiser).get("rehearsed_calls", {})


def compile_block(block: Any, backend: Any) -> Callable[..., Any]:
    """Return the call of ``block`` to be compiled when it is first called, with dynamic sizes.

    ``backend``: that of its denoiser. To be used in ``many_codes``.
    """
    return torch.compile(block._call_impl, dynamic=True, backend=backend)


def run_only(block: Any) -> Callable[..., Any]:
    """Return the call of ``block`` that runs code where it fits, and as written elsewhere.

    It compiles nothing.
    """
    return torch._dynamo.run(block._call_impl)


@contextmanager
def compile_stream(accelerator: Accelerator) -> Generator[None]:
    """Block in which the calling thread compiles, beside what the engine's thread computes.

    At its end, the memory that was freed in its stream is free for others.
    """
    stream = accelerator.stream("compile")
    with stream.active():
        try:
            yield
        finally:
            stream.synchronize()
            accelerator.memory.release()


def many_codes() -> AbstractContextManager[Any]:
    """Allow code for as many calls as there are, on this thread.

    torch's limit of 8 for each class of blocks is for programs that compile by mistake. All models
    with blocks of a class share it, and so do the buckets of LoRAs.
    """
    return torch._dynamo.config.patch(recompile_limit=_MOST_CODES)


_MOST_CODES = 128


def _only_run_compiled(denoiser: Any) -> None:
    """Compile nothing more: run compiled code where it fits, and blocks as written elsewhere."""
    denoiser.compiled_regions = [(block, run_only(block)) for block, _ in regions_of(denoiser)]
    run_compiled(denoiser)


def regions_of(denoiser: Any) -> Sequence[tuple[Any, Any]]:
    """Pairs of a block and its compiled call."""
    return vars(denoiser).get("compiled_regions", ())


def rehearse(
    pipeline: Any,
    arguments: Callable[[], Mapping[str, Any]],
    declarations: ModelTraits,
    *,
    give_up: bool = True,
) -> None:
    """Compile all blocks by a call of ``pipeline(**arguments())``, for one row and for several.

    If the arguments contain a ``view``, that is called instead. It is slow and computes, so call it
    on a separate thread. If it fails, the blocks run uncompiled, and a warning is logged.

    ``give_up``: also if the device runs out of memory; else that error is raised, and it may be
    called again.
    """
    try:
        with _decoded_alone_and_merged(getattr(pipeline, "vae", None)):
            _rehearse(pipeline, arguments(), declarations)
        for module in compiled_modules(pipeline):
            _only_run_compiled(module)
    except Exception as error:
        if not give_up and is_out_of_memory(error):
            raise
        log.warning(
            "%s cannot be compiled and runs uncompiled, which is slower.",
            type(pipeline).__name__,
            exc_info=True,
        )
        release_frames(error)
        for module in compiled_modules(pipeline):
            run_as_written(module)
            vars(module).update(compiled_regions=(), rehearsed_calls={})


@contextmanager
def _decoded_alone_and_merged(vae: Any) -> Generator[None]:
    """Compile the decoder, if it is to be, by the latents that it gets in the ``with`` block: for
    one row and for several."""
    regions = () if vae is None else regions_of(vae)
    inputs = list[torch.Tensor]()
    hooks = [
        decoder.register_forward_pre_hook(lambda _, latents: inputs.append(latents[0]))
        for decoder, _ in regions
    ]
    for decoder, _ in regions:
        decoder._compiled_call_impl = None  # sizes of one call are enough
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if not regions:
        return
    run_compiled(vae)
    if not inputs:
        raise RuntimeError("The rehearsal decoded nothing.")
    with torch.no_grad(), many_codes():
        for (decoder, _), rows in product(regions, (1, 2)):
            decoder(torch.cat([inputs[0][:1]] * rows))


class _Recorder:
    """Recorder of the first call of each compiled block."""

    def __init__(self, denoisers: Sequence[Any]) -> None:
        self._denoisers = denoisers

    @contextmanager
    def recording(self, mixes: int = 1) -> Generator[None]:
        """Record the calls of each block that are the first in the block."""
        for denoiser in self._denoisers:
            for block, run in regions_of(denoiser):
                calls = denoiser.rehearsed_calls.setdefault(block, [])
                block._compiled_call_impl = partial(
                    self._record_and_run, calls, len(calls), mixes, run
                )
        try:
            yield
        finally:
            for denoiser in self._denoisers:
                run_compiled(denoiser)

    def _record_and_run(
        self,
        calls: list[RehearsedCall],
        before: int,
        mixes: int,
        run: Callable[..., Any],
        *arguments: Any,
        **keywords: Any,
    ) -> Any:
        if (
            len(calls) == before
            and (call := without_values(arguments, keywords, mixes)) is not None
        ):
            calls.append(call)
        return run(*arguments, **keywords)


def _rehearse(pipeline: Any, arguments: Mapping[str, Any], declarations: ModelTraits) -> None:
    denoisers = with_repeated_blocks(pipeline)
    for denoiser in denoisers:
        denoiser.rehearsed_calls = {}
    recorder = _Recorder(denoisers)
    first: dict[torch.nn.Module, ComponentCall] = {}
    given_to = {name: value for name, value in arguments.items() if name != "view"}
    called = arguments.get("view", pipeline)

    def keep(module: torch.nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        first.setdefault(module, ComponentCall(module, args, named))

    hooks = [net.register_forward_pre_hook(keep, with_kwargs=True) for net in denoisers]
    with torch.no_grad(), many_codes():
        try:
            # Schedulers keep state from their steps; the copy has its own.
            with recorder.recording():
                InterceptedPipeline(called, KnownDenoisers()).copy(lambda _: None)(**given_to)
        finally:
            for hook in hooks:
                hook.remove()
        for call in first.values():
            try:
                plan = plan_merge(call, ContentDigests(), declarations.of(type(call.module)))
            except NotMergeable:
                continue
            with recorder.recording(mixes=2 * plan.rows.count):
                stack([plan, plan]).call(call.module)
            if plan.rows.count > 1 and vars(call.module).get(DIVIDES_ROWS):
                with recorder.recording():
                    _compute_single_row(plan, call.module)


def _compute_single_row(plan: MergePlan, module: Any) -> None:
    try:
        parts_of(plan, plan.rows.count)[0].arguments.call(module)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        release_frames(error)
        log.info("%s does not compute single rows: %r", type(module).__name__, error)


def with_repeated_blocks(pipeline: Any) -> list[Any]:
    """Denoisers of a pipeline for which diffusers names repeated blocks."""
    return [
        module
        for name, module in modules_of(pipeline)
        if looks_like_denoiser(name, module) and getattr(module, "_repeated_blocks", None)
    ]
