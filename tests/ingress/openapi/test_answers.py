"""Every answer in the tests of the ingress is compared with the OpenAPI document.

``house.build_house`` does it. These tests show that it notices what the document lacks.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse

from tests.ingress.answers import Answer, CheckedAnswers, contract_of
from tests.ingress.house import CATALOG, ORIGIN

CONTRACT = contract_of(CATALOG)
DELETED = {"deleted_files": 1, "later_files": 0}


def problems(path: str, body: object, *, method: str = "DELETE", **more: Any) -> list[str]:
    answer = Answer(method, path, **{"status": 200, "media_type": "application/json", **more})
    answer.body += json.dumps(body).encode()
    return list(CONTRACT.problems(answer))


def test_a_documented_answer_has_no_problems() -> None:
    assert problems("/v1/requests/x", DELETED) == []
    assert problems("/v1/uploads/u/x/a.png", DELETED) == []


@pytest.mark.parametrize(
    ("body", "more", "problem"),
    [
        (DELETED | {"later": 1}, {}, "'later' was unexpected"),
        ({"deleted_files": 1}, {}, "'later_files' is a required property"),
        (DELETED | {"later_files": None}, {}, "$.later_files: None"),
        (DELETED, {"status": 418}, "an undocumented status"),
        (DELETED, {"media_type": "text/plain"}, "an undocumented media type, text/plain"),
        (DELETED, {"method": "PATCH"}, "an undocumented call was answered"),
    ],
)
def test_what_the_document_lacks_is_noticed(
    body: object, more: dict[str, Any], problem: str
) -> None:
    mismatches = problems("/v1/requests/x", body, **more)
    assert problem in "\n".join(mismatches)


def test_an_undocumented_path_may_only_be_refused() -> None:
    error = {"detail": "There is nothing at /v1/x."}
    assert problems("/v1/x", error, method="GET", status=404) == []
    assert "undocumented call" in problems("/v1/x", {}, method="GET")[0]


@pytest.mark.parametrize(
    "path", ["/test/probe/requests/x", "/run/test/probe/requests/x", "/queue/test/probe/requests/x"]
)
@pytest.mark.parametrize("tail", ["/status", "/status/"])
def test_calls_about_requests_are_known_under_each_prefix(path: str, tail: str) -> None:
    assert "required" in problems(path + tail, {}, method="GET", status=202)[0]


async def test_answers_are_recorded_as_they_are_sent() -> None:
    mismatches: list[str] = []
    app = CheckedAnswers(JSONResponse({"status": "fine"}), CONTRACT, mismatches)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN) as client:
        assert (await client.get("/healthz")).json() == {"status": "fine"}
    assert len(mismatches) == 1
    assert "'fine' is not one of ['ok']" in mismatches[0]


def test_every_documented_path_is_known() -> None:
    for path, calls in CONTRACT.paths.items():
        concrete = path.replace("{", "").replace("}", "")
        assert CONTRACT.calls(concrete) == calls
