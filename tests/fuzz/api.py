"""Calls that Schemathesis makes from the OpenAPI documents of a real Darkroom, for a time."""

from __future__ import annotations

import itertools
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import schemathesis
from schemathesis import Case, HookContext
from schemathesis.core.failures import Failure
from schemathesis.engine import events, from_schema
from schemathesis.engine.recorder import RecordedScenario

from tests.cluster.darkroom import Darkroom
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
from tests.wire.served import Address

IDLE = "test/large-wan"
"""Endpoint that calls may pause."""

EXAMPLES, STEPS = 4, 6
"""Calls of an operation in one cycle, and steps of a scenario. The cycles repeat until the time is
over, so few examples let each cycle reach every operation."""

ANSWER = 600  # bytes of an answer that are shown

SHARES = {"operator": 6, "reader": 2, "stranger": 1, **dict.fromkeys(ENDPOINTS, 1)}
"""Parts of the time for the whole document with each key, and for the documents of endpoints."""

CHECKS: dict[str, Any] = {
    # Documented or not: `status_code_conformance` finds those that are not.
    "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", *map(str, sorted(BUSY))]},
    # Our documents cannot say which values refer to what exists, or which pools have started.
    "positive_data_acceptance": {"enabled": False},
}


UNSUPPORTED = ("/rest/", "/cdn/")
"""Paths where any call of fal's that is not supported gets 400, with any method."""


def is_finding(
    _context: HookContext, failure: Failure, case: Case, response: schemathesis.Response
) -> bool:
    """Return True if a failed check shows a defect of ours, rather than one of Schemathesis."""
    check, path = failure.checks[0] if failure.checks else "", case.operation.path
    if check == "unsupported_method":
        return not (path.startswith(UNSUPPORTED) or _reaches_another(case, response))
    if check == "response_schema_conformance":
        # OpenAPI 3.0 cannot describe events. Ours describes the text of the stream, Schemathesis
        # reads the schema as that of each event.
        return not response.headers.get("content-type", [""])[0].startswith(EVENTS)
    if check == "negative_data_rejection":
        # One of two fields is required. From the refusals Schemathesis learns that the first is.
        return not path.startswith("/rest/tokens")
    return True


def _reaches_another(case: Case, response: schemathesis.Response) -> bool:
    """Return True for the call of a path with a parameter: `/videos/edits` also names a video."""
    path = urlsplit(str(response.request.url)).path
    method = str(response.request.method).lower()
    return any(
        method in calls and re.fullmatch(re.sub(r"\\{[^}]+\}", "[^/]+", re.escape(known)), path)
        for known, calls in case.operation.schema.raw_schema["paths"].items()
    )


@dataclass(frozen=True, slots=True)
class ApiFinding:
    """Answer that a check of Schemathesis does not accept. ``curl``: the call, without the key."""

    operation: str
    check: str
    caller: str
    what: str
    curl: str
    answer: str


@dataclass(slots=True)
class ApiFindings:
    """First finding of each operation and check, and what was called."""

    found: dict[tuple[str, str], ApiFinding] = field(
        default_factory=dict[tuple[str, str], ApiFinding]
    )
    statuses: Counter[int] = field(default_factory=Counter[int])
    phases: Counter[str] = field(default_factory=Counter[str])
    operations: set[str] = field(default_factory=set[str])

    def add(self, caller: str, event: events.EngineEvent) -> None:
        if isinstance(event, events.ScenarioFinished):
            self.phases[event.phase.value] += len(event.recorder.interactions)
            self._record(caller, event.recorder)
        elif isinstance(event, events.NonFatalError):
            self._keep(
                ApiFinding(event.label, event.info.title, caller, event.info.message, "", "")
            )
        elif isinstance(event, events.FatalError):
            raise event.exception

    def _record(self, caller: str, scenario: RecordedScenario) -> None:
        for case in scenario.find_all_cases():
            response = scenario.find_response(case_id=case.id)
            if response is not None:
                self.statuses[response.status_code] += 1
                self.operations.add(case.operation.label)
        for case_id, checks in scenario.checks.items():
            for check in checks:
                if check.failure_info is None:
                    continue
                failure = check.failure_info.failure
                response = scenario.find_response(case_id=failure.case_id or case_id)
                label = failure.operation or scenario.label
                self._keep(
                    ApiFinding(
                        label,
                        check.name,
                        caller,
                        str(failure),
                        check.failure_info.code_sample,
                        "" if response is None else _shown(response),
                    )
                )

    def _keep(self, finding: ApiFinding) -> None:
        self.found.setdefault((finding.operation, finding.check), finding)

    def report(self) -> Iterator[str]:
        for finding in self.found.values():
            yield f"FOUND api: {finding.check} at {finding.operation}, as {finding.caller}"
            yield from (finding.what, finding.curl, finding.answer, "")
        for result, number in (*self.phases.items(), *sorted(self.statuses.items())):
            yield f"{'api':<12} {number:>7}  {result}"
        yield (
            f"{self.statuses.total()} calls of {len(self.operations)} operations, "
            f"{len(self.found)} findings."
        )


