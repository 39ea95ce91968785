# ruff: noqa: SLF001 - torch has no other way to let a compiled module run uncompiled
"""Compilation of blocks and decoders after a load, while requests run them as written.

The first call of a denoiser of each kind is recorded and runs as written. Then copies of its
blocks, which share the weights, are compiled for it on the thread of the compiler. The code is
compared with the blocks as written before it is used. So nobody waits for a compiler, and code
that computes wrongly is not used. Kinds differ in dtypes, in single or several rows, and in what is
given; sizes are dynamic.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from deployments.engine.errors import release_frames
from deployments.engine.merging.arguments import tensors_in
from deployments.engine.merging.compile import (
    OwnForward,
    RehearsedCall,
    compile_block,
    compiled_modules,
    copy_with,
    distinct,
    kind_of,
    many_codes,
    regions_of,
    run_as_written,
    run_compiled,
    run_only,
    without_values,
)
from deployments.engine.merging.verification import agree_within_rounding

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Compilation:
    """Compilation that another thread is to run beside generations."""

    run: Callable[[], None]  # returns at once when its owner is gone
    size: int  # bytes of the device that it is expected to take
    owner: weakref.ref[Any]  # what the code is for


CompileLater = Callable[[Compilation], None]
"""Runs a compilation later, on another thread."""

MOST_KINDS = 8
"""Kinds of calls of a module that get code. Those that come later run as written."""

MOST_FAILURES = 3
"""Failed compilations, after which no more is compiled: memory may have been short."""

_DECODER_WORKING_SET = 280
"""Bytes that a decoder holds while it is compiled, as a multiple of those of the image.

