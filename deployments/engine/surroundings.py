"""What a generation finds around it when its turn comes, and takes with it when it is suspended."""

from __future__ import annotations

from collections.abc import Generator, Hashable
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass

from deployments.engine.processors import ProcessorOwners, Processors, described, same
from deployments.engine.thread_state import ThreadState


@dataclass(slots=True)
class Surroundings:
    """A generation's own thread state and attention processors, while it is suspended."""

    owners: ProcessorOwners
    context: Context  # its caller's; entered for what is done for it alone
    thread: ThreadState | None = None  # None: it has not begun, or has the engine's
    processors: Processors | None = None  # None: the usual ones

    @contextmanager
    def in_place(self, *, keep: bool = False) -> Generator[None]:
        """They hold inside, and the engine's outside. ``keep``: what is changed inside belongs to
        the generation from then on."""
        usual = self.owners.current()
        engine = ThreadState.of_this_thread()
        if self.thread is not None:
            self.thread.apply()
        if self.processors is not None:
            self.owners.put(self.processors)
        try:
            yield
        finally:
            if keep:
                self.thread = ThreadState.of_this_thread()
                left = self.owners.current()
                self.processors = None if same(left, usual) else left
            self.owners.put(usual)
            engine.apply()

    def key(self) -> Hashable:
        """Equal for generations whose calls find the same. Ask while they are suspended."""
        if self.processors is None:
            return (self.thread, None)
        return (self.thread, described(self.processors, self.owners.current()))