def _shown(response: schemathesis.Response) -> str:
    body = response.content[:ANSWER].decode(errors="replace")
    return f"{response.status_code} {response.headers.get('content-type', [''])[0]}\n{body}"


def fuzz_api(seconds: float, seed: int, findings: ApiFindings) -> None:
    """Start a Darkroom and call it for ``seconds``."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        darkroom = Darkroom(Path(folder) / "data")
        try:
            darkroom.start()
            end = time.monotonic() + seconds
            for number, caller in enumerate(SHARES):
                left = sum(itertools.islice(SHARES.values(), number, None))
                share_s = (end - time.monotonic()) * SHARES[caller] / left
                _call(darkroom, caller, max(1, round(share_s)), seed + number, findings)
        finally:
            darkroom.clear_away()


def _call(darkroom: Darkroom, caller: str, seconds: int, seed: int, findings: ApiFindings) -> None:
    """Make the calls of one turn, with keys and objects of its own."""
    address = Address(darkroom.url, _key(darkroom, "admin"))
    at = known_objects(address, IDLE) | {"/v1/tenants/{tenant}": [_tenant(darkroom)]}
    described = point_at_objects(
        document(address, ENDPOINT_DOCUMENT, endpoint_id=caller)
        if caller in ENDPOINTS
        else document(address, DOCUMENT),
        at,
    )
    key = {"reader": _key(darkroom, "read"), "stranger": None}.get(caller, address.key)
    url = described["servers"][0]["url"]
    config = schemathesis.Config.from_dict(configuration(url, seconds, seed, key))
    schema = schemathesis.openapi.from_dict(described, config=config)
    schema.hook("filter_failure")(is_finding)
    for event in from_schema(schema).execute():
        findings.add(caller, event)
    _require(darkroom, address.key)


def _require(darkroom: Darkroom, key: str) -> None:
    """Refuse a turn whose own key ended, because then it tested the refusal of a key only."""
    answer = httpx.get(f"{darkroom.url}/v1/keys/self", headers={"Authorization": f"Key {key}"})
    answer.raise_for_status()


def configuration(url: str, seconds: int, seed: int, key: str | None) -> dict[str, Any]:
    return {
        "base-url": url,
        "seed": seed,
        "max-time": seconds,
        "continue-on-failure": True,
        "request-timeout": TIMEOUT_S,
        "max-redirects": 0,
        "headers": {} if key is None else {"Authorization": f"Key {key}"},
        "checks": CHECKS,
        "suppress-health-check": ["all"],
        "cache": {"enabled": False},  # a file in the working directory
        "generation": {
            "max-examples": EXAMPLES,
            "database": "none",
            "no-shrink": True,
            "with-security-parameters": False,
        },
        "phases": {"stateful": {"max-steps": STEPS}},
    }


def _key(darkroom: Darkroom, scope: str) -> str:
    """A key of its own for each turn, because calls change the keys that they see."""
    response = darkroom.http.post("/v1/keys", json={"scopes": [scope]})
    response.raise_for_status()
    return str(response.json()["key"])


def _tenant(darkroom: Darkroom) -> str:
    name = f"fuzzed-{time.monotonic_ns()}"
    darkroom.http.post("/v1/tenants", json={"tenant": name}).raise_for_status()
    return name