Those of FLUX.1 and SDXL have three tensors of 256 channels at full size, and an image has 3
channels. A tenth is for the allocator. Counted on a CPU; no GPU has measured it."""

_LATE, _PENDING = "late_code", "pending_calls"  # attributes of a module
_Calls = dict[Any, RehearsedCall]  # by block


class DifferentResult(Exception):
    """Compiled code that does not compute what the block computes as written."""


def compile_later(pipeline: Any, later: CompileLater) -> None:
    """Let the modules that are to be compiled run as written until there is code for their calls.

    Call it after ``compile_regions`` and ``compile_decoder``, in place of ``rehearse``.
    """
    for module in compiled_modules(pipeline):
        if regions_of(module):
            is_decoder = module is getattr(pipeline, "vae", None)
            (_LateDecoder if is_decoder else _LateBlocks)(module, later)


def as_written_if(condition: bool, module: Any) -> Any:  # noqa: FBT001 - read as its name
    """Context in which ``module`` runs as written, whatever code has come.

    For calls whose bits must not depend on the time at which code is ready. Modules that were
    compiled before their first call, and those that are not compiled, run as always.
    """
    late = vars(module).get(_LATE) if condition and isinstance(module, torch.nn.Module) else None
    return nullcontext() if late is None else late.hold()


def use_late_code(denoiser: Any) -> None:
    """Use code that has come since the last forward. Otherwise, the next forward does."""
    late = vars(denoiser).get(_LATE)
    if isinstance(late, _LateBlocks):
        late.use_what_is_ready(denoiser)


class _LateCode:
    """Code of one module.

    It keeps neither the module nor its blocks, since what is compiled keeps it: an evicted model
    leaves the device at once, but for the copies.
    """

    def __init__(self, module: Any, later: CompileLater) -> None:
        self.name = type(module).__name__
        self.failures = 0
        self._compiler: Any = module.compiler_backend
        self._later = later
        self._module = weakref.ref(module)
        run_as_written(module)
        regions: list[tuple[Any, Any]] = [(block, None) for block, _ in regions_of(module)]
        vars(module).update({"compiled_regions": regions, "rehearsed_calls": {}, _LATE: self})

    def request(
        self,
        calls: Sequence[tuple[Any, RehearsedCall]],
        size: int,
        done: Callable[[Exception | None], None],
    ) -> None:
        """Compile copies of blocks for a call each; ``done`` gets the error on that thread.

        ``size``: bytes of the device that it takes. Called while the layers of the blocks do not
        change.
        """
        copies = deque((_copy_of(block), call) for block, call in calls)
        self._later(Compilation(partial(self._compile, copies, done), size, self._module))

    def _compile(
        self, copies: deque[tuple[Any, RehearsedCall]], done: Callable[[Exception | None], None]
    ) -> None:
        began, blocks = time.monotonic(), _class_names(copies)
        try:
            with torch.no_grad(), many_codes():
                while copies:
                    if self._module() is None:
                        return  # it was evicted
                    block, call = copies.popleft()
                    _compile_and_compare(compile_block(block, self._compiler), block, call)
        except Exception as error:
            self.failures += 1
            log.warning(
                "%s cannot be compiled and runs uncompiled, which is slower.",
                self.name,
                exc_info=True,
            )
            release_frames(error)
            done(error)
        else:
            done(None)
            log.info(
                "Compiled %s in %.1f s: %s.",
                self.name,
                time.monotonic() - began,
                blocks,
            )
        finally:
            copies.clear()  # an evicted model's weights are freed before the memory is released


class _LateBlocks(_LateCode):
    """Code of a denoiser's blocks. Used on the engine's thread, but for what is compiled."""

    def __init__(self, module: Any, later: CompileLater) -> None:
        super().__init__(module, later)
        self._kinds = set[Hashable]()
        self._ended = deque[tuple[Hashable, bool]]()  # kinds, and whether there is code
        self._kind: Hashable = None
        self._recorded: _Calls | None = None  # in a forward
        self._aside = list[tuple[Any, Any]]()  # in a forward: blocks, and their calls
        self._holds = 0
        vars(module)[_PENDING] = dict[Hashable, _Calls]()
        module.register_forward_pre_hook(self._before, with_kwargs=True)
        module.register_forward_hook(self._after, always_call=True)

    @contextmanager
    def hold(self) -> Generator[None]:
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1

    def use_what_is_ready(self, module: Any) -> None:
        while self._ended:
            kind, succeeded = self._ended.popleft()
            calls = vars(module)[_PENDING].pop(kind)
            if succeeded:
                _use(module, calls)
            else:
                self._kinds.discard(kind)  # it is tried again, as memory may have been short

    def _before(self, module: Any, arguments: Any, keywords: Any) -> None:
        if not regions_of(module):  # a step cache runs its own blocks
            return
        if self._holds:
            self._replace(module, lambda _: None)
            return
        self.use_what_is_ready(module)
        kind = kind_of([arguments, keywords])
        if kind in self._kinds or len(self._kinds) >= MOST_KINDS or self.failures >= MOST_FAILURES:
            return
        self._kinds.add(kind)
        self._kind, self._recorded = kind, (recorded := _Calls())
        rows = _rows_of(arguments, keywords)
        self._replace(module, lambda block: partial(_record, block, recorded, rows))

    def _replace(self, module: Any, call_of: Callable[[Any], Any]) -> None:
        """Replace the blocks' calls until the end of the forward."""
        for block, _ in regions_of(module):
            self._aside.append((block, block._compiled_call_impl))
            block._compiled_call_impl = call_of(block)

    def _after(self, module: Any, _arguments: Any, output: Any) -> None:
        while self._aside:
            block, call = self._aside.pop()
            block._compiled_call_impl = call
        calls, self._recorded = self._recorded, None
        if calls is None:
            return
        kind = self._kind
        if output is None or not calls:  # it failed, or other hooks replaced the calls
            self._kinds.discard(kind)
            return
        some = distinct({block: [call] for block, call in calls.items()})
        try:
            self.request(
                [(block, its[0]) for block, its in some.items()],
                max(its[0].working_bytes for its in some.values()),
                lambda error: self._ended.append((kind, error is None)),
            )
        except OwnForward:
            self.failures = MOST_FAILURES
            log.info("%s runs uncompiled, as hooks changed its blocks.", self.name)
        else:
            vars(module)[_PENDING][kind] = calls


def _use(module: Any, calls: _Calls) -> None:
    """Let the blocks of a denoiser run code, which there is for such calls."""
    recorded = vars(module)["rehearsed_calls"]
    first = not recorded
    for block, call in calls.items():
        recorded.setdefault(block, []).append(call)
    if first:
        # In place: copies of the module with another configuration share the list.
        regions = vars(module)["compiled_regions"]
        regions[:] = [(block, run_only(block)) for block, _ in regions]
        if not any(_is_wrapped(part) for block, _ in regions for part in block.modules()):
            run_compiled(module)


