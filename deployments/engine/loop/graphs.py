"""Recorded forwards of denoisers, for models whose time goes into launching kernels.

A forward of SDXL at 512² launches some thousand kernels, and the device waits for each. A graph is
the same forward, recorded once for one signature (shapes, dtypes and plain values of the arguments)
and launched as one piece. Arguments are copied into those of the recording, and outputs are copied
out of it, as the next replay overwrites them.

A graph never changes a result. It is compared with the forward that it records before it is used.
It is dropped when weights have moved, as it reads them where they were. Where a forward cannot be
recorded, it runs as ever, and the log says why.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from deployments.engine.accelerator.errors import is_out_of_memory
from deployments.engine.accelerator.interface import Accelerator, Graph, GraphPool
from deployments.engine.errors import release_frames
from deployments.engine.loop.pending_call import PendingCall
from deployments.engine.memory.admission import MEASUREMENTS
from deployments.engine.memory.reservations import CommonMemory
from deployments.engine.merging.arguments import (
    CannotCopy,
    copy_output,
    map_tensors,
    tensors_in,
    versions_in,
)
from deployments.engine.merging.compile import DIVIDES_ROWS, RECORDS_GRAPHS
from deployments.engine.merging.verification import agree, low_precision_dtype

log = logging.getLogger(__name__)

RUNS_BEFORE = MEASUREMENTS
"""Forwards of a signature before it is recorded: rare ones are not worth it, libraries choose
kernels in the first, and replays do not show what memory a forward takes."""

MAX_GRAPHS = 16
"""Graphs of one denoiser; the least recently used one makes room."""

MAX_SHARE = 0.1
"""Share of the device's memory up to which another graph is recorded."""

MAX_RELEASES = 3
"""Times that memory has run out beside the graphs of a denoiser, after which it gets no more."""


class _CannotRecord(Exception):
    """Forward that cannot be recorded. The message is the reason."""


@dataclass(slots=True)
class _Recorded:
    """Graph of one signature."""

    graph: Graph
    inputs: Sequence[Tensor]  # of the recording, in the order of ``tensors_in``
    output: Any  # overwritten by the next replay of a graph of the same denoiser

    def replay(self, values: Iterable[Tensor]) -> Any:
        for target, value in zip(self.inputs, values, strict=True):
            target.copy_(value)
        self.graph.replay()
        return copy_output(self.output)


@dataclass(slots=True)
class _Denoiser:
    """Graphs of one denoiser."""

    name: str  # its class
    pool: GraphPool | None = None  # a new one after each release
    graphs: OrderedDict[Hashable, _Recorded] = field(default_factory=OrderedDict)
    runs: Counter[Hashable] = field(default_factory=Counter)  # by signature
    weights: Sequence[Tensor] = ()
    addresses: Sequence[int] = ()  # of the weights, when graphs were recorded
    releases: int = 0
    refusal: str = ""  # reason why nothing more is recorded
    skipped: set[str] = field(default_factory=set)  # reasons why some forwards are not recorded

    @property
    def size(self) -> int:
        return 0 if self.pool is None else self.pool.size

    def drop(self) -> None:
        self.graphs.clear()
        self.runs.clear()
        self.weights = self.addresses = ()
        if self.pool is not None:
            self.pool.release()
            self.pool = None

    def release(self) -> None:
        """Drop the graphs, because memory has run out."""
        self.drop()
        self.releases += 1
        if self.releases >= MAX_RELEASES:
            self.refuse("memory runs out beside its graphs")

    def refuse(self, reason: str) -> None:
        """Record nothing more."""
        self.drop()
        self.refusal = reason
        log.warning(
            "Forwards of %s are not recorded as graphs: %s. They run as without `graphs` in the "
            "recipe.",
            self.name,
            reason,
        )

    def skip(self, reason: str) -> None:
        """Note that a forward is not recorded. Others may be."""
        if reason not in self.skipped:
            self.skipped.add(reason)
            log.info("Some forwards of %s are not recorded as graphs: %s.", self.name, reason)


