"""Log lines about a request contain its id, whichever thread logs them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from deployments.engine.loop.generation import Generation, GenerationRequest
from serve_app.domain.errors import InvalidInput
from serve_app.domain.progress import Progress
from serve_app.telemetry.logs import JsonFormatter, request_id
from tests.captured_logs import CapturedLogs
from tests.deployments.conftest import MakeRig
from tests.fakes.family import ProbeFamily

log = logging.getLogger("deployments.families.registry.reported")
HERE = "tests.deployments.replica.test_log_lines:ToldFamily"

OF_THE_REPLICA = ("Replica replica-1 ",)
"""Prefixes of log lines that are not about a request."""


class ToldFamily(ProbeFamily):
    """Family that logs a line in each of its methods."""

    def load(self, *arguments: Any, **named: Any) -> Any:
        log.info("It loads.")
        pipeline = super().load(*arguments, **named)
        pipeline.transformer.register_forward_hook(lambda *_: log.info("It computes."))
        return pipeline

    def prepare(self, *arguments: Any, **named: Any) -> Any:
        log.info("It prepares.")
        return super().prepare(*arguments, **named)

    def deliver(self, *arguments: Any, **named: Any) -> Any:
        log.info("It delivers.")
        return super().deliver(*arguments, **named)


class Refusing(ProbeFamily):
    """Knows what only a model can know of an input."""

    def prepare(self, *arguments: Any, **named: Any) -> Any:
        raise InvalidInput.of_field("prompt", "no such word")


class Lines(logging.Handler):
    """Captured log lines, each with the request that it is about."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[tuple[str, str | None]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.all.append((record.getMessage(), request_id.get()))

    def about(self, beginning: str) -> set[str | None]:
        return {about for message, about in self.all if message.startswith(beginning)}

    def about_nothing(self) -> list[str]:
        """Lines without a request id that should have one."""
        return [
            message
            for message, about in self.all
            if about is None and not message.startswith(OF_THE_REPLICA)
        ]


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    loggers = [logging.getLogger(name) for name in ("deployments", "weights")]
    levels = [source.level for source in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield handler
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


async def test_every_line_has_the_id_of_its_request_on_whichever_thread_it_is_logged(
    make_rig: MakeRig, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listen(progress: Progress) -> None:
        raise ZeroDivisionError(progress)

    begun = Generation.__init__

    def begin(self: Generation, request: GenerationRequest, *arguments: Any, **named: Any) -> None:
        begun(self, replace(request, on_progress=listen), *arguments, **named)

    monkeypatch.setattr(Generation, "__init__", begin)
    rig = await make_rig(probe=HERE)
    good = rig.offer("one", steps=2, artifacts=1)
    two = rig.offer("two", steps=2, artifacts=1)
    bad = rig.offer("bad", steps=1, fail="No paint.")
    for key in (good, two, bad):
        await rig.outcome(key)
    await rig.replica.aclose()
    assert set(lines.about_nothing()) <= {"It computes."}  # logged in a shared forward
    assert lines.about("It prepares.") == {"one", "two", "bad"}
    assert lines.about("It delivers.") == {"one", "two"}
    assert lines.about("A listener for progress failed.") == {"one", "two", "bad"}
    assert lines.about("The attempt failed.") == {"bad"}
    (first,) = lines.about("It loads.")
    assert lines.about("Loading ") == lines.about("Loaded ") == {first}


async def test_an_input_that_is_refused_is_a_line_without_the_code(
    make_rig: MakeRig, lines: Lines, caplog: CapturedLogs
) -> None:
    rig = await make_rig(probe=f"{__name__}:Refusing")
    outcome = await rig.outcome(rig.offer("bad"))
    await rig.replica.aclose()
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.field) == ("invalid_input", "prompt")
    assert lines.about("The input was refused: prompt: no such word") == {"bad"}
    assert not [record for record in caplog.records if record.exc_info]


async def test_json_lines_of_a_replica_name_the_tenant_and_the_endpoint_on_every_thread(
    make_rig: MakeRig,
) -> None:
    written = io.StringIO()
    handler, log = logging.StreamHandler(written), logging.getLogger("deployments")
    handler.setFormatter(JsonFormatter())
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        rig = await make_rig(probe=HERE)
        lease = replace(rig.lease("one", steps=1), tenant="acme")
        rig.port.offer(lease)
        await rig.outcome(lease.key)
        await rig.replica.aclose()
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    about = {line["message"]: line for line in lines if line.get("request_id") == "one"}
    assert {"It prepares.", "It computes.", "It delivers."} <= about.keys()
    assert all(line["tenant"] == "acme" for line in about.values())
    assert all(line["endpoint"] == lease.endpoint.id for line in about.values())


async def test_what_the_engine_says_of_a_preview_has_the_id_of_who_is_watched(
    make_rig: MakeRig, lines: Lines
) -> None:
    rig = await make_rig(probe=HERE)
    key = rig.offer("one", steps=40, step_ms=20)
    rig.port.watched.add(key)
    await rig.outcome(key)
    await rig.replica.aclose()
    assert lines.about("No preview of this generation:") == lines.about("It computes.") == {"one"}
    assert not lines.about_nothing()
