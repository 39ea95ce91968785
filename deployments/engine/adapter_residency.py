"""Which adapters are on the device: loaded when a generation asks, evicted when no one uses them.

Files are read and layers made on a thread of its own; what is decided and what is changed on the
models is for the engine's thread, between two turns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import torch

from deployments.engine.adapter import Adapter
from deployments.engine.adapter_files import AdapterFiles, Look, load_layers
from deployments.engine.adapter_layers import AdapterRows, Part, attach, check_free, detach, mix
from deployments.engine.threads import Threads
from serve_app.domain.errors import AdapterRefused, Misconfigured, ReplicaDied, WeightsUnavailable

log = logging.getLogger(__name__)

Layers = Mapping[str, Mapping[str, Any]]
"""Of each component, by name: peft's layers by path."""


class AdapterLoan:
    """The adapters of one generation. ``mix`` is their name in the models, "" before they are
    ready."""

    def __init__(self, shelf: AdapterResidency, pipeline: Any, scales: Sequence[float]) -> None:
        self.pipeline = pipeline
        self.scales = scales
        self.looked: Future[Sequence[Look]] = Future()
        self.held: Sequence[_Loaded] = ()
        self.mix = ""
        self._shelf = shelf

    @property
    def told(self) -> Sequence[str]:
        """What they are, once they are ready: equal for equal contents and scales."""
        both = zip(self.held, self.scales, strict=True)
        return [f"{each.look.digest} {scale!r}" for each, scale in both]

    def mix_in(self, module: Any) -> str:
        """Its mix, where the adapters change ``module``; else ""."""
        names = {name for each in self.held for name in each.components}
        changed = any(getattr(self.pipeline, name) is module for name in names)
        return self.mix if changed else ""

    def ready(self) -> bool:
        """Whether the generation may begin. Raises what kept its adapters from being loaded."""
        return self._shelf.ready(self)

    def give_back(self) -> None:
        self._shelf.give_back(self)


class _Loaded:
    """An adapter in a pipeline, or on its way there."""

    def __init__(self, name: str, look: Look, size: int, layers: Future[Layers]) -> None:
        self.name = name
        self.look = look
        self.size = size  # bytes on the device, at most
        self.layers: Future[Layers] | None = layers  # None: attached
        self.components: tuple[str, ...] = ()
        self.users = 0
        self.last_used = 0


@dataclass(slots=True)
class _Mix:
    """In a pipeline, of all generations that asked for the same."""

    name: str
    users: int = 0


