"""Schemathesis makes valid and invalid calls from our OpenAPI documents; the responses must match
the documents. Seeds are fixed, so a failure can be reproduced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.specs.openapi import checks

from tests.wire.served import Address, served

pytestmark = pytest.mark.wire

# The code of an app is sent as it is, like any other bytes.
schemathesis.serializer.alias("application/zip", "application/octet-stream")

ENDPOINTS = ("fal-ai/flux/schnell", "test/probe")
BY_THE_REPLICA = ("/fal-ai/", "/run/", "/test/")
"""Paths that return a replica's output. Here the replica is a fake, and returns less than the
endpoint's output schema requires."""

EVENTS = "text/event-stream"
"""Type of event streams. OpenAPI 3.0 has no events: a stream is described as its text."""

KEYED, STRANGER = 4, 1  # calls of each operation
BUSY = {503, 504, 507}  # if documented; 504 when the client's own time limit is 0
TIMEOUT_S = 20.0
REQUESTS = 6  # that have ended, for calls about one


async def _nowhere(host: str, port: int) -> list[str]:
    raise OSError(f"{host}:{port} is not to be called from a test")


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with served(names=_nowhere) as address:
        yield address


def document(address: Address, path: str, **params: str) -> dict[str, Any]:
    headers = {"Authorization": f"Key {address.key}"}
    answer = httpx.get(address.url + path, params=params, headers=headers, timeout=TIMEOUT_S)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    for calls in found["paths"].values():
        for call in calls.values():
            del call["security"]  # the tests set the key; otherwise Schemathesis invents keys
    return found


def known(address: Address) -> dict[str, list[str]]:
    """Existing objects, by the name of their parameter in a path."""
    headers = {"Authorization": f"Key {address.key}"}
    with httpx.Client(base_url=address.url, headers=headers, timeout=TIMEOUT_S) as client:
        ended = [client.post("/run/test/probe", json={"artifacts": 1}) for _ in range(REQUESTS)]
        file = client.post("/cdn/files/upload", content=b"x", headers={"content-type": "image/png"})
        key = client.post("/v1/keys", json={}).json()
    assert all(each.status_code == 200 for each in (*ended, file))
    return {
        "request_id": [each.headers["x-fal-request-id"] for each in ended],
        "key": [urlsplit(file.json()["access_url"]).path.removeprefix("/files/")],
        "key_id": [key["key_id"]],
        "endpoint_id": ["test/unserved"],
        "model": list(ENDPOINTS),
        "owner": ["test", "fal-ai"],
        "name": ["probe"],
    }


def pointed(document: dict[str, Any], at: dict[str, list[str]]) -> dict[str, Any]:
    """``document`` whose valid calls name existing objects; the invalid calls name unknown ones."""
    for calls in document["paths"].values():
        for call in calls.values():
            for parameter in call.get("parameters", ()):
                if parameter["in"] == "path" and parameter["name"] in at:
                    parameter["schema"] = {"type": "string", "enum": at[parameter["name"]]}
    return document


def hold(document: dict[str, Any], authorization: str | None, examples: int) -> set[int]:
    """Make all calls of ``document``. Return the statuses of the responses."""
    headers = {} if authorization is None else {"Authorization": authorization}
    (server,) = document["servers"]
    seen: set[int] = set()
    operations = [
        each.ok() for each in schemathesis.openapi.from_dict(document).get_all_operations()
    ]
    assert len(operations) == sum(len(calls) for calls in document["paths"].values())
    with requests.Session() as session:
        # A deleted object cannot be requested again.
        for operation in sorted(operations, key=lambda each: each.method == "delete"):
            _hold(operation, server["url"], headers, session, examples, seen)
    return seen


def _hold(
    operation: APIOperation,
    url: str,
    headers: dict[str, str],
    session: requests.Session,
    examples: int,
    seen: set[int],
) -> None:
    path = urlsplit(url).path + operation.path
    kinds = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(*kinds))
    def holds(case: Case) -> None:
        answer = case.call(
            base_url=url, headers=headers, session=session, timeout=TIMEOUT_S, allow_redirects=False
        )
        seen.add(answer.status_code)
        assert answer.status_code < 500 or answer.status_code in BUSY, answer.text
        held = [checks.status_code_conformance, checks.content_type_conformance]
        events = answer.headers.get("content-type", [""])[0].startswith(EVENTS)
        if not events and not path.startswith(BY_THE_REPLICA):
            held.append(checks.response_schema_conformance)
        case.validate_response(answer, checks=held)

    holds()


def test_the_whole_document_holds_for_an_operator(address: Address) -> None:
    whole = pointed(document(address, "/openapi.json"), known(address))
    seen = hold(whole, f"Key {address.key}", KEYED)
    assert {200, 201, 204, 400, 404, 405, 422} <= seen


def test_the_whole_document_holds_for_clients_without_a_key(address: Address) -> None:
    seen = hold(document(address, "/openapi.json"), None, STRANGER)
    assert 401 in seen
    assert not seen & {201, 202}


@pytest.mark.parametrize("endpoint_id", ENDPOINTS)
def test_the_document_of_an_endpoint_holds(address: Address, endpoint_id: str) -> None:
    described = document(address, "/api/openapi/queue/openapi.json", endpoint_id=endpoint_id)
    assert {200, 404, 422} <= hold(described, f"Key {address.key}", 3 * KEYED)
    assert hold(described, None, KEYED) == {401}


def test_an_answer_that_is_not_described_is_noticed(address: Address) -> None:
    described = document(address, "/openapi.json")
    described["paths"] = {"/v1/keys": {"get": described["paths"]["/v1/keys"]["get"]}}
    del described["paths"]["/v1/keys"]["get"]["responses"]["401"]
    with pytest.raises((AssertionError, BaseExceptionGroup), match="Undocumented status code"):
        hold(described, None, STRANGER)
