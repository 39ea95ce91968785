"""Log lines that a person can read, each with the request it is about."""

from __future__ import annotations

import contextvars
import json
import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "darkroom_request_id", default=None
)
"""The request that the running task serves; set by the ingress and by a replica's generation."""


@contextmanager
def about(id_: str | None) -> Generator[None]:
    """What is logged inside is about this request; None: about none, or several."""
    token = request_id.set(id_)
    try:
        yield
    finally:
        request_id.reset(token)


ROOT = "serve_app", "deployments"
"""Loggers of ours. Those of libraries keep the handlers that their host gave them."""

SERVE_LOGGER = "ray.serve"


class LineFormatter(logging.Formatter):
    """``2026-03-01T12:00:00.123Z INFO  ingress.fal.run [0195…] message``"""

    def format(self, record: logging.LogRecord) -> str:
        name = record.name.removeprefix("serve_app.")
        about = f" [{rid}]" if (rid := request_id.get()) else ""
        line = f"{_stamp(record)} {record.levelname:<7} {name}{about} {record.getMessage()}"
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


class JsonFormatter(logging.Formatter):
    """JSON lines: ``at``, ``level``, ``logger``, ``request_id``, ``message``, ``error``."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "at": _stamp(record),
            "level": record.levelname,
            "logger": record.name,
            "request_id": request_id.get(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def stream(path: Path | None) -> TextIO:
    """Where to log: at the end of a file that several processes share, or stderr."""
    if path is None:
        return sys.stderr
    path.parent.mkdir(parents=True, exist_ok=True)
    # Line by line and by O_APPEND: lines of several processes come whole.
    return path.open("a", buffering=1, encoding="utf-8")


def configure(level: str, stream: TextIO, *, as_json: bool = False) -> None:
    """Send our loggers to ``stream``. Calling it again replaces what it set before."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if as_json else LineFormatter())
    for name in ROOT:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        # Ray installs a root handler of its own in replicas: a line must not come out twice.
        logger.propagate = False


def quiet_serve() -> None:
    """Without Serve's own line for each call, which goes to files of Ray's that nobody is told of.
    Making it is a thirtieth of what a request costs here (measured); warnings still go there."""
    logging.getLogger(SERVE_LOGGER).setLevel(logging.WARNING)


def _stamp(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, tz=UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
