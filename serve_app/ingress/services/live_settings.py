"""Live settings of an ingress process: read again whenever their files change.

Files that are not valid change nothing: the settings before stay in force, and the problem is
shown until the files are corrected.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from serve_app.domain.errors import DarkroomError, Misconfigured
from serve_app.periodic_task import PeriodicTask
from serve_app.scaling.policy import Bounds
from serve_app.settings import Config, config_file
from serve_app.settings.parts import LIVE

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0

Arguments = Mapping[str, Any]
Signature = tuple[tuple[int, int, int] | None, ...]


class KeptSettings(Protocol):
    """Live settings that were valid last, for a start while the file is not."""

    async def read(self) -> Arguments | None: ...

    async def keep(self, settings: Arguments) -> None: ...


class LiveSettings:
    """Task that applies the live settings of a configuration file after each change of it, or of
    the catalogue that it names."""

    def __init__(self, base: Config, file: Path | None) -> None:
        """``base``: all other settings. ``file``: None for settings that never change."""
        self._base = base
        self._file = file
        self._in_force = base
        self._arguments: Arguments = {}  # of the settings in force
        self._signature: Signature = ()  # of the files that were read last
        self._problem = ""  # why the files as they are now are not in force
        self._rounds: PeriodicTask | None = None

    @property
    def has_problem(self) -> bool:
        """True while the files say something that cannot be put in force."""
        return bool(self._problem)

    def examine(self) -> str:
        """The file whose settings are in force. ``Misconfigured``: why what it says is not."""
        if self._problem:
            raise Misconfigured(self._problem)
        return "none" if self._file is None else str(self._file)

    async def check(self) -> None:
        """Raise ``Misconfigured`` as ``examine`` does."""
        self.examine()

    def read(self) -> Config:
        """Settings by the file. Reads files; raises ``Misconfigured``."""
        if self._file is None:
            return self._base
        self._signature = self._look()  # before the file is read, or a change would be missed
        arguments = config_file.read(self._file).arguments
        self._arguments = {name: value for name, value in arguments.items() if name in LIVE}
        self._in_force = self._base.with_live(arguments)
        self._signature = self._signature[0], self._look()[1]
        return self._in_force

    async def first(self, kept: KeptSettings) -> Config:
        """Settings to start with: those of the file, or the last valid ones.

        Raises ``Misconfigured`` if the file is not valid and never was.
        """
        if self._file is None:
            return self._base
        try:
            config = await asyncio.to_thread(self.read)
        except Misconfigured as error:
            stored = await kept.read()
            if stored is None:
                raise
            self._complain(f"{error.message} The last valid settings of {self._file} are in force.")
            config = self._in_force = await asyncio.to_thread(self._base.with_live, stored)
        else:
            await kept.keep(self._arguments)
        return config

    def start(self, kept: KeptSettings, apply: Callable[[Config], Awaitable[None]]) -> None:
        """Call ``apply`` after each change. If it raises ``Misconfigured``, it changed nothing."""
        if self._file is not None and self._rounds is None:
            look = partial(self._apply_change, self._file, kept, apply)
            self._rounds = PeriodicTask(
                LOOK_EVERY_S, {"live settings": look}, first_after_s=LOOK_EVERY_S
            )
            self._rounds.start()

    async def aclose(self) -> None:
        if self._rounds is not None:
            await self._rounds.aclose()

    async def _apply_change(
        self, file: Path, kept: KeptSettings, apply: Callable[[Config], Awaitable[None]]
    ) -> None:
        if await asyncio.to_thread(self._look) == self._signature:
            return
        try:
            await apply(await asyncio.to_thread(self.read))
            await kept.keep(self._arguments)
        except Misconfigured as error:
            before = f"The settings of {file} before this change stay in force."
            self._complain(f"{error.message} {before}")
        except DarkroomError as error:
            self._signature = ()
            self._complain(f"{error.message} The settings of {file} are tried again.")
        except Exception:
            self._problem = f"The settings of {file} could not be applied: see the log."
            raise
        else:
            self._problem = ""
            log.info("The settings of %s are in force.", file)

    def _complain(self, problem: str) -> None:
        """Show a problem, and log it once."""
        if problem != self._problem:
            log.error("%s", problem)
        self._problem = problem

    def _look(self) -> Signature:
        files = (self._file, self._in_force.models.models)
        return tuple(None if file is None else _signature(file) for file in files)


def _signature(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def bounds_of(config: Config) -> Mapping[str, Bounds]:
    """Bounds of the pools for their scaling policies."""
    return {
        name: Bounds(
            slots=pool.max_slots,
            least=pool.min_replicas,
            most=pool.max_replicas,
            spare=pool.spare_replicas,
            keep_alive_s=pool.keep_alive_s,
            target_wait_s=pool.target_wait_s,
            overflow_of=pool.overflow_of,
            overflow_after_s=pool.overflow_after_s,
        )
        for name, pool in (config.models.pools or {}).items()
    }
