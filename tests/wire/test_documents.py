"""Schemathesis makes valid and invalid calls from our OpenAPI documents; the responses must match
the documents. Seeds are fixed, so a failure can be reproduced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.specs.openapi import checks

from tests.wire.documents import (
    BUSY,
    DOCUMENT,
    ENDPOINT_DOCUMENT,
    ENDPOINTS,
    EVENTS,
    TIMEOUT_S,
    document,
    known_objects,
    point_at_objects,
)
from tests.wire.served import Address, serve

pytestmark = pytest.mark.wire

BY_THE_REPLICA = ("/fal-ai/", "/run/", "/test/")
"""Paths that return a replica's output. Here the replica is a fake, and returns less than the
endpoint's output schema requires."""

FEW, KEYED, STRANGER = 2, 4, 1  # calls of each operation


async def _nowhere(host: str, port: int) -> list[str]:
    raise OSError(f"{host}:{port} is not to be called from a test")


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve(names=_nowhere) as address:
        yield address


def without_security(document: dict[str, Any]) -> dict[str, Any]:
    """``document`` without keys: the tests set the key; otherwise Schemathesis invents keys."""
    for calls in document["paths"].values():
        for call in calls.values():
            del call["security"]
    return document


def hold(document: dict[str, Any], authorization: str | None, examples: int) -> set[int]:
    """Make all calls of ``document``. Return the statuses of the responses."""
    headers = {} if authorization is None else {"Authorization": authorization}
    (server,) = document["servers"]
    seen: set[int] = set()
    operations = [
        result.ok() for result in schemathesis.openapi.from_dict(document).get_all_operations()
    ]
    assert len(operations) == sum(len(calls) for calls in document["paths"].values())
    with requests.Session() as session:
        # A deleted object cannot be requested again.
        for operation in sorted(
            operations, key=lambda api_operation: api_operation.method == "delete"
        ):
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
        validators = [checks.status_code_conformance, checks.content_type_conformance]
        events = answer.headers.get("content-type", [""])[0].startswith(EVENTS)
        if not events and not path.startswith(BY_THE_REPLICA):
            validators.append(checks.response_schema_conformance)
        case.validate_response(answer, checks=validators)

    holds()


@pytest.mark.parametrize("examples", [FEW, pytest.param(2 * KEYED, marks=pytest.mark.long)])
def test_the_whole_document_holds_for_an_operator(address: Address, examples: int) -> None:
    whole = point_at_objects(without_security(document(address, DOCUMENT)), known_objects(address))
    seen = hold(whole, f"Key {address.key}", examples)
    assert {200, 201, 204, 400, 404, 405, 422} <= seen


@pytest.mark.long
def test_the_whole_document_holds_for_clients_without_a_key(address: Address) -> None:
    seen = hold(without_security(document(address, DOCUMENT)), None, STRANGER)
    assert 401 in seen
    assert not seen & {201, 202}


@pytest.mark.long
@pytest.mark.parametrize("endpoint_id", ENDPOINTS)
def test_the_document_of_an_endpoint_holds(address: Address, endpoint_id: str) -> None:
    described = without_security(document(address, ENDPOINT_DOCUMENT, endpoint_id=endpoint_id))
    assert {200, 404, 422} <= hold(described, f"Key {address.key}", 3 * KEYED)
    assert hold(described, None, KEYED) == {401}


def test_an_answer_that_is_not_described_is_noticed(address: Address) -> None:
    described = without_security(document(address, DOCUMENT))
    described["paths"] = {"/v1/keys": {"get": described["paths"]["/v1/keys"]["get"]}}
    del described["paths"]["/v1/keys"]["get"]["responses"]["401"]
    with pytest.raises((AssertionError, BaseExceptionGroup), match="Undocumented status code"):
        hold(described, None, STRANGER)
