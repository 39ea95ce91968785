"""LoRAs on the device: loaded when a generation needs them, evicted when no generation uses them.

A separate thread reads files and builds layers. All decisions and all changes to the models are
made on the engine's thread, between two turns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch

from deployments.engine.accelerator.interface import Accelerator
from deployments.engine.errors import release_frames
from deployments.engine.eviction import Resident, choose_victims
from deployments.engine.interception.step_cache_options import original_of
from deployments.engine.lora.attached import LoraLayers, check_no_foreign_loras
from deployments.engine.lora.files import BuiltLora, LoraFileInfo, LoraFiles, load_layers
from deployments.engine.lora.format import Lora
from deployments.engine.lora.layers import LoraSlice
from deployments.engine.lora.rows import LoraRows
from deployments.engine.merging.late_code import CompileLater
from deployments.engine.threads import Threads
from serve_app.domain.errors import LoraRefused, Misconfigured, ReplicaDied, WeightsUnavailable

log = logging.getLogger(__name__)


class LoraHandle:
    """Handle of the LoRAs of one generation.

    ``mix`` is their name in the models, and "" until they are ready.
    """

    def __init__(self, residency: LoraResidency, pipeline: Any, scales: Sequence[float]) -> None:
        self.pipeline = pipeline
        self.scales = scales
        self.files: Future[Sequence[LoraFileInfo]] = Future()
        self.loras: Sequence[_Loaded] = ()
        self.mix = ""
        self._residency = residency

    @property
    def descriptions(self) -> Sequence[str]:
        """Descriptions of the LoRAs, once they are ready: equal for equal contents and scales."""
        both = zip(self.loras, self.scales, strict=True)
        return [f"{lora.file.digest} {scale!r}" for lora, scale in both]

    @property
    def notes(self) -> Sequence[tuple[int, str]]:
        """What is not applied and why, each with the number of its LoRA, once they are ready."""
        return [(number, note) for number, lora in enumerate(self.loras) for note in lora.notes]

    def mix_in(self, module: Any) -> str:
        """Name of the mix if the LoRAs change ``module``; else ""."""
        names = {name for lora in self.loras for name in lora.components}
        shared = original_of(module)
        changed = any(getattr(self.pipeline, name) is shared for name in names)
        return self.mix if changed else ""

    def ready(self) -> bool:
        """Return whether the generation may begin. Raises the error that prevented loading."""
        return self._residency.ready(self)

    def release(self) -> None:
        self._residency.release(self)


class _Loaded:
    """LoRA in a pipeline, or being loaded for it."""

    def __init__(self, name: str, file: LoraFileInfo, size: int, layers: Future[BuiltLora]) -> None:
        self.name = name
        self.file = file
        self.size = size  # upper bound of the bytes on the device
        self.layers: Future[BuiltLora] | None = layers  # None: attached
        self.components: tuple[str, ...] = ()
        self.notes: Sequence[str] = ()
        self.users = 0
        self.last_used = 0

    @property
    def is_loading(self) -> bool:
        """False for one that was loaded for generations that were ended meanwhile."""
        return self.layers is not None and not self.layers.done()


@dataclass(slots=True)
class _Mix:
    """Mix in a pipeline, shared by all generations with the same LoRAs and scales."""

    name: str
    users: int = 0


class LoraResidency:
    """Residency of LoRAs. Used on the engine's thread only, except ``acquire``."""

    def __init__(
        self,
        budget_bytes: int,
        accelerator: Accelerator,
        wake: Callable[[], None],
        compile_later: CompileLater,
    ) -> None:
        """``budget_bytes``: limit for LoRAs on the device, in use or idle, and for what is kept of
        them between steps, without endpoints' own ones that are in use; 0: the device's default.

        ``wake`` is called on any thread when a handle may have become ready.
        """
        self.rows = LoraRows(accelerator)
        self._budget = budget_bytes or accelerator.adapters_budget()
        self._accelerator = accelerator
        self._wake = wake
        self._compile_later = compile_later
        self._files = LoraFiles()
        self._loaded: WeakKeyDictionary[Any, dict[str, _Loaded]] = WeakKeyDictionary()
        self._mixes: WeakKeyDictionary[Any, dict[tuple[LoraSlice, ...], _Mix]] = WeakKeyDictionary()
        self._dtypes: WeakKeyDictionary[Any, Mapping[str, torch.dtype]] = WeakKeyDictionary()
        self._layers: WeakKeyDictionary[torch.nn.Module, LoraLayers] = WeakKeyDictionary()
        self._names = count(1)
        self._uses = 0
        self._next_to_load: LoraHandle | None = None  # the handle that waits for space
        self._loader = Threads(max_workers=1, thread_name_prefix="loras")
        self._allow_stacks()

    def acquire(self, pipeline: Any, loras: Sequence[Lora]) -> LoraHandle:
        """Return a handle, valid until ``release``. Nothing is held before ``ready``.

        Raises ``LoraRefused`` when the pipeline does not support LoRAs, and ``ReplicaDied`` when
        the engine is not running.
        """
        if not hasattr(pipeline, "lora_state_dict"):
            raise LoraRefused(f"{type(pipeline).__name__} does not support LoRAs.")
        handle = LoraHandle(self, pipeline, [lora.scale for lora in loras])
        try:
            handle.files = self._loader.submit(self._files.inspect, loras)
        except RuntimeError as error:
            raise ReplicaDied("The engine is not running.") from error
        handle.files.add_done_callback(lambda _: self._wake())
        return handle

    def ready(self, handle: LoraHandle) -> bool:
        if handle.mix:
            return True
        if not handle.files.done():
            return False
        if not handle.loras and not self._try_acquire(handle):
            return False
        if any(loaded.layers is not None and not loaded.layers.done() for loaded in handle.loras):
            return False
        for number, lora in enumerate(handle.loras):
            self._attach(handle.pipeline, lora, number)
        self._mix(handle)
        return True

    def release(self, handle: LoraHandle) -> None:
        """Release the handle. Does nothing the second time, or when nothing is held."""
        if self._next_to_load is handle:
            self._next_to_load = None
        if handle.mix:
            self._unmix(handle)
        for lora in handle.loras:
            lora.users -= 1
            self._uses += 1
            lora.last_used = self._uses
        handle.loras, handle.mix = (), ""

    def tidy(self) -> None:
        """Give components back their own layers where no generation has a LoRA, and make room for
        what running generations keep of theirs between steps.

        To be called when the generations that may begin have begun, so that layers stay wrapped
        from one generation with LoRAs to the next.
        """
        for component, layers in self._layers.items():
            layers.unwrap(component)
        if missing := self.rows.missing_bytes:
            self.rows.missing_bytes = 0
            self._evict_for(self.rows.kept_bytes + missing, keep=())

    def evict_idle(self) -> None:
        """Evict the LoRAs that no generation uses, and what is kept between steps."""
        self.rows.release_memory()
        for pipeline, there in list(self._loaded.items()):
            for lora in [it for it in there.values() if not it.users and not it.is_loading]:
                self._evict(pipeline, lora)

    def close(self) -> None:
        """Remove all LoRAs from the pipelines and stop loading."""
        self._loader.shutdown(wait=False, cancel_futures=True)
        for pipeline, loaded in list(self._loaded.items()):
            for lora in list(loaded.values()):
                self._evict(pipeline, lora)

    def _try_acquire(self, handle: LoraHandle) -> bool:
        """Hold all LoRAs of the handle, or none while there is no space. Loads missing ones."""
        if self._next_to_load not in (None, handle):
            # Otherwise, LoRAs that new generations keep using would never become idle.
            return False
        files = {file.digest: file for file in handle.files.result()}
        dtypes = self._dtypes_of(handle.pipeline)
        width = max(dtype.itemsize for dtype in dtypes.values())
        self._refuse_too_large(handle.files.result(), width)
        there = self._loaded.setdefault(handle.pipeline, {})
        missing = [file for file in files.values() if file.digest not in there]
        if not self._evict_for(
            sum(file.parameters * width for file in missing if not file.is_own),
            keep=[there[digest] for digest in files if digest in there],
        ):
            self._next_to_load = handle
            return False
        self._next_to_load = None
        for lora in missing:
            there[lora.digest] = self._load(handle.pipeline, lora, lora.parameters * width)
        self._allow_stacks()
        # A generation may use the same LoRA twice: each use counts.
        handle.loras = [there[file.digest] for file in handle.files.result()]
        for lora in handle.loras:
            lora.users += 1
        return True

    def _refuse_too_large(self, files: Sequence[LoraFileInfo], width: int) -> None:
        """Raise ``LoraRefused`` if the files do not fit, however much is evicted.

        ``width``: bytes of a value on the device.
        """
        limit = (
            f"the limit of {self._budget / 1e6:.0f} MB on this device (adapter_bytes of the pool, "
            "lora_bytes of an engine)"
        )
        for number, file in enumerate(files):
            if file.is_own:
                continue
            if (size := file.parameters * width) > self._budget:
                raise LoraRefused(
                    f"The LoRA {file.file} needs {size / 1e6:.0f} MB, which exceeds {limit}. Use "
                    "one of a lower rank.",
                    number,
                )
        different = {entry.digest: entry.parameters * width for entry in files if not entry.is_own}
        if (size := sum(different.values())) > self._budget:
            raise LoraRefused(
                f"The LoRAs need {size / 1e6:.0f} MB together, which exceeds {limit}. Use fewer."
            )

    def _allow_stacks(self) -> None:
        """Let kept stacks have what the LoRAs leave of the budget."""
        loaded = (
            lora.size
            for there in self._loaded.values()
            for lora in there.values()
            if not (lora.file.is_own and lora.users)
        )
        self.rows.allow(self._budget - sum(loaded))

    def _load(self, pipeline: Any, file: LoraFileInfo, size: int) -> _Loaded:
        name = f"lora{next(self._names)}"
        dtypes = self._dtypes_of(pipeline)
        layers = self._loader.submit(self._load_layers, pipeline, file, name, dtypes)
        layers.add_done_callback(lambda _: self._wake())
        return _Loaded(name, file, size, layers)

    def _load_layers(
        self, pipeline: Any, file: LoraFileInfo, name: str, dtypes: Mapping[str, torch.dtype]
    ) -> BuiltLora:
        try:
            return load_layers(pipeline, file, name, self.rows, self._accelerator, dtypes)
        except BaseException as error:
            release_frames(error)
            self._accelerator.memory.release()  # what was there already
            raise

    def _dtypes_of(self, pipeline: Any) -> Mapping[str, torch.dtype]:
        """Dtypes that the pipeline's components compute in."""
        if (known := self._dtypes.get(pipeline)) is None:
            known = {
                name: cast("torch.dtype", getattr(module, "dtype", torch.float32))
                for name, module in vars(pipeline).items()
                if isinstance(module, torch.nn.Module)
            }
            self._dtypes[pipeline] = known
        return known

    def _attach(self, pipeline: Any, loaded: _Loaded, number: int) -> None:
        """Attach a loaded LoRA. ``number``: its index in the generation that waits for it."""
        if loaded.layers is None:
            return
        try:
            built = _result_of(loaded.layers, number)
            for component in built.layers:
                check_no_foreign_loras(getattr(pipeline, component), self.rows)
        except BaseException:
            # The next request for it tries again; others that wait for it hold the same future.
            self._forget(pipeline, loaded)
            raise
        for component, layers in built.layers.items():
            module = getattr(pipeline, component)
            self._lora_layers(module).attach(module, layers, loaded.name)
        loaded.layers = None
        loaded.components, loaded.notes = tuple(built.layers), built.notes
        log.info("Loaded the LoRA %s.", loaded.file.file)

    def _mix(self, handle: LoraHandle) -> None:
        mixes = self._mixes.setdefault(handle.pipeline, {})
        parts = _parts(handle)
        if (mixed := mixes.get(parts)) is None:
            mixed = _Mix(f"mix{next(self._names)}")
            try:
                for component in _components(handle):
                    self._lora_layers(component).create_mix(component, mixed.name, parts)
            except BaseException:  # half of it would be found by the next, and change nothing
                self._detach(handle, mixed.name)
                raise
            mixes[parts] = mixed
        mixed.users += 1
        handle.mix = mixed.name

    def _unmix(self, handle: LoraHandle) -> None:
        mixes, parts = self._mixes[handle.pipeline], _parts(handle)
        mixes[parts].users -= 1
        if not mixes[parts].users:
            del mixes[parts]
            self._detach(handle, handle.mix)

    def _detach(self, handle: LoraHandle, mix: str) -> None:
        self.rows.forget(mix)
        for component in _components(handle):
            self._lora_layers(component).detach(component, mix)

    def _lora_layers(self, component: torch.nn.Module) -> LoraLayers:
        if (layers := self._layers.get(component)) is None:
            # Set where several devices compute the component; all of them have its LoRAs.
            mirror_for = vars(component).get("lora_mirror")
            mirror = mirror_for(self.rows) if mirror_for else None
            layers = LoraLayers(self.rows, self._compile_later, mirror)
            self._layers[component] = layers
        return layers

    def _evict_for(self, size: int, keep: Iterable[_Loaded]) -> bool:
        """Evict idle LoRAs, least recently used first; return whether ``size`` bytes are free."""
        kept = {id(lora) for lora in keep}
        residents = [
            Resident(
                (pipeline, lora),
                lora.size,
                lora.users + (lora.is_loading or id(lora) in kept),
                lora.last_used,
            )
            for pipeline, there in self._loaded.items()
            for lora in there.values()
            if not (lora.file.is_own and (lora.users or id(lora) in kept))
        ]
        victims = choose_victims(residents, size, self._budget)
        for victim in victims or ():
            self._evict(*victim.name)
        if victims:
            self._accelerator.memory.release()
        return victims is not None

    def _evict(self, pipeline: Any, loaded: _Loaded) -> None:
        for name in loaded.components:
            component = getattr(pipeline, name)
            self._lora_layers(component).detach(component, loaded.name)
        self._forget(pipeline, loaded)
        log.info("Evicted the LoRA %s.", loaded.file.file)

    def _forget(self, pipeline: Any, loaded: _Loaded) -> None:
        there = self._loaded[pipeline]
        if there.get(loaded.file.digest) is loaded:
            del there[loaded.file.digest]
            self._allow_stacks()


def _result_of(loaded: Future[BuiltLora], number: int) -> BuiltLora:
    try:
        return loaded.result()
    except (Misconfigured, WeightsUnavailable) as error:
        raise LoraRefused(error.message, number) from error


def _parts(handle: LoraHandle) -> tuple[LoraSlice, ...]:
    both = zip(handle.loras, handle.scales, strict=True)
    return tuple(LoraSlice(lora.name, scale) for lora, scale in both)


def _components(handle: LoraHandle) -> list[Any]:
    """Components that the handle's LoRAs change."""
    names = {name for lora in handle.loras for name in lora.components}
    return [getattr(handle.pipeline, name) for name in sorted(names)]