class _LateDecoder(_LateCode):
    """Code of the decoder of an image autoencoder, for one row and for several."""

    def __init__(self, vae: Any, later: CompileLater) -> None:
        super().__init__(vae, later)
        self._lock = threading.RLock()  # any thread may decode
        self._holds = 0
        self._regions = vars(vae)["compiled_regions"]
        self._decoder = self._regions[0][0]
        self._run: Callable[..., Any] | None = self._first
        self._choose()

    @contextmanager
    def hold(self) -> Generator[None]:
        with self._lock:
            self._holds += 1
            self._choose()
        try:
            yield
        finally:
            with self._lock:
                self._holds -= 1
                self._choose()

    def _choose(self) -> None:
        self._decoder._compiled_call_impl = None if self._holds else self._run

    def _first(self, latents: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        """Decode as written, and compile for latents of this size."""
        with self._lock:
            again, self._run = self._run == self._first, None
            self._choose()
        decoded = self._decoder._call_impl(latents, *arguments, **keywords)
        if again:
            some = torch.empty_like(latents[:1], device="meta")
            calls = [
                RehearsedCall([torch.cat([some] * rows)], {}, latents.device, 1) for rows in (1, 2)
            ]
            size = len(calls) * _DECODER_WORKING_SET * (decoded.nbytes // len(decoded))
            self.request([(self._decoder, call) for call in calls], size, self._on_compile_end)
        return decoded

    def _on_compile_end(self, error: Exception | None) -> None:
        with self._lock:
            if error is None:
                self._run = run_only(self._decoder)
                self._regions[:] = [(self._decoder, self._run)]
            elif self.failures < MOST_FAILURES:
                self._run = self._first
            self._choose()


def _rows_of(arguments: Any, keywords: Any) -> int:
    """Rows that may have LoRAs of their own, if calls are merged in this one."""
    first = next(tensors_in([arguments, keywords]), None)
    return 1 if first is None or not first.ndim else len(first)


def _record(block: Any, recorded: _Calls, rows: int, *arguments: Any, **keywords: Any) -> Any:
    """Record the first call of a block in a forward, and run it as written."""
    if block not in recorded and (call := without_values(arguments, keywords, rows)) is not None:
        recorded[block] = call
    return block._call_impl(*arguments, **keywords)


def _compile_and_compare(run: Callable[..., Any], block: Any, call: RehearsedCall) -> None:
    """Compile ``run`` by a call of random values. Raises ``DifferentResult``."""

    def values() -> tuple[Sequence[Any], Mapping[str, Any]]:
        generator = torch.Generator(call.device).manual_seed(0)
        return call.on_device(partial(_random, generator))

    arguments, keywords = values()  # twice, as a block may write into them
    output = run(*arguments, **keywords)
    arguments, keywords = values()
    if not agree_within_rounding(output, block._call_impl(*arguments, **keywords), block):
        raise DifferentResult(
            f"Compiled code of {type(block).__name__} computes something else than the block."
        )


def _random(generator: torch.Generator, zeros: torch.Tensor) -> torch.Tensor:
    """Normally distributed values in place of zeros: masks are true, and numbers stay 0."""
    if zeros.dtype == torch.bool:
        return zeros.logical_not_()
    if zeros.is_complex():
        torch.view_as_real(zeros).normal_(generator=generator)
        return zeros
    return zeros.normal_(generator=generator) if zeros.is_floating_point() else zeros


def _copy_of(module: Any) -> Any:
    """Copy of a block with copies of all its layers, which nobody replaces.

    Layers around others are left out: those of LoRAs.
    """
    if _is_wrapped(module):
        module = module.base_layer
    children = module._modules.items()
    copy = copy_with(
        module, {name: None if child is None else _copy_of(child) for name, child in children}
    )
    copy._compiled_call_impl = None
    return copy


def _is_wrapped(module: Any) -> bool:
    return "base_layer" in module._modules


def _class_names(copies: Iterable[tuple[Any, RehearsedCall]]) -> str:
    """Classes of the blocks."""
    return ", ".join(dict.fromkeys(type(block).__name__ for block, _ in copies))
