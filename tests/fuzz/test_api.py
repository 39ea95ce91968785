"""What the calls of ``scripts/fuzz --target api`` find, at a server with defects."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import schemathesis
from schemathesis.engine import from_schema
from schemathesis.engine.events import EngineEvent

from tests.fuzz.__main__ import main
from tests.fuzz.api import ApiFindings, configuration, is_finding

pytestmark = pytest.mark.wire

SEED = 1


class _Defects(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer({"/broken": 500, "/busy": 503}.get(self.path.partition("?")[0], 200))

    def answer(self, status: int = 405) -> None:
        self.send_response(status)
        self.send_header("allow", "GET")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *arguments: object) -> None:
        """Keep the test's output clean."""


for _method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "QUERY"):
    setattr(_Defects, f"do_{_method}", _Defects.answer)


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Defects) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def openapi_document(*paths: str) -> dict[str, Any]:
    answer = {"description": "An answer.", "content": {"application/json": {"schema": {}}}}
    call = {"responses": {"200": answer, "503": answer}}
    return {
        "openapi": "3.0.4",
        "info": {"title": "Defects", "version": "1"},
        "paths": {path: {"get": call} for path in paths},
    }


def run_cycle(url: str, *paths: str) -> list[EngineEvent]:
    """All events of one cycle. Without a time limit, so that none is left out on a busy machine."""
    settings = configuration(url, 1, SEED, "id:secret")
    del settings["max-time"]
    config = schemathesis.Config.from_dict(settings)
    schema = schemathesis.openapi.from_dict(openapi_document(*paths), config=config)
    schema.hook("filter_failure")(is_finding)
    return list(from_schema(schema).execute())


def test_a_server_error_is_found_once_with_its_call_and_answer(url: str) -> None:
    findings = ApiFindings()
    for event in run_cycle(url, "/broken", "/busy", "/fine"):
        findings.add("operator", event)
        findings.add("reader", event)
    (error,) = (
        finding for finding in findings.found.values() if finding.check == "not_a_server_error"
    )
    assert (error.operation, error.caller) == ("GET /broken", "operator")
    assert error.curl.startswith("curl ")
    assert "secret" not in error.curl
    assert error.answer == "500 application/json\n{}"
    assert {"GET /broken", "GET /busy", "GET /fine"} == findings.operations
    assert findings.statuses[500] > 1


def test_the_documented_answer_of_a_busy_server_is_none(url: str) -> None:
    findings = ApiFindings()
    for event in run_cycle(url, "/busy"):
        findings.add("operator", event)
    assert not findings.found
    assert findings.statuses[503]


@pytest.mark.parametrize(("paths", "status"), [(["/broken"], 1), ([], 0)])
def test_the_command_fails_if_something_is_found(
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    paths: list[str],
    status: int,
) -> None:
    def fuzz(_seconds: float, _seed: int, findings: ApiFindings) -> None:
        for event in run_cycle(url, *paths) if paths else ():
            findings.add("operator", event)

    monkeypatch.setattr("tests.fuzz.__main__.fuzz_api", fuzz)
    monkeypatch.setattr("sys.argv", ["fuzz", "--target", "api", "--seed", "5"])
    assert main() == status
    output = capsys.readouterr().out
    assert "Seed 5." in output
    assert ("FOUND api: not_a_server_error at GET /broken" in output) is bool(status)
