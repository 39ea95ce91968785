"""Log formatting: readable or JSON lines, each with the id of its request."""

from __future__ import annotations

import contextvars
import json
import logging
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "darkroom_request_id", default=None
)
"""Id of the request that the current task serves. The ingress and the replicas set it."""


@contextmanager
def log_context(id_: str | None) -> Generator[None]:
    """Attach this request id to the log lines of the block; None for no request or several."""
    token = request_id.set(id_)
    try:
        yield
    finally:
        request_id.reset(token)


ROOT = "serve_app", "deployments"
"""Darkroom's loggers. The loggers of libraries keep their handlers."""

SERVE_LOGGER = "ray.serve"


class _Formatter(logging.Formatter):
    def formatException(self, ei: Any) -> str:  # noqa: N802  # logging's name
        # logging's own writes by print(), which Ray Serve replaces by one that prints tuples.
        return "".join(traceback.format_exception(*ei)).rstrip("\n")


class LineFormatter(_Formatter):
    """Format such as ``2026-03-01T12:00:00.123Z INFO  ingress.fal.run [0195…] message``."""

    def format(self, record: logging.LogRecord) -> str:
        name = record.name.removeprefix("serve_app.")
        about = f" [{rid}]" if (rid := request_id.get()) else ""
        line = f"{_stamp(record)} {record.levelname:<7} {name}{about} {record.getMessage()}"
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


class JsonFormatter(_Formatter):
    """JSON lines with ``at``, ``level``, ``logger``, ``request_id``, ``message``, ``error``."""

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
    """Stream for log lines: a file that several processes append to, or stderr."""
    if path is None:
        return sys.stderr
    path.parent.mkdir(parents=True, exist_ok=True)
    # Line buffering and O_APPEND keep the lines of several processes whole.
    return path.open("a", buffering=1, encoding="utf-8")


def configure(level: str, stream: TextIO, *, as_json: bool = False) -> None:
    """Send Darkroom's log lines to ``stream``. A second call replaces the first one's setup."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if as_json else LineFormatter())
    for name in ROOT:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        # Ray installs a root handler in replicas, which would print each line a second time.
        logger.propagate = False


def quiet_serve() -> None:
    """Turn off Serve's log line for each call. Warnings are still logged.

    The lines go to Ray's own log files, which Darkroom's users do not read. Writing them takes a
    thirtieth of a request's cost (measured).
    """
    logging.getLogger(SERVE_LOGGER).setLevel(logging.WARNING)


def _stamp(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, tz=UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
