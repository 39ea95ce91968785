"""Log records of one test, in place of those of pytest's logging plugin."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class CapturedLogs(logging.Handler):
    """What is logged while it is attached.

    pytest's plugin goes through all loggers six times for each test: a quarter of the CPU time of
    small tests. This one is attached only for the tests that ask for it, as ``caplog``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        self.records: list[logging.LogRecord] = []
        self._levels: dict[logging.Logger, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        record.message = record.getMessage()
        self.records.append(record)

    @property
    def messages(self) -> list[str]:
        return [record.message for record in self.records]

    @property
    def text(self) -> str:
        """A line for each record, and its traceback."""
        return "".join(f"{self.format(record)}\n" for record in self.records)

    def clear(self) -> None:
        self.records.clear()

    def set_level(self, level: int | str, logger: str | None = None) -> None:
        """Set the level of a logger, of the root by default, until the test ends."""
        changed = logging.getLogger(logger)
        self._levels.setdefault(changed, changed.level)
        changed.setLevel(level)

    @contextmanager
    def at_level(self, level: int | str, logger: str | None = None) -> Iterator[None]:
        """Meanwhile a logger, the root by default, has another level."""
        changed = logging.getLogger(logger)
        before = changed.level
        changed.setLevel(level)
        try:
            yield
        finally:
            changed.setLevel(before)

    @contextmanager
    def attached(self) -> Iterator[CapturedLogs]:
        """Attach it to the root and to the loggers that do not pass on to it."""
        known = logging.root.manager.loggerDict.values()
        apart = (item for item in known if isinstance(item, logging.Logger) and not item.propagate)
        loggers = [logging.root, *apart]
        for logger in loggers:
            logger.addHandler(self)
        try:
            yield self
        finally:
            for logger in loggers:
                logger.removeHandler(self)
            for logger, level in self._levels.items():
                logger.setLevel(level)
