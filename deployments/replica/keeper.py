"""Weights that a replica holds although none of its requests uses them: those that warm targets ask
for, and those that it will probably run next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from deployments.families.base import Family
from deployments.replica import weights
from deployments.replica.failures import as_failure
from deployments.replica.resources import ReplicaResources
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import DarkroomError
from serve_app.domain.lease import KeptWeights, Work
from serve_app.domain.operations import WeightsLevel
from weights.store import Store

if TYPE_CHECKING:  # it imports torch
    from deployments.engine.loading.loads import PipelineHandle

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
USE_DISK_EVERY_S = 60.0
RETRY_S = 60.0
"""Time after which weights that could not be held are tried again: building a pipeline takes
seconds of a core before its size is known."""


class WeightKeeper:
    """Loads the weights that the replica should hold, one endpoint after the other, and keeps them
    from being evicted for others. Use on one event loop.

    Requests go first: nothing is loaded here while a request waits for weights, and nothing in use,
    kept or needed next is evicted for it. Kept weights are evicted for a request only if nothing
    else makes room. Then they are loaded again.

    What runs next is loaded after what warm targets want, to the device, or to host memory if the
    device has no room. It is loaded once and not held.
    """

    def __init__(
        self,
        families: Mapping[str, Family],
        resources: Callable[[], ReplicaResources],
        is_loading: Callable[[], bool],
        *,
        prefetches: bool = True,
    ) -> None:
        """``is_loading``: True while a request waits for weights. ``prefetches``: False to load
        nothing but what warm targets want."""
        self._families = families
        self._resources = resources
        self._is_loading = is_loading
        self._wanted: KeptWeights = ()
        self._version = ""
        self._upcoming: tuple[Endpoint, ...] = ()
        self._upcoming_version = "" if prefetches else None
        self._not_kept: dict[str, tuple[str, float]] = {}  # reason, and when to try again
        self._tried: dict[str, float] = {}  # of what runs next: when to try again
        self._no_room: dict[str, str] = {}  # of these, the reasons
        self._on_disk: set[str] = set()
        self._use_disk_at = 0.0  # monotonic clock, s
        self._changed = asyncio.Event()
        self._decided = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def version(self) -> str:
        """Version of what the replica should hold, as the ingress named it."""
        return self._version

    @property
    def upcoming(self) -> str | None:
        """Version of what the replica runs next, as the ingress named it; None if it loads nothing
        beforehand."""
        return self._upcoming_version

    @property
    def on_disk(self) -> tuple[str, ...]:
        """Ids of endpoints that should be held on disk, and are."""
        return tuple(sorted(self._on_disk))

    @property
    def not_kept(self) -> tuple[tuple[str, str], ...]:
        """Ids of endpoints that cannot be held, with the reason."""
        reasons = {id_: why for id_, (why, _) in self._not_kept.items()}
        tried = {id_: why for id_, why in self._no_room.items() if id_ in self._tried}
        return tuple(sorted((tried | reasons).items()))

    @property
    def alive(self) -> bool:
        return self._task is None or not self._task.done()

    def note_reply(self, reply: Work | None) -> None:
        """Note a reply of the ingress to a poll or an announcement."""
        if reply is None:
            self._decided.set()  # no warm target stands in this pool
        elif reply.keep is not None:
            self._wanted, self._version = reply.keep, reply.keep_version
            kept_ids = {endpoint.id for endpoint, _ in reply.keep}
            self._not_kept.clear()
            self._on_disk &= kept_ids
            self._decided.set()
            self._changed.set()
        if reply and reply.upcoming is not None and self.upcoming is not None:
            self._upcoming, self._upcoming_version = reply.upcoming, reply.upcoming_version
            self._changed.set()

    async def load_at_start(self, decision_within_s: float) -> None:
        """Load what the replica should hold before it is ready. Waits until that is decided, and
        for ``decision_within_s`` at most."""
        try:
            async with asyncio.timeout(decision_within_s):
                await self._decided.wait()
        except TimeoutError:
            log.info("The ingress has not said which weights to hold; nothing is loaded yet.")
        while (missing := self._missing()) is not None:
            await self._hold(*missing)

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_on(), name="weight keeper")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep_on(self) -> None:
        while True:
            self._changed.clear()
            self._protect()
            if not self._is_loading():
                await self._use_disk()
                if (missing := self._missing()) is not None:
                    await self._hold(*missing)
                    continue
                if (following := self._next_to_load()) is not None:
                    await self._prefetch(following)
                    continue
            try:
                wants_any = bool(self._wanted or self._upcoming)
                async with asyncio.timeout(LOOK_EVERY_S if wants_any else None):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _missing(self) -> tuple[Endpoint, WeightsLevel] | None:
        """The first that is not held, and is due to be tried. None: there is none."""
        self._protect()
        now = self._resources().clock.monotonic()
        for endpoint, level in self._wanted:
            _, retry_at = self._not_kept.get(endpoint.id, ("", now))
            if retry_at <= now and not self._is_held(endpoint, WeightsLevel(level)):
                return endpoint, WeightsLevel(level)
        return None

    def _next_to_load(self) -> Endpoint | None:
        """What runs next and is not on the device, and is due to be tried. None: there is none."""
        now = self._resources().clock.monotonic()
        self._tried = {id_: retry_at for id_, retry_at in self._tried.items() if retry_at > now}
        for endpoint in self._upcoming:
            if endpoint.id not in self._tried and not self._is_held(endpoint, WeightsLevel.HOT):
                return endpoint
        return None

    def _is_held(self, endpoint: Endpoint, level: WeightsLevel) -> bool:
        resources = self._resources()
        if level is WeightsLevel.DISK:
            return endpoint.id in self._on_disk
        name = resources.weights_by_endpoint.get(endpoint.id)
        if name is None:
            return False
        if resources.residency.find(name) is not None:
            is_held = True
        else:
            is_held = level is WeightsLevel.HOST and name in resources.residency.warm
        if is_held:
            self._not_kept.pop(endpoint.id, None)
        return is_held

    def _protect(self) -> None:
        """Name the weights that are evicted last."""
        resources = self._resources()
        names: dict[WeightsLevel, set[str]] = {level: set() for level in WeightsLevel}
        for endpoint, level in self._wanted:
            if (name := resources.weights_by_endpoint.get(endpoint.id)) is not None:
                names[WeightsLevel(level)].add(name)
        by_endpoint = resources.weights_by_endpoint
        needed = {
            by_endpoint[upcoming.id] for upcoming in self._upcoming if upcoming.id in by_endpoint
        }
        resources.residency.keep(names[WeightsLevel.HOT], names[WeightsLevel.HOST], needed)

    async def _hold(self, endpoint: Endpoint, level: WeightsLevel) -> None:
        """Load or download the weights. A failure is noted, and tried again later; requests for the
        endpoint get it too."""
        try:
            if level is WeightsLevel.DISK:
                await self._fetch(endpoint)
            else:
                await self._load(endpoint)
        except Exception as error:
            if not self._is_held(endpoint, level) and not _gave_way(error):
                why, retry_at = self._describe_failure(error)
                self._not_kept[endpoint.id] = why, retry_at
                log.warning("%s cannot be held for its warm target: %s", endpoint.id, why)
        else:
            self._not_kept.pop(endpoint.id, None)

    async def _prefetch(self, endpoint: Endpoint) -> None:
        """Load the weights of what runs next, to the device or else to host memory."""
        log.info("Loading %s, which will probably run next.", endpoint.id)
        try:
            await self._load(endpoint)
        except Exception as error:
            if _gave_way(error):
                return  # it is tried again when the request has its weights
            why, self._tried[endpoint.id] = self._describe_failure(error)
            if not self._is_held(endpoint, WeightsLevel.HOST):
                self._no_room[endpoint.id] = why
                log.info("%s cannot be loaded before it runs: %s", endpoint.id, why)

    def _describe_failure(self, error: Exception) -> tuple[str, float]:
        """The reason of a failure, and when to try again."""
        why = str(error) if _is_no_room(error) else as_failure(error).message
        return why, self._resources().clock.monotonic() + RETRY_S

    async def _fetch(self, endpoint: Endpoint) -> None:
        store = self._resources().store
        await asyncio.to_thread(weights.fetch, store, endpoint, lambda *_: None)
        self._on_disk.add(endpoint.id)

    async def _use_disk(self) -> None:
        """Use what is held on disk now and then, so that it is not evicted as the longest unused.
        What was evicted all the same is no longer held."""
        now = self._resources().clock.monotonic()
        if now < self._use_disk_at:
            return
        self._use_disk_at = now + USE_DISK_EVERY_S
        store = self._resources().store
        for endpoint, _ in self._wanted:
            if endpoint.id in self._on_disk and not await asyncio.to_thread(_use, store, endpoint):
                self._on_disk.discard(endpoint.id)

    async def _load(self, endpoint: Endpoint) -> None:
        family = self._families.get(endpoint.family)
        if family is None:
            raise DarkroomError(f"This replica has no family {endpoint.family}.")
        handle: PipelineHandle | None = None
        resources = self._resources()
        try:
            handle = resources.acquire(family, endpoint, spare=True)
            self._protect()  # the load may be for several targets
            await asyncio.wrap_future(handle.future)
        finally:
            if handle is not None:
                resources.residency.release(handle)


def _use(store: Store, endpoint: Endpoint) -> bool:
    """Count the weights as used now. False: they are not on this node."""
    try:
        if not weights.is_here(store, endpoint):
            return False
        weights.fetch(store, endpoint, lambda *_: None)
    except (DarkroomError, OSError):  # they were evicted just now; fetching them again says more
        return False
    return True


def _is_no_room(error: Exception) -> bool:
    from deployments.engine.loading.loads import NoSpareRoom  # noqa: PLC0415

    return isinstance(error, NoSpareRoom)


def _gave_way(error: Exception) -> bool:
    from deployments.engine.loading.loads import SpareLoadStopped  # noqa: PLC0415

    return isinstance(error, SpareLoadStopped)
