"""What a generation finds around it when its turn comes, and takes with it when it is suspended."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterable
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass

import torch

from deployments.engine import part_settings
from deployments.engine.part_settings import PartsWithSettings, Settings
from deployments.engine.processors import ProcessorOwners, Processors, described, same
from deployments.engine.thread_state import ThreadState


class SharedParts:
    """Parts of denoisers on which a generation's own things lie while it has its turn."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        denoisers = list(modules)
        self.processors = ProcessorOwners(denoisers)
        self.settings = PartsWithSettings(denoisers)


@dataclass(slots=True)
class Surroundings:
    """A generation's own thread state, attention processors and settings of parts, while it is
    suspended."""

    shared: SharedParts
    context: Context  # its caller's; entered for what is done for it alone
    thread: ThreadState | None = None  # None: it has not begun, or has the engine's
    processors: Processors | None = None  # None: the usual ones
    settings: Settings = ()  # those that are not the usual ones

    @contextmanager
    def in_place(self, *, keep: bool = False) -> Generator[None]:
        """They hold inside, and the engine's outside. ``keep``: what is changed inside belongs to
        the generation from then on."""
        owners = self.shared.processors
        usual = owners.current()
        settled = self.shared.settings.current(usual)
        engine = ThreadState.of_this_thread()
        if self.thread is not None:
            self.thread.apply()
        if self.processors is not None:
            owners.put(self.processors)
        part_settings.put(self.settings)
        try:
            yield
        finally:
            left = part_settings.again(settled)
            if keep:
                self.thread = ThreadState.of_this_thread()
                now = owners.current()
                self.processors = None if same(now, usual) else now
                self.settings = part_settings.changes(settled, left)
            part_settings.put(part_settings.changes(left, settled))
            owners.put(usual)
            engine.apply()

    def key(self) -> Hashable:
        """Equal for generations whose calls find the same. Ask while they are suspended."""
        processors = None
        if self.processors is not None:
            processors = described(self.processors, self.shared.processors.current())
        return (self.thread, processors, part_settings.described(self.settings))
