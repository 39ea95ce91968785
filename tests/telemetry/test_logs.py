from __future__ import annotations

import builtins
import io
import json
import logging
from collections.abc import Iterator

import pytest
from ray.serve._private.logging_utils import redirected_print

from serve_app.telemetry import logs


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    before = {
        name: (logger.handlers, logger.level, logger.propagate)
        for name in logs.ROOT
        if (logger := logging.getLogger(name))
    }
    yield
    for name, (handlers, level, propagate) in before.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_a_line_names_the_request_it_is_about() -> None:
    stream = io.StringIO()
    logs.configure("INFO", stream)
    token = logs.request_id.set("0195-abc")
    logging.getLogger("serve_app.ingress.api.files").info("stored %d bytes", 7)
    logs.request_id.reset(token)
    logging.getLogger("deployments.replica.deployment").warning("no request here")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("INFO    ingress.api.files [0195-abc] stored 7 bytes")
    assert second.endswith("WARNING deployments.replica.deployment no request here")


def test_what_is_said_about_one_request_on_the_way_of_another_has_its_own_id() -> None:
    stream = io.StringIO()
    logs.configure("INFO", stream)
    log = logging.getLogger("serve_app.queue.reaper")
    with logs.log_context("outer"):
        with logs.log_context("inner"):
            log.info("one")
        with logs.log_context(None):
            log.info("two")
        log.info("three")
    log.info("four")
    messages = [line.partition("queue.reaper ")[2] for line in stream.getvalue().splitlines()]
    assert messages == ["[inner] one", "two", "[outer] three", "four"]


@pytest.mark.parametrize("format_", ["text", "json"])
def test_a_traceback_reads_as_usual_where_ray_serve_has_replaced_print(
    monkeypatch: pytest.MonkeyPatch, format_: logs.Format
) -> None:
    monkeypatch.setattr(builtins, "print", redirected_print)
    stream = io.StringIO()
    logs.configure("INFO", stream, format_)
    try:
        int("wide")
    except ValueError as error:
        logging.getLogger("serve_app").warning("It failed.", exc_info=error)
    text = json.loads(stream.getvalue())["error"] if format_ == "json" else stream.getvalue()
    assert text.splitlines()[-1] == "ValueError: invalid literal for int() with base 10: 'wide'"
    assert "\nTraceback (most recent call last):\n" in "\n" + text


def test_configuring_twice_does_not_say_everything_twice() -> None:
    stream = io.StringIO()
    logs.configure("INFO", stream)
    logs.configure("INFO", stream)
    logging.getLogger("serve_app").info("once")
    assert stream.getvalue().count("once") == 1


def test_a_level_is_a_level() -> None:
    stream = io.StringIO()
    logs.configure("WARNING", stream)
    logging.getLogger("serve_app").info("quiet")
    assert stream.getvalue() == ""


def test_json_lines_are_json_with_the_traceback() -> None:
    stream = io.StringIO()
    logs.configure("INFO", stream, "json")
    token = logs.request_id.set("0195-abc")
    try:
        int("boom")
    except ValueError:
        logging.getLogger("serve_app.queue").exception("it broke\nbadly")
    finally:
        logs.request_id.reset(token)
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert (entry["request_id"], entry["level"], entry["message"]) == (
        "0195-abc",
        "ERROR",
        "it broke\nbadly",
    )
    assert "ValueError: invalid literal" in entry["error"]


def test_json_lines_about_a_request_name_its_tenant_and_endpoint_and_no_other_lines_do() -> None:
    stream = io.StringIO()
    logs.configure("INFO", stream, "json")
    log = logging.getLogger("serve_app.queue.reaper")
    log.info("before")
    with logs.log_context("one"):
        logs.describe("one", tenant="acme", endpoint="fal-ai/flux/dev")
        log.info("about one")
        with logs.log_context("two"):
            log.info("about two")
    log.info("after")
    about = [json.loads(line) for line in stream.getvalue().splitlines()]
    facts = [
        {name: record[name] for name in ("request_id", "tenant", "endpoint") if name in record}
        for record in about
    ]
    first_facts = {"request_id": "one", "tenant": "acme", "endpoint": "fal-ai/flux/dev"}
    assert facts == [{}, first_facts, {"request_id": "two"}, {}]


def test_a_json_line_is_one_line_and_can_be_written_whatever_a_client_sent() -> None:
    stream = io.TextIOWrapper(raw := io.BytesIO(), encoding="utf-8")
    logs.configure("INFO", stream, "json")
    text = "a\nb\u2028c\ud800 ü"
    logging.getLogger("serve_app").info("It said %s", text)
    stream.flush()
    (line,) = raw.getvalue().decode().splitlines()
    assert json.loads(line)["message"] == f"It said {text}"