class Graphs:
    """Graphs of all denoisers whose recipe wants them. For the engine's thread."""

    def __init__(self, accelerator: Accelerator, memory: CommonMemory) -> None:
        self.replays = 0
        self._accelerator = accelerator
        self._memory = memory
        self._denoisers: WeakKeyDictionary[torch.nn.Module, _Denoiser] = WeakKeyDictionary()

    @property
    def size(self) -> int:
        """Bytes of the device that graphs have."""
        return sum(denoiser.size for denoiser in list(self._denoisers.values()))

    def function(self, call: PendingCall, mixes: Sequence[str]) -> Callable[..., Any]:
        """Return what computes ``call``, alone or merged with others: the module, or its graphs.

        ``mixes``: LoRAs of the rows. Their weights are other tensors from step to step, so
        forwards with LoRAs are not recorded. Nor are deterministic ones: their bits must not
        depend on what ran before.
        """
        records = RECORDS_GRAPHS in vars(call.module)
        recorded = records and not any(mixes) and not call.deterministic
        return self._recorded_function(call) if recorded else call.function

    def _recorded_function(self, call: PendingCall) -> Callable[..., Any]:
        own = self._denoisers.get(call.module)
        if own is None:
            own = self._denoisers[call.module] = _Denoiser(type(call.module).__name__)
        if own.refusal:
            return call.function
        return partial(self._compute, own, call)

    def forget(self, modules: Iterable[torch.nn.Module]) -> None:
        """Drop the graphs of modules that are being evicted, while nothing runs on them."""
        for module in modules:
            if (own := self._denoisers.pop(module, None)) is not None:
                own.drop()

    def release(self) -> None:
        """Drop all graphs, because memory has run out. They may be recorded again."""
        for own in list(self._denoisers.values()):
            if own.graphs:
                own.release()

    def _compute(
        self, own: _Denoiser, call: PendingCall, /, *arguments: Any, **keywords: Any
    ) -> Any:
        inputs = arguments, keywords
        try:
            signature = self._signature(call, inputs)
        except _CannotRecord as error:
            own.skip(str(error))
            return call.function(*arguments, **keywords)
        if own.graphs and [weight.data_ptr() for weight in own.weights] != own.addresses:
            log.info("The weights of %s have moved; its graphs are dropped.", own.name)
            own.drop()
            self._memory.release()
        if (recorded := own.graphs.get(signature)) is not None:
            own.graphs.move_to_end(signature)
            self._memory.disturb()  # a replay takes memory for its outputs only
            self.replays += 1
            return recorded.replay(tensors_in(inputs))
        output = call.function(*arguments, **keywords)
        if own.runs[signature] < RUNS_BEFORE:
            own.runs[signature] += 1
        elif self._may_record(call.module):
            with self._memory.recording() as may_record:
                if may_record:  # else a later forward is recorded
                    self._record(own, call, signature, inputs, output)
        if len(own.runs) > _MAX_SIGNATURES:
            own.runs.clear()
        return output

    def _signature(self, call: PendingCall, inputs: Any) -> Hashable:
        """Signature of a forward: equal for forwards that launch the same kernels."""
        isolation = call.isolation
        if isolation.processors is not None or isolation.settings:
            raise _CannotRecord("a request sets attention processors or scales of its own")
        return call.method, isolation.thread, self._shape(inputs)

    def _shape(self, value: Any) -> Hashable:
        if isinstance(value, Tensor):
            if value.device.type != self._accelerator.kind:
                raise _CannotRecord("an argument is in the host's memory")
            return tuple(value.shape), value.dtype, value.stride()
        if isinstance(value, list | tuple):
            return type(value), tuple(self._shape(item) for item in value)
        if isinstance(value, Mapping):
            return type(value), tuple((key, self._shape(item)) for key, item in value.items())
        if value is None or isinstance(value, bool | int | float | str):
            return type(value), value
        raise _CannotRecord(f"an argument is a {type(value).__name__}")

    def _may_record(self, module: torch.nn.Module) -> bool:
        """Return whether another graph of the module may be recorded."""
        total = self._memory.total()
        if total is not None and self.size >= MAX_SHARE * total:
            return False
        # The engine's own hooks choose layers for LoRAs, as long as a generation has some.
        return not any(
            part._forward_pre_hooks or part._forward_hooks  # noqa: SLF001
            for part in module.modules()
        )

    def _record(
        self, own: _Denoiser, call: PendingCall, signature: Hashable, inputs: Any, output: Any
    ) -> None:
        """Record the forward that has just made ``output``."""
        self._memory.disturb()
        own.pool = own.pool or self._accelerator.graph_pool()
        if own.pool is None:
            own.refusal = "the device has no graphs"  # a CPU: not worth a warning
            return
        try:
            _check_stays(call.module)
            own.graphs[signature] = _record_graph(own.pool, call, inputs, output)
        except (_CannotRecord, CannotCopy) as error:
            own.refuse(str(error))
        except Exception as error:
            release_frames(error)
            if is_out_of_memory(error):
                own.release()
            else:
                own.refuse(str(error).partition("\n")[0])
        else:
            if not own.weights:
                own.weights = [*call.module.parameters(), *call.module.buffers()]
                own.addresses = [weight.data_ptr() for weight in own.weights]
            if len(own.graphs) > MAX_GRAPHS:
                _, oldest = own.graphs.popitem(last=False)
                own.pool.drop(oldest.graph)
            return
        self._memory.release()  # its graphs were dropped


def _record_graph(pool: GraphPool, call: PendingCall, values: Any, output: Any) -> _Recorded:
    """Graph of a forward, after a comparison of a replay with ``output``."""
    arguments, keywords = inputs = map_tensors(torch.clone, values)
    versions = versions_in(inputs)
    graph, captured = pool.record(lambda: call.function(*arguments, **keywords))
    if versions_in(inputs) != versions:
        raise _CannotRecord("it writes into its inputs")
    recorded = _Recorded(graph, list(tensors_in(inputs)), captured)
    again = recorded.replay(tensors_in(values))
    if not agree([again], [output], low_precision_dtype([output], call.module), {}):
        raise _CannotRecord("the recorded forward gives other values")
    return recorded


def _check_stays(module: torch.nn.Module) -> None:
    """Raise ``_CannotRecord`` if weights move, or values are kept between forwards."""
    if not _DIVIDES.isdisjoint(vars(module)):
        raise _CannotRecord("several devices compute it")
    if any(map(_is_hooked, module.modules())):
        raise _CannotRecord("hooks move its weights or keep values between steps")


def _is_hooked(module: torch.nn.Module) -> bool:
    """Return whether accelerate or diffusers has put a hook on a module."""
    registry = vars(module).get("_diffusers_hook")  # an empty one may be there
    return "_hf_hook" in vars(module) or (registry is not None and bool(registry.hooks))


_DIVIDES = {"take_ahead", DIVIDES_ROWS}
_MAX_SIGNATURES = 4096
