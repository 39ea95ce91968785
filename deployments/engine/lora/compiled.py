"""LoRAs inside compiled blocks: code for padded ranks, which all mixes of LoRAs share.

Ranks are padded with zeros to the next of ``BUCKETS``, and a layer that a mix does not change has
zeros. So code that was compiled once runs for any number of LoRAs, scales, ranks up to the bucket
and rows. Code for a new bucket or for other layers is compiled on a thread of its own; meanwhile
the blocks run as written. So do adapters of other kinds, ranks above the last bucket, and
deterministic generations, whose bits must not depend on the time at which code is ready.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from deployments.engine.errors import release_frames
from deployments.engine.interception.step_cache_options import CHOOSE_LAYERS, CHOOSES_ITSELF
from deployments.engine.lora.layers import LoraPart, parts_of
from deployments.engine.lora.rows import Lineup, LoraRows, Stacks
from deployments.engine.merging.compile import (
    OwnForward,
    RehearsedCall,
    compile_block,
    copy_with,
    distinct,
    many_codes,
    regions_of,
    rehearsed_calls,
    run_as_written,
    run_compiled,
)
from deployments.engine.merging.late_code import Compilation, CompileLater

log = logging.getLogger(__name__)

BUCKETS = (16, 32, 64, 128)
"""Ranks that code exists for. Products on a GPU take 16 at a time, so fewer gain nothing. Padding
rank 16 to 64 took 30 to 50 % longer on a CPU."""

Place = tuple[type[torch.nn.Module], str]
"""Class of a block, and path of a layer in it."""

Halves = tuple[Tensor, Tensor, Tensor]
"""downs [rows, rank, in], ups [rows, rank, out], factors [rows, 1, rank]; a single row is for all
rows of the forward."""

_MAX_PATTERNS = 4  # sets of layers with code of their own; later ones get code for all layers
_MAX_ATTEMPTS = 3  # to compile: memory may have been short


class PaddedLinear(torch.nn.Module):
    """Linear layer in a compiled block, with a LoRA for each row or one for all rows."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.halves: Halves | None = None  # set before each forward

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias

    def forward(self, x: Tensor) -> Tensor:
        result = self.base_layer(x)
        if self.halves is None:
            return result
        downs, ups, factors = self.halves
        rows = x.reshape(len(downs), -1, x.shape[-1]).to(downs.dtype)
        inner = torch.bmm(rows, downs.mT) * factors
        return result + torch.bmm(inner, ups).view(result.shape).to(result.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class _Needs:
    """What the mixes of a lineup need of the code."""

    places: frozenset[Place]
    paths: tuple[str, ...]  # of the layers in blocks that they change
    bucket: int


@dataclass(frozen=True, slots=True)
class _Mode:
    """Layers that a component has, and how its blocks run."""

    name: str
    lineup: Lineup | None = None
    pattern: frozenset[Place] = frozenset()


_OWN = _Mode("own layers")
_AS_WRITTEN = _Mode("as written")


class CompiledLoras:
    """Layers of a component with compiled blocks, exchanged before each forward as its rows need.

    Used on the engine's thread.
    """

    def __init__(
        self,
        component: torch.nn.Module,
        layers: Mapping[str, Any],
        rows: LoraRows,
        compile_later: CompileLater,
    ) -> None:
        """``component``: with its own layers. ``layers``: the wrapped ones, by path."""
        self._layers = layers
        self._rows = rows
        self._compile_later = compile_later
        calls = rehearsed_calls(component)
        self._blocks = {
            path: module for path, module in component.named_modules() if module in calls
        }
        self._ready: dict[tuple[frozenset[Place], int], bool] = {}  # False: being compiled
        self._requested: dict[tuple[frozenset[Place], int], int] = {}  # for so many calls of blocks
        self._attempts: dict[tuple[frozenset[Place], int], int] = {}  # that failed, or run
        self._padded: dict[str, PaddedLinear] = {}
        self._zeros: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self._replaced: list[tuple[dict[str, Any], str, Any]] = []
        self._mode = _OWN
        self._hook: Any = None

    @property
    def chooses(self) -> bool:
        """Return whether the layers are chosen before each forward."""
        return self._hook is not None

    def start(self, component: torch.nn.Module) -> None:
        """Choose the layers before each forward from now on."""
        if self._hook is None:
            # Before the hook of late code, which records the layers that were chosen.
            self._hook = component.register_forward_pre_hook(self._before_forward, prepend=True)
            vars(component)[CHOOSE_LAYERS] = self._choose_layers

    def stop(self, component: torch.nn.Module) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
            del vars(component)[CHOOSE_LAYERS]
        self.restore(component)

    def restore(self, component: torch.nn.Module) -> None:
        """Give the component its own layers until the next forward."""
        while self._replaced:
            modules, name, own = self._replaced.pop()
            modules[name] = own
        for layer in self._padded.values():
            layer.halves = None
        run_compiled(component)
        self._mode = _OWN

    def _before_forward(self, component: torch.nn.Module, _: Any) -> None:
        # Without regions, a step cache has its hooks on the layers that were chosen.
        if regions_of(component) and not vars(component).get(CHOOSES_ITSELF):
            self._choose_layers(component)

    def _choose_layers(self, component: torch.nn.Module) -> None:
        mode = self._mode_of(component, self._rows.lineup_of_all)
        if mode != self._mode:
            self.restore(component)
            if mode is _AS_WRITTEN:
                self._write(component)
            elif mode is not _OWN:
                self._pad(component, mode)
            self._mode = mode

    def _mode_of(self, component: torch.nn.Module, lineup: Lineup | None) -> _Mode:
        if lineup is None:
            return _OWN
        if self._rows.as_written or (needs := self._needs(lineup)) is None:
            return _AS_WRITTEN
        if self._mode.lineup is lineup:
            return self._mode
        pattern = self._code_for(component, needs)
        if pattern is None or not self._keeps_stacks(lineup, needs):
            return _AS_WRITTEN
        return _Mode("padded", lineup, pattern)

    def _needs(self, lineup: Lineup) -> _Needs | None:
        """None if a mix has changes that are no LoRA of a linear layer, or too large a rank."""
        if self not in lineup.notes:
            lineup.notes[self] = self._found_needs(set(lineup.mixes))
        return lineup.notes[self]

    def _found_needs(self, mixes: set[str]) -> _Needs | None:
        places, paths, largest = set[Place](), list[str](), 0
        for path, layer in self._layers.items():
            here = [mix for mix in mixes if mix in layer.lora_A]
            if not here or (place := self._place_of(path)) is None:
                continue
            parts = [parts_of(layer, mix) for mix in here]
            if None in parts:
                return None
            ranks = [sum(len(part.down) for part in group or ()) for group in parts]
            largest = max(largest, *ranks)
            places.add(place)
            paths.append(path)
        bucket = next((size for size in BUCKETS if size >= largest), 0)
        return _Needs(frozenset(places), tuple(paths), bucket) if bucket else None

    def _place_of(self, path: str) -> Place | None:
        """None for a layer outside of compiled blocks."""
        for prefix, block in self._blocks.items():
            if path.startswith(f"{prefix}."):
                return type(block), path.removeprefix(f"{prefix}.")
        return None

    # Layers of a forward.

    def _write(self, component: torch.nn.Module) -> None:
        run_as_written(component)
        for path, layer in self._layers.items():
            self._put(component, path, layer)

    def _pad(self, component: torch.nn.Module, mode: _Mode) -> None:
        lineup, needs = mode.lineup, self._needs(mode.lineup) if mode.lineup else None
        if lineup is None or needs is None:
            raise RuntimeError("Only LoRAs of linear layers are padded.")
        like = self._some_part(lineup, needs).down if needs.paths else None
        for path in self._paths(mode.pattern):
            padded = self._padded_around(path, component.get_submodule(path))
            stacks = lineup.stacks.get(padded)
            if stacks is None or stacks.factors is None:
                assert like is not None  # noqa: S101 - a pattern has places, and so have the needs
                padded.halves = self._no_change(padded, lineup, needs.bucket, like)
            else:
                # Tensors of its own: code that was compiled for different ones refuses one twice.
                factors = stacks.factors.view(stacks.factors.shape)
                padded.halves = stacks.downs, stacks.ups, factors
            self._put(component, path, padded)
        for path, layer in self._layers.items():
            if self._place_of(path) is None:
                self._put(component, path, layer)

    def _paths(self, pattern: frozenset[Place]) -> list[str]:
        """Paths of all linear layers in the places of a pattern."""
        return [
            f"{prefix}.{path}"
            for prefix, block in self._blocks.items()
            for path in _linear_layers(block, pattern)
        ]

    def _put(self, component: torch.nn.Module, path: str, layer: torch.nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        modules = component.get_submodule(parent)._modules  # noqa: SLF001 - quicker than setattr
        self._replaced.append((modules, name, modules[name]))
        modules[name] = layer

    def _padded_around(self, path: str, base: Any) -> PaddedLinear:
        """Padded layer for the path. ``base``: the component's own layer there."""
        if path not in self._padded:
            self._padded[path] = PaddedLinear(base)
        return self._padded[path]

    def _some_part(self, lineup: Lineup, needs: _Needs) -> LoraPart:
        layer = self._layers[needs.paths[0]]
        mix = next(mix for mix in lineup.mixes if mix in layer.lora_A)
        return (parts_of(layer, mix) or [])[0]

    def _keeps_stacks(self, lineup: Lineup, needs: _Needs) -> bool:
        """Keep the padded LoRAs of all layers, if there is room for them."""
        stacks = dict[str, tuple[Any, Sequence[Sequence[LoraPart]]]]()
        size = 0
        for path in needs.paths:
            layer = self._layers[path]
            parts = [
                (parts_of(layer, mix) or ()) if mix in layer.lora_A else () for mix in lineup.mixes
            ]
            some = next(chain.from_iterable(parts))
            width = some.down.shape[1] + some.up.shape[0]
            size += len(parts) * needs.bucket * width * some.down.itemsize
            stacks[path] = layer.base_layer, parts
        replaced = [*self._layers.values(), *self._padded.values()]
        if not self._rows.make_room(lineup, size, replaced):
            return False
        for path, (base, parts) in stacks.items():
            padded = self._padded_around(path, base)
            self._rows.keep(lineup, padded, stack_in_bucket(parts, needs.bucket, lineup))
        lineup.on_drop[self] = self._forget
        return True

    def _forget(self) -> None:
        """Let go of stacks that are dropped."""
        for layer in self._padded.values():
            layer.halves = None
        self._mode = _Mode("incomplete")

    def _no_change(self, padded: PaddedLinear, lineup: Lineup, bucket: int, like: Tensor) -> Halves:
        """Zeros for a layer that no mix changes. All layers share their memory."""
        rows, base = len(lineup.mixes), padded.base_layer
        shapes = [(rows, bucket, width) for width in (base.in_features, base.out_features)]
        largest = rows * bucket * max(base.in_features, base.out_features)
        zeros = self._zeros.get((like.dtype, like.device))
        if zeros is None or len(zeros) < largest:
            zeros = self._zeros[like.dtype, like.device] = like.new_zeros(largest)
        downs, ups = (zeros[: rows * bucket * shape[2]].view(shape) for shape in shapes)
        factors = lineup.factors(((0.0,) * bucket,) * rows, like)
        return downs, ups, factors.view(factors.shape)

    # Code.

    def _code_for(self, component: torch.nn.Module, needs: _Needs) -> frozenset[Place] | None:
        """Return the fewest places for which there is code; None while there is none."""
        if not needs.places:
            return needs.places  # the code without LoRAs
        fitting = [
            pattern
            for (pattern, bucket), ready in self._ready.items()
            if ready and bucket == needs.bucket and needs.places <= pattern
        ]
        if fitting:
            pattern = min(fitting, key=len)
            self._request(component, pattern, needs.bucket)  # if blocks had other calls since then
            return pattern
        patterns = {pattern for pattern, _ in self._ready}
        pattern = needs.places
        if pattern not in patterns and len(patterns) >= _MAX_PATTERNS:
            pattern = pattern.union(*patterns)
        self._request(component, pattern, needs.bucket)
        return None

    def _request(self, component: torch.nn.Module, pattern: frozenset[Place], bucket: int) -> None:
        key = pattern, bucket
        calls = sum(len(block_calls) for block_calls in rehearsed_calls(component).values())
        if self._requested.get(key) == calls or self._attempts.get(key, 0) >= _MAX_ATTEMPTS:
            return
        self._requested[key] = calls
        self._attempts[key] = self._attempts.get(key, 0) + 1
        self._ready.setdefault(key, False)
        self.restore(component)  # the copies are made of the component's own layers
        layer = self._layers[next(iter(self._paths_in(pattern)))]
        dtype = next(half.weight.dtype for half in layer.lora_A.values())
        try:
            copies = [
                (_with_padded_layers(block, _linear_layers(block, pattern)), calls)
                for block, calls in distinct(rehearsed_calls(component)).items()
            ]
        except OwnForward:
            log.info("%s runs LoRAs uncompiled, as hooks changed it.", type(component).__name__)
            return
        name = f"{type(component).__name__} with LoRAs of rank {bucket}"
        # What compiles keeps the copies alone, so an evicted component leaves the device.
        backend = component.compiler_backend

        own = weakref.ref(self)

        def compile_all() -> None:
            succeeded = False
            try:
                if own() is not None:
                    compile_copies(copies, backend, bucket, dtype)
                    succeeded = True
                    log.info("Compiled %s.", name)
            except Exception as error:
                log.warning("%s cannot be compiled now.", name, exc_info=True)
                release_frames(error)
            finally:
                copies.clear()  # an evicted model's weights are freed before memory is released
            if (here := own()) is not None:
                here.note_compiled(key, succeeded=succeeded)

        size = max((call.working_bytes for _, calls in copies for call in calls), default=0)
        self._compile_later(Compilation(compile_all, size, own))

    def note_compiled(self, key: tuple[frozenset[Place], int], *, succeeded: bool) -> None:
        """Note that a compilation has ended, on its thread."""
        if succeeded:
            self._ready[key] = True
            self._attempts[key] = 0
        else:
            # Replaced as a whole: the engine's thread may be iterating over them.
            self._ready = {k: ready for k, ready in self._ready.items() if ready or k != key}
            self._requested = {k: request for k, request in self._requested.items() if k != key}

    def _paths_in(self, pattern: frozenset[Place]) -> list[str]:
        return [path for path in self._layers if self._place_of(path) in pattern]


def stack_in_bucket(parts: Sequence[Sequence[LoraPart]], bucket: int, lineup: Lineup) -> Stacks:
    """Stack the LoRAs of each row end to end, zero-padded to the rank ``bucket``."""
    some = next(chain.from_iterable(parts))
    downs = some.down.new_zeros(len(parts), bucket, some.down.shape[1])
    ups = some.up.new_zeros(len(parts), bucket, some.up.shape[0])
    factors = list[tuple[float, ...]]()
    for row, its in enumerate(parts):
        of_ranks = list[float]()
        for part in its:
            here = slice(len(of_ranks), len(of_ranks) + len(part.down))
            downs[row, here], ups[row, here] = part.down, part.up.mT
            of_ranks += [part.factor] * len(part.down)
        factors.append((*of_ranks, *(0.0 for _ in range(bucket - len(of_ranks)))))
    return Stacks(downs, ups, lineup.factors(tuple(factors), downs))


def _linear_layers(block: torch.nn.Module, pattern: frozenset[Place]) -> list[str]:
    """Paths of the block's linear layers that are in the pattern."""
    paths = [path for kind, path in sorted(pattern, key=str) if kind is type(block)]
    layers = dict(block.named_modules())
    return [path for path in paths if isinstance(layers.get(path), torch.nn.Linear | PaddedLinear)]


def _with_padded_layers(block: Any, paths: Sequence[str]) -> Any:
    """Copy of a block that shares all of its weights and has padded layers."""
    inner: dict[str, list[str]] = {}
    for path in paths:
        name, _, rest = path.partition(".")
        inner.setdefault(name, []).append(rest)
    children: dict[str, Any] = {}
    for name, rest in inner.items():
        child = block.get_submodule(name)
        children[name] = PaddedLinear(child) if rest == [""] else _with_padded_layers(child, rest)
    return copy_with(block, children)


def compile_copies(
    copies: Sequence[tuple[Any, Sequence[RehearsedCall]]],
    backend: Any,
    bucket: int,
    dtype: torch.dtype,
) -> None:
    """Compile copies of blocks for ranks up to ``bucket``, for the calls of the rehearsal.

    For a mix of all rows, and for a mix of each row where generations were merged.
    """
    with torch.no_grad(), many_codes():
        for block, calls in copies:
            layers = [module for module in block.modules() if isinstance(module, PaddedLinear)]
            if not layers:
                continue
            run = compile_block(block, backend)
            for call in calls:
                for rows in sorted({1, call.mixes}):
                    for layer in layers:
                        layer.halves = _zeros_for_tracing(
                            layer.base_layer, rows, bucket, dtype, call.device
                        )
                    arguments, keywords = call.on_device()
                    run(*arguments, **keywords)
            for layer in layers:
                layer.halves = None


def _zeros_for_tracing(
    base: torch.nn.Linear, rows: int, bucket: int, dtype: torch.dtype, device: torch.device
) -> Halves:
    """Zeros for tracing: only the number of rows differs from call to call."""
    downs, ups, factors = (
        torch.zeros(rows, *shape, dtype=dtype, device=device)
        for shape in ((bucket, base.in_features), (bucket, base.out_features), (1, bucket))
    )
    for tensor in (downs, ups, factors):
        if rows > 1:
            torch._dynamo.maybe_mark_dynamic(tensor, 0)  # noqa: SLF001
        for dimension in (1, 2):
            torch._dynamo.mark_static(tensor, dimension)  # noqa: SLF001
    return downs, ups, factors
