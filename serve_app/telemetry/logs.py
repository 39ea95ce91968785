"""Log formatting: readable or JSON lines, each with the id of its request."""

from __future__ import annotations

import contextvars
import json
import logging
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO

from serve_app.telemetry.trace_context import ids_of

Format = Literal["text", "json"]

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "darkroom_request_id", default=None
)
"""Id of the request that the current task serves. The ingress and the replicas set it."""


@dataclass(frozen=True, slots=True)
class _Subject:
    """Facts about one request, for JSON lines. Lines about another request do not show them."""

    request_id: str
    tenant: str
    endpoint: str
    trace: str  # W3C trace context


_subject: contextvars.ContextVar[_Subject | None] = contextvars.ContextVar(
    "darkroom_subject", default=None
)


def describe(id_: str, *, tenant: str, endpoint: str = "", trace: str = "") -> None:
    """Name the tenant, the endpoint and the trace of request ``id_`` in the current task's lines
    about it."""
    _subject.set(_Subject(id_, tenant, endpoint, trace))


def set_request(id_: str, *, tenant: str, endpoint: str = "", trace: str = "") -> None:
    """Attach the request to the log lines of the current task, until its context is reset."""
    request_id.set(id_)
    describe(id_, tenant=tenant, endpoint=endpoint, trace=trace)


@contextmanager
def log_context(id_: str | None) -> Generator[None]:
    """Attach this request id to the log lines of the block; None for no request or several."""
    token = request_id.set(id_)
    try:
        yield
    finally:
        request_id.reset(token)


ROOT = "serve_app", "deployments", "weights"
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
    """One JSON object a line: ``at``, ``level``, ``logger``, ``message``; if they are known,
    ``request_id``, ``tenant``, ``endpoint``, ``trace_id``, ``span_id``; ``error``, a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {"at": _stamp(record), "level": record.levelname, "logger": record.name}
        if (about := request_id.get()) is not None:
            entry["request_id"] = about
            if (subject := _subject.get()) is not None and subject.request_id == about:
                facts = {"tenant": subject.tenant, "endpoint": subject.endpoint}
                entry |= {name: fact for name, fact in facts.items() if fact}
                if subject.trace:
                    entry["trace_id"], entry["span_id"] = ids_of(subject.trace)
        entry["message"] = record.getMessage()
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        # ASCII only: half of a surrogate pair in a client's text cannot be written as UTF-8.
        return json.dumps(entry)


def stream(path: Path | None) -> TextIO:
    """Stream for log lines: a file that several processes append to, or stderr."""
    if path is None:
        return sys.stderr
    path.parent.mkdir(parents=True, exist_ok=True)
    # Line buffering and O_APPEND keep the lines of several processes whole.
    return path.open("a", buffering=1, encoding="utf-8")


def configure(level: str, stream: TextIO, format_: Format = "text") -> None:
    """Send Darkroom's log lines to ``stream``. A second call replaces the first one's setup."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if format_ == "json" else LineFormatter())
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
