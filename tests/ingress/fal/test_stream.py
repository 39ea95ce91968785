"""``POST /{endpoint}/stream``: progress, previews, and the output as the last event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.executors.partial_results import PartialResults
from serve_app.domain.progress import NOTHING_SEEN, PartialPosition, PartialResult
from serve_app.domain.request import State
from tests.captured_logs import CapturedLogs
from tests.ingress.house import House, build_house

FIELDS = st.sampled_from(["prompt", "image_size", "num_images", "seed", "loras", "artifacts"])


def events_in(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


@pytest.mark.parametrize("path", ["/test/probe/stream", "/run/test/probe/stream/"])
async def test_the_last_event_is_the_output(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(path, json={"echo": "é", "sleep_s": 0.2})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    *before, last = events_in(answer.text)
    run = await client.post("/test/probe", json={"echo": "é"})
    assert last == run.json()
    assert before[-1]["status"] == "IN_PROGRESS"
    assert before[-1]["darkroom"]["step"] == 1
    assert before[-1]["request_id"] == answer.headers["x-fal-request-id"]


async def test_a_request_that_ends_before_its_first_report_has_a_status_before_its_output(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post("/test/probe/stream", json={"echo": 1})
    first, *_, last = events_in(answer.text)
    assert first["status"] in ("IN_QUEUE", "IN_PROGRESS")
    assert first["request_id"] == answer.headers["x-fal-request-id"]
    assert last["echo"] == 1


async def test_a_files_url_in_the_last_event_can_be_read(client: httpx.AsyncClient) -> None:
    answer = await client.post("/test/probe/stream", json={"artifacts": 1, "content": "abc"})
    url = events_in(answer.text)[-1]["images"][0]["url"]
    assert (await client.get(url)).content == b"abc"


@pytest.mark.parametrize("path", ["/run/nobody/nothing/stream", "/nobody/nothing/stream"])
async def test_an_unknown_endpoint_is_a_404(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(path, json={})
    assert answer.status_code == 404
    assert "nobody/nothing" in answer.json()["detail"]


async def test_an_error_before_the_first_event_is_given_by_the_status(
    house: House, client: httpx.AsyncClient
) -> None:
    wrong = await client.post("/fal-ai/flux/schnell/stream", json={"num_inference_steps": 99})
    assert wrong.status_code == 422
    failed = await client.post(
        "/test/probe/stream", json={"fail": "pipeline_failed", "message": "No paint."}
    )
    assert failed.status_code == 500
    assert failed.json()["detail"] == "No paint."
    async with house.client("dk_no:0123456789abcdef") as stranger:
        assert (await stranger.post("/test/probe/stream", json={})).status_code == 401


def values_in(text: str) -> list[tuple[str, Any]]:
    """Id and data of each event."""
    values = []
    for event in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in event.splitlines() if line[0] != ":")
        if fields:
            values.append((fields.get("id", ""), json.loads(fields["data"])))
    return values


async def test_the_events_of_a_generator_are_its_values(client: httpx.AsyncClient) -> None:
    yields = [{"text": word} for word in ("a", "b", "b")]
    answer = await client.post("/test/generator/stream", json={"yields": yields})
    assert answer.status_code == 200
    assert answer.headers["x-fal-request-id"]
    assert values_in(answer.text) == [
        ("1-0", {"text": "a"}),
        ("1-1", {"text": "b"}),
        ("1-2", {"text": "b"}),
    ]


async def test_an_output_that_differs_from_the_last_value_is_the_last_event(
    client: httpx.AsyncClient,
) -> None:
    # As that of an app that makes files: their URLs are known at the end.
    yields = [{"image": {"url": "data:,a"}}, {"image": {"artifact": "r/none.png"}}]
    answer = await client.post("/test/generator/stream", json={"yields": yields})
    *values, (id_, last) = values_in(answer.text)
    assert [value for _, value in values] == yields
    assert id_ == ""
    assert "/files/r/none.png" in last["image"]["url"]


async def test_a_generator_without_values_streams_its_output(client: httpx.AsyncClient) -> None:
    answer = await client.post("/test/generator/stream", json={"echo": 1})
    ((_, last),) = values_in(answer.text)
    assert last["echo"] == 1


async def test_more_values_than_one_page_arrive(client: httpx.AsyncClient) -> None:
    yields = [{"n": number} for number in range(150)]
    answer = await client.post("/test/generator/stream", json={"yields": yields})
    assert [value for _, value in values_in(answer.text)] == yields


async def test_a_generators_own_path_streams_for_clients_that_ask_for_events(
    client: httpx.AsyncClient,
) -> None:
    orders = {"yields": [{"n": 1}, {"n": 2}]}
    accept = {"accept": "text/event-stream"}
    streamed = await client.post("/run/test/generator", json=orders, headers=accept)
    assert [value for _, value in values_in(streamed.text)] == orders["yields"]
    assert (await client.post("/run/test/generator", json=orders)).json() == {"n": 2}


async def test_a_client_that_comes_back_with_its_key_gets_the_values_again(
    client: httpx.AsyncClient,
) -> None:
    orders, key = {"yields": [{"n": 1}, {"n": 2}]}, {"idempotency-key": "one"}
    first, again = [
        await client.post("/test/generator/stream", json=orders, headers=key) for _ in range(2)
    ]
    assert values_in(again.text) == values_in(first.text)
    assert again.headers["x-fal-request-id"] == first.headers["x-fal-request-id"]


async def test_the_events_of_a_request_have_the_values(client: httpx.AsyncClient) -> None:
    orders = {"yields": [{"n": 1}, {"n": 2}]}
    submitted = (await client.post("/queue/test/generator", json=orders)).json()
    answer = await client.get(f"/v1/requests/{submitted['request_id']}/events")
    values = [event for event in events_in(answer.text) if "number" in event]
    assert values == [
        {"attempt": 1, "number": 0, "output": {"n": 1}},
        {"attempt": 1, "number": 1, "output": {"n": 2}},
    ]


class BrieflyAway:
    """Partial results whose database is away for a few reads after the first value was read."""

    def __init__(self, partials: PartialResults, reads: int) -> None:
        self._partials = partials
        self.reads_left = reads
        self.add, self.wait = partials.add, partials.wait

    async def after(
        self, tenant: str, request_id: str, seen: PartialPosition
    ) -> Sequence[PartialResult]:
        if seen != NOTHING_SEEN and self.reads_left:
            self.reads_left -= 1
            raise DatabaseUnavailable("PostgreSQL is restarted.")
        return await self._partials.after(tenant, request_id, seen)


@pytest.mark.parametrize("path", ["/test/generator/stream", "/v1/requests/{}/events"])
async def test_values_go_on_after_the_database_was_away_for_a_moment(
    house: House, client: httpx.AsyncClient, path: str
) -> None:
    """A restart of PostgreSQL for two seconds ended every stream of an app, and cancelled its
    request."""
    away = BrieflyAway(house.services.partials, 2)
    house.app.state.services = replace(house.services, partials=away)
    orders = {"yields": [{"n": 1}, {"n": 2}]}
    if path.startswith("/v1"):
        submitted = (await client.post("/queue/test/generator", json=orders)).json()
        answer = await client.get(path.format(submitted["request_id"]))
        values = [event["output"] for event in events_in(answer.text) if "number" in event]
    else:
        answer = await client.post(path, json=orders)
        values = [value for _, value in values_in(answer.text)]
    assert values == orders["yields"]
    assert away.reads_left == 0
    (request,) = await house.queue.page("default")
    assert request.state is State.SUCCEEDED


class Wire:
    """Bare ASGI call, so that a client can disconnect in the middle of a response."""

    def __init__(
        self, house: House, path: str = "/test/probe/stream", method: str = "POST"
    ) -> None:
        self._house = house
        self._path = path
        self._method = method
        self.sent: list[dict[str, Any]] = []
        self.said = asyncio.Event()
        self.hung_up = asyncio.Event()
        self._body = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def call(self, body: dict[str, Any], **headers: str) -> None:
        self._body[0]["body"] = json.dumps(body).encode()
        fields = {"authorization": f"Key {self._house.key}", "host": "testserver", **headers}
        scope = {
            "type": "http",
            "method": self._method,
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
            "scheme": "http",
        }
        await self._house.app(scope, self._receive, self._send)

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()

    @property
    def complete(self) -> bool:
        return self.sent[-1].get("more_body") is False

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            return self._body.pop()
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        if message.get("body"):
            self.said.set()


async def test_a_failure_after_the_first_event_is_an_event_behind_which_the_answer_breaks_off(
    house: House,
) -> None:
    wire = Wire(house)
    await wire.call({"sleep_s": 0.2, "fail": "pipeline_failed", "message": "No paint."})
    last = events_in(wire.text)[-1]
    assert (last["detail"], last["status"]) == ("No paint.", 500)
    assert "event: error\n" in wire.text
    assert not wire.complete


async def test_a_stream_of_statuses_breaks_off_with_the_error_of_the_database(
    house: House, client: httpx.AsyncClient, caplog: CapturedLogs
) -> None:
    """Each that was open while PostgreSQL was away was counted as a defect, with a traceback, and
    its client was not told the reason."""
    submitted = (await client.post("/queue/test/probe", json={"sleep_s": 5})).json()
    wire = Wire(house, f"/queue/test/probe/requests/{submitted['request_id']}/status/stream", "GET")

    async def fail(*_: Any, **__: Any) -> Any:
        raise DatabaseUnavailable("PostgreSQL is restarted.")

    house.queue.wait_for_change = fail
    await wire.call({})
    first, last = events_in(wire.text)
    assert first["request_id"] == submitted["request_id"]
    assert last["code"] == "database_unavailable"
    assert "event: error\n" in wire.text
    assert not wire.complete
    assert "the response breaks off: PostgreSQL is restarted." in caplog.text
    assert "Traceback" not in caplog.text
    counted = house.services.metrics.registry.get_sample_value
    assert not counted("darkroom_unexpected_errors_total", {"route": "fal.status_stream"})


@pytest.mark.parametrize(
    ("headers", "end"), [({}, State.CANCELLED), ({"idempotency-key": "k"}, State.SUCCEEDED)]
)
async def test_hanging_up_cancels_unless_another_call_can_find_it(
    house: House, headers: dict[str, str], end: State
) -> None:
    wire = Wire(house)
    calling = asyncio.create_task(wire.call({"sleep_s": 1}, **headers))
    await wire.said.wait()
    wire.hung_up.set()
    await calling
    await house.services.background.join()
    request_id = events_in(wire.text)[0]["request_id"]
    assert (await house.queue.wait("default", request_id, 5)).state is end


async def test_the_task_of_a_call_that_is_cancelled_cancels_its_request(house: House) -> None:
    wire = Wire(house)
    calling = asyncio.create_task(wire.call({"sleep_s": 60}))
    await wire.said.wait()
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    await house.services.background.join()
    request_id = events_in(wire.text)[0]["request_id"]
    assert (await house.queue.wait("default", request_id, 5)).state is State.CANCELLED


# Tokens


async def token(client: httpx.AsyncClient, **body: object) -> str:
    answer = await client.post("/rest/tokens/", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_token_in_the_query_stands_for_the_key(
    house: House, client: httpx.AsyncClient
) -> None:
    jwt = await token(client, allowed_apps=["probe"], token_expiration=120)
    transport = httpx.ASGITransport(house.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as browser:
        query = {"fal_jwt_token": jwt}
        answer = await browser.post("/test/probe/stream", json={"echo": 1}, params=query)
        assert events_in(answer.text)[-1]["echo"] == 1
        other = await browser.post("/fal-ai/flux/schnell/stream", json={}, params=query)
        assert other.status_code == 403
        query = {"fal_jwt_token": jwt[:-4] + "AAAA"}
        forged = await browser.post("/test/probe/stream", json={}, params=query)
        assert forged.status_code == 401
        plain = await browser.post("/test/probe", json={}, params={"fal_jwt_token": jwt})
        assert plain.status_code == 401, "only what browsers call directly takes tokens"


async def test_newer_clients_ask_for_tokens_in_other_words(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/rest/tokens/realtime", json={"app": "test/probe", "duration": 60, "new_field": 1}
    )
    assert isinstance(answer.json(), str)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "allowed_apps"),
        ({"allowed_apps": ["flux"], "token_expiration": 0}, "token_expiration"),
        ({"allowed_apps": ["flux"], "token_expiration": 3601}, "token_expiration"),
        ({"allowed_apps": "flux"}, "allowed_apps"),
    ],
)
async def test_a_wrong_wish_for_a_token_names_its_field(
    client: httpx.AsyncClient, body: dict[str, Any], field: str
) -> None:
    answer = await client.post("/rest/tokens/", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][1] == field


async def test_a_stream_shows_previews_inside_its_events() -> None:
    from serve_app.domain.progress import Preview  # noqa: PLC0415
    from tests.ingress.submission.test_previews import JPEG, Maker  # noqa: PLC0415

    async with build_house(replica=False) as house:
        wire, maker = Wire(house), Maker(house)
        calling = asyncio.create_task(wire.call({}))
        await maker.take()
        await maker.report(1)
        await wire.said.wait()
        assert await maker.report(2), "the stream looks at previews"
        wire.said.clear()
        await maker.report(3, preview=Preview(3, JPEG))
        await wire.said.wait()
        shown = [event["images"] for event in events_in(wire.text) if "images" in event]
        assert shown[0][0]["url"].startswith("data:image/jpeg;base64,")
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 99)
    | st.floats(allow_nan=False)
    | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(FIELDS | st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.long
@given(
    path=st.sampled_from(["test/probe", "fal-ai/flux/schnell"]) | st.text(max_size=20),
    body=st.binary(max_size=50) | JSON_VALUES.map(lambda value: json.dumps(value).encode()),
    token=st.none() | st.text(max_size=20),
)
@settings(max_examples=40, deadline=None)
async def test_whatever_is_sent_to_a_stream_is_answered(
    path: str, body: bytes, token: str | None
) -> None:
    async with build_house() as house, house.client() as client:
        query = {} if token is None else {"fal_jwt_token": token}
        answer = await client.post(f"/run/{quote(path)}/stream", content=body, params=query)
    if answer.status_code == 200:
        assert events_in(answer.text)[-1].keys() >= {"images", "seed"}
    else:
        assert 400 <= answer.status_code < 500
        assert answer.json()["message"]
