"""The audit against a server that speaks the protocol of OSV's database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx2
import pytest

from scripts.supply_chain import audit
from scripts.supply_chain.audit import (
    Accepted,
    Database,
    Unreachable,
    Vulnerability,
    accepting_rule,
)
from scripts.supply_chain.packages import Package
from serve_app.free_ports import free_port

HOLE = {
    "id": "GHSA-xxxx",
    "aliases": ["CVE-2026-1"],
    "summary": "It runs code.",
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "Thing_One"},
            "ranges": [
                {"type": "GIT", "events": [{"fixed": "abcdef"}]},
                {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.2"}]},
            ],
        }
    ],
}


class Osv(ThreadingHTTPServer):
    """``vulnerable``: ids by purl, one a page."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.vulnerable: dict[str, list[str]] = {}
        self.details: dict[str, Any] = {"GHSA-xxxx": HOLE}
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Osv

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.path == "/v1/querybatch"
        results: list[dict[str, Any]] = []
        for query in body["queries"]:
            page = int(query.get("page_token", 0))
            ids = self.server.vulnerable.get(query["package"]["purl"], [])
            result: dict[str, Any] = {}
            if ids[page:]:
                result["vulns"] = [{"id": ids[page], "modified": "2026-01-01T00:00:00Z"}]
            if ids[page + 1 :]:
                result["next_page_token"] = str(page + 1)
            results.append(result)
        self._answer({"results": results})

    def do_GET(self) -> None:
        self._answer(self.server.details[self.path.removeprefix("/v1/vulns/")])

    def _answer(self, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def osv() -> Iterator[Osv]:
    with Osv() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def package(name: str, version: str = "1.0") -> Package:
    return Package(name, version, (), (), {})


def find_vulnerabilities(osv: Osv, *packages: Package) -> list[Vulnerability]:
    with httpx2.Client(base_url=osv.url) as client:
        return Database(client).look_up(packages)


def test_a_vulnerability_is_named_with_the_version_that_fixes_it(osv: Osv) -> None:
    osv.vulnerable["pkg:pypi/thing-one@1.0"] = ["GHSA-xxxx"]
    (hole,) = find_vulnerabilities(osv, package("other"), package("thing-one"))
    assert str(hole) == "thing-one 1.0: GHSA-xxxx (CVE-2026-1): It runs code. Fixed in 1.2."


def test_all_pages_are_read_and_withdrawn_entries_are_left_out(osv: Osv) -> None:
    osv.details |= {"B": {"id": "B"}, "C": {"id": "C", "withdrawn": "2026-01-01T00:00:00Z"}}
    osv.vulnerable = {"pkg:pypi/thing-one@1.0": ["GHSA-xxxx", "C", "B"]}
    assert [finding.id for finding in find_vulnerabilities(osv, package("thing-one"))] == [
        "GHSA-xxxx",
        "B",
    ]


def test_many_packages_are_looked_up(osv: Osv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "AT_ONCE", 3)
    many = [package(f"p{number}") for number in range(10)]
    osv.vulnerable = {component.purl: ["GHSA-xxxx"] for component in many[4:9]}
    assert [finding.package.name for finding in find_vulnerabilities(osv, *many)] == [
        "p4",
        "p5",
        "p6",
        "p7",
        "p8",
    ]


def test_an_answer_that_is_an_error_is_not_taken_for_no_vulnerability(osv: Osv) -> None:
    osv.status = 500
    with pytest.raises(Unreachable, match="500"):
        find_vulnerabilities(osv, package("thing-one"))


def test_an_accepted_vulnerability_is_open_again_after_its_day(osv: Osv) -> None:
    osv.vulnerable["pkg:pypi/thing-one@1.0"] = ["GHSA-xxxx"]
    (hole,) = find_vulnerabilities(osv, package("thing-one"))
    rules = {"CVE-2026-1": Accepted("Darkroom does not call it.", date(2026, 6, 30))}
    assert accepting_rule(hole, date(2026, 6, 30), rules) is rules["CVE-2026-1"]
    assert accepting_rule(hole, date(2026, 7, 1), rules) is None
    assert accepting_rule(hole, date(2026, 6, 30), {}) is None


@pytest.mark.long
def test_the_command_fails_for_a_vulnerability(
    osv: Osv, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main(["--database", osv.url]) == 0
    assert "0 vulnerabilities found" in capsys.readouterr().out
    starlette = next(
        component for component in audit.shipped_packages() if component.name == "starlette"
    )
    osv.vulnerable[starlette.purl] = ["GHSA-xxxx"]
    assert audit.main(["--database", osv.url]) == 1
    assert f"starlette {starlette.version}: GHSA-xxxx" in capsys.readouterr().err


def test_without_the_database_it_says_that_nothing_was_checked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert audit.main(["--database", nowhere]) == 0
    output = capsys.readouterr()
    assert output.err.startswith("NOT CHECKED: ")
    assert "vulnerabilities found" not in output.out
    assert audit.main(["--database", nowhere, "--strict"]) == 2