class AdapterResidency:
    """For the engine's thread alone, but for ``borrow``."""

    def __init__(self, budget_bytes: int, device: str, wake: Callable[[], None]) -> None:
        """``budget_bytes``: of adapters on the device, in use or not. ``wake``: is called on any
        thread when a loan may have become ready."""
        self.rows = AdapterRows()
        self._budget = budget_bytes
        self._device = device
        self._wake = wake
        self._files = AdapterFiles()
        self._loaded: WeakKeyDictionary[Any, dict[str, _Loaded]] = WeakKeyDictionary()
        self._mixes: WeakKeyDictionary[Any, dict[tuple[Part, ...], _Mix]] = WeakKeyDictionary()
        self._dtypes: WeakKeyDictionary[Any, Mapping[str, torch.dtype]] = WeakKeyDictionary()
        self._names = count(1)
        self._uses = 0
        self._first_for_room: AdapterLoan | None = None  # while it waits for room
        self._loader = Threads(max_workers=1, thread_name_prefix="adapters")

    def borrow(self, pipeline: Any, adapters: Sequence[Adapter]) -> AdapterLoan:
        """Until ``give_back``. Nothing is held before ``ready``."""
        if not hasattr(pipeline, "lora_state_dict"):
            raise AdapterRefused(f"{type(pipeline).__name__} takes no adapters.")
        if any(getattr(each, "_parallel_config", None) for each in vars(pipeline).values()):
            raise AdapterRefused(
                "Several devices compute this model together, and only one would have the "
                "adapters. Serve this endpoint by a pool with one device for each replica."
            )
        loan = AdapterLoan(self, pipeline, [each.scale for each in adapters])
        try:
            loan.looked = self._loader.submit(self._files.look, adapters)
        except RuntimeError as error:
            raise ReplicaDied("The engine is not running.") from error
        loan.looked.add_done_callback(lambda _: self._wake())
        return loan

    def ready(self, loan: AdapterLoan) -> bool:
        if loan.mix:
            return True
        if not loan.looked.done():
            return False
        if not loan.held and not self._hold(loan):
            return False
        if any(each.layers is not None and not each.layers.done() for each in loan.held):
            return False
        for number, each in enumerate(loan.held):
            self._attach(loan.pipeline, each, number)
        self._mix(loan)
        return True

    def give_back(self, loan: AdapterLoan) -> None:
        """Nothing happens the second time, or when nothing is held."""
        if self._first_for_room is loan:
            self._first_for_room = None
        if loan.mix:
            self._unmix(loan)
        for each in loan.held:
            each.users -= 1
            self._uses += 1
            each.last_used = self._uses
        loan.held, loan.mix = (), ""

    def evict_idle(self) -> None:
        """Take off what no generation uses."""
        for pipeline, there in list(self._loaded.items()):
            for each in [it for it in there.values() if not it.users and it.layers is None]:
                self._evict(pipeline, each)

    def close(self) -> None:
        """Take all adapters off the pipelines."""
        self._loader.shutdown(wait=False, cancel_futures=True)
        for pipeline, loaded in list(self._loaded.items()):
            for each in list(loaded.values()):
                self._evict(pipeline, each)

    def _hold(self, loan: AdapterLoan) -> bool:
        """All of its adapters, or none when there is no room as yet. Loads what is not there."""
        if self._first_for_room not in (None, loan):
            # Or adapters for which generations keep coming would never be idle.
            return False
        looks = {each.digest: each for each in loan.looked.result()}
        dtypes = self._dtypes_of(loan.pipeline)
        width = max(each.itemsize for each in dtypes.values())
        size = sum(each.numbers * width for each in looks.values())
        if size > self._budget:
            raise AdapterRefused(
                f"The adapters have {size / 1e6:.0f} MB and the engine keeps at most "
                f"{self._budget / 1e6:.0f} MB of them (adapter_bytes)."
            )
        there = self._loaded.setdefault(loan.pipeline, {})
        missing = [each for each in looks.values() if each.digest not in there]
        if not self._make_room(
            sum(each.numbers * width for each in missing),
            keep=[there[each] for each in looks if each in there],
        ):
            self._first_for_room = loan
            return False
        self._first_for_room = None
        for each in missing:
            there[each.digest] = self._load(loan.pipeline, each, each.numbers * width)
        # The same adapter may be asked for twice: each counts.
        loan.held = [there[each.digest] for each in loan.looked.result()]
        for each in loan.held:
            each.users += 1
        return True

    def _load(self, pipeline: Any, look: Look, size: int) -> _Loaded:
        name = f"adapter{next(self._names)}"
        layers = self._loader.submit(
            load_layers, pipeline, look, name, self.rows, self._device, self._dtypes_of(pipeline)
        )
        layers.add_done_callback(lambda _: self._wake())
        return _Loaded(name, look, size, layers)

    def _dtypes_of(self, pipeline: Any) -> Mapping[str, torch.dtype]:
        """In which its components compute."""
        if (known := self._dtypes.get(pipeline)) is None:
            modules = {k: v for k, v in vars(pipeline).items() if isinstance(v, torch.nn.Module)}
            known = {name: getattr(each, "dtype", torch.float32) for name, each in modules.items()}
            self._dtypes[pipeline] = known
        return known

    def _attach(self, pipeline: Any, loaded: _Loaded, number: int) -> None:
        """``number``: which one it is to the generation that waits for it."""
        if loaded.layers is None:
            return
        try:
            layers = _layers_of(loaded.layers, number)
            for component in layers:
                check_free(getattr(pipeline, component), self.rows)
        except BaseException:
            # Whoever asks next tries again; others who wait for it hold the same future.
            self._forget(pipeline, loaded)
            raise
        for component, each in layers.items():
            attach(getattr(pipeline, component), each, loaded.name)
        loaded.layers = None
        loaded.components = tuple(layers)
        log.info("Loaded the adapter %s.", loaded.look.file)

    def _mix(self, loan: AdapterLoan) -> None:
        mixes = self._mixes.setdefault(loan.pipeline, {})
        parts = _parts(loan)
        if (mixed := mixes.get(parts)) is None:
            mixed = mixes[parts] = _Mix(f"mix{next(self._names)}")
            for component in _components(loan):
                mix(component, mixed.name, parts)
        mixed.users += 1
        loan.mix = mixed.name

    def _unmix(self, loan: AdapterLoan) -> None:
        mixes, parts = self._mixes[loan.pipeline], _parts(loan)
        mixes[parts].users -= 1
        if not mixes[parts].users:
            del mixes[parts]
            for component in _components(loan):
                detach(component, loan.mix)

    def _make_room(self, size: int, keep: Iterable[_Loaded]) -> bool:
        """Whether there is room for ``size`` bytes now, after evicting what was unused longest."""
        there = [(pipe, each) for pipe, its in self._loaded.items() for each in its.values()]
        free = self._budget - sum(each.size for _, each in there)
        kept = {id(each) for each in keep}
        idle = [
            (pipe, each)
            for pipe, each in there
            if not each.users and each.layers is None and id(each) not in kept
        ]
        idle.sort(key=lambda pair: pair[1].last_used)
        if free + sum(each.size for _, each in idle) < size:
            return False
        while free < size:
            pipeline, each = idle.pop(0)
            free += each.size
            self._evict(pipeline, each)
        return True

    def _evict(self, pipeline: Any, loaded: _Loaded) -> None:
        for component in loaded.components:
            detach(getattr(pipeline, component), loaded.name)
        self._forget(pipeline, loaded)
        log.info("Evicted the adapter %s.", loaded.look.file)

    def _forget(self, pipeline: Any, loaded: _Loaded) -> None:
        there = self._loaded[pipeline]
        if there.get(loaded.look.digest) is loaded:
            del there[loaded.look.digest]


def _layers_of(loaded: Future[Layers], number: int) -> Layers:
    try:
        return loaded.result()
    except (Misconfigured, WeightsUnavailable) as error:
        raise AdapterRefused(error.message, number) from error


def _parts(loan: AdapterLoan) -> tuple[Part, ...]:
    both = zip(loan.held, loan.scales, strict=True)
    return tuple(Part(each.name, scale) for each, scale in both)


def _components(loan: AdapterLoan) -> list[Any]:
    """That its adapters change."""
    names = {name for each in loan.held for name in each.components}
    return [getattr(loan.pipeline, name) for name in sorted(names)]
