"""Every error response: its status, message and headers."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from serve_app.domain import errors
from serve_app.domain.errors import DarkroomError, StorageFull
from serve_app.ingress.http.errors import TABLE, body_for, headers_for, http_answer
from serve_app.settings import PoolConfig
from tests.captured_logs import CapturedLogs
from tests.ingress.house import House, build_house

FLUX = "/fal-ai/flux/schnell"


def all_errors(root: type[DarkroomError] = DarkroomError) -> list[type[DarkroomError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in all_errors(child))]


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_has_an_answer(kind: type[DarkroomError]) -> None:
    error = kind("Something went wrong.")
    assert 400 <= http_answer(error).status < 600
    # fal's Python client retries these ten times. A body that arrived too slowly may be sent again.
    assert http_answer(error).status not in (408, 409) or kind is errors.BodyTooSlow
    assert body_for(error)["detail"]
    assert headers_for(error)["x-fal-retryable"] in ("true", "false")


def test_an_error_that_the_table_lacks_is_answered_like_its_parent() -> None:
    class Newer(errors.NotFound):
        pass

    assert http_answer(Newer("x")) == TABLE[errors.NotFound]


@pytest.mark.parametrize("path", [FLUX, f"/queue{FLUX}"])
async def test_each_wrong_field_is_named(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(path, json={"num_images": 9, "seed": "red"})
    assert answer.status_code == 422
    assert answer.headers["x-fal-retryable"] == "false"
    assert answer.headers["x-fal-billable-units"] == "0"
    problems = {problem["loc"][-1]: problem for problem in answer.json()["detail"]}
    assert set(problems) == {"prompt", "num_images", "seed"}
    assert problems["prompt"]["type"] == "missing"
    assert problems["num_images"]["ctx"] == {"le": 4}
    assert problems["num_images"]["input"] == 9
    assert problems["seed"]["url"] == "https://docs.fal.ai/errors/#int_parsing"
    assert answer.json()["message"].startswith("prompt: Field required")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not valid JSON"),
        (b"\xff{}", "not UTF-8"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"guidance_scale": 1e999}', "the number 1e999 is too large"),
        (b'{"a": -' + b"9" * 400 + b".5}", "is too large"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"echo": ' + b"[" * 900 + b"]" * 900 + b"}", "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": ["\\u0000"]}', "a.0: Input should not contain NUL"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b"[]", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
    ],
)
async def test_a_body_that_is_no_input_is_reported(
    client: httpx.AsyncClient, content: bytes, words: str
) -> None:
    answer = await client.post("/test/probe", content=content)
    assert answer.status_code == 422
    assert words in answer.json()["message"]


async def test_an_escaped_emoji_is_text(client: httpx.AsyncClient) -> None:
    answer = await client.post("/test/probe", content=b'{"echo": "\\ud83c\\udf08"}')
    assert answer.json()["echo"] == "🌈"


async def test_a_body_that_is_too_large_is_refused(client: httpx.AsyncClient) -> None:
    async def chunks() -> Any:
        for _ in range(3):
            yield b"x" * (1 << 19)

    declared = await client.post("/test/probe", content=b"x" * ((1 << 20) + 1))
    undeclared = await client.post("/test/probe", content=chunks())
    assert (declared.status_code, undeclared.status_code) == (413, 413)


async def test_a_large_body_is_read_without_blocking(client: httpx.AsyncClient) -> None:
    answer = await client.post("/test/probe", json={"echo": "x" * 500_000})
    assert len(answer.json()["echo"]) == 500_000


@pytest.mark.parametrize(
    "header", [None, "", "Key", "Key nonsense", "Basic YTpi", "Key a:" + "0" * 64, "Bearer x:y"]
)
@pytest.mark.parametrize("path", ["/test/probe", "/queue/test/probe"])
async def test_without_a_valid_key_nothing_is_done(house: House, header: str, path: str) -> None:
    headers = {} if header is None else {"Authorization": header}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(house.app), base_url="http://localhost"
    ) as client:
        answer = await client.post(path, json={}, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Key"
    assert answer.json()["detail"] == answer.json()["message"]
    assert await house.queue.page("default") == []


async def test_bearer_works_like_key(house: House) -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(house.app), base_url="http://localhost"
    ) as client:
        headers = {"Authorization": f"Bearer {house.key}"}
        assert (await client.post("/test/probe", json={}, headers=headers)).status_code == 200


async def test_an_unknown_endpoint_names_the_nearest(client: httpx.AsyncClient) -> None:
    answer = await client.post("/fal-ai/flux/shnell", json={})
    assert answer.status_code == 404
    assert "Did you mean fal-ai/flux/schnell" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Fal-Request-Timeout", "soon"),
        ("X-Fal-Request-Timeout", "-1"),
        ("X-Fal-Request-Timeout", "nan"),
        ("X-Fal-Request-Timeout", "inf"),
        ("X-Darkroom-Deadline", "0"),
        ("X-Fal-Queue-Priority", "urgent"),
        ("X-Darkroom-Deterministic", "perhaps"),
        ("X-Darkroom-Cache", "perhaps"),
        ("Idempotency-Key", ""),
        ("Idempotency-Key", "k" * 256),
        ("Idempotency-Key", "tab\there"),
        ("Idempotency-Key", "\xe9"),
    ],
)
async def test_a_header_with_a_wrong_value_is_named(
    client: httpx.AsyncClient, header: str, value: str
) -> None:
    answer = await client.post(
        "/queue/test/probe", json={}, headers={header: value.encode("latin-1")}
    )
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["header", header]


@pytest.mark.parametrize("value", ["-1", "x", "1.5", "²"])
async def test_a_longest_queue_that_is_no_number_is_refused(
    client: httpx.AsyncClient, value: str
) -> None:
    answer = await client.post("/queue/test/probe", params={"fal_max_queue_length": value}, json={})
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/test/probe", "POST"),
        ("PUT", "/queue/test/probe", "POST"),
        ("POST", "/queue/test/probe/requests/x/status", "GET"),
        ("GET", "/queue/test/probe/requests/x/cancel", "PUT"),
        ("PUT", "/v1/estimate", "POST"),
        ("PUT", "/v1/sign-in", "DELETE, GET, HEAD, POST"),
        ("PUT", "/openai/v1/images/edits", "POST"),
        ("PATCH", "/comfyui/prompt", "GET, HEAD, POST"),
    ],
)
async def test_the_answer_to_a_wrong_method_names_the_right_one(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed


OPENAI, COMFYUI = "/openai/v1/images/edits", "/comfyui/prompt"
REPLICATE, MODEL = "/replicate/v1/predictions", "/replicate/v1/models/test/probe/predictions"


async def test_a_wrong_method_is_answered_in_the_form_of_its_protocol(
    client: httpx.AsyncClient,
) -> None:
    said = "takes POST, not PUT"
    assert said in (await client.put(OPENAI)).json()["error"]["message"]
    problem = (await client.put(MODEL)).json()
    assert (problem["status"], said in problem["detail"]) == (405, True)
    comfyui = (await client.put(COMFYUI)).json()
    assert comfyui["error"]["type"] == "method_not_allowed"
    v2 = (await client.put("/comfyui/api/v2/assets")).json()
    assert v2["error"]["code"] == "method_not_allowed"
    fal = (await client.put("/queue/test/probe")).json()
    assert fal["detail"] == fal["message"]


NO_URL = "http://[/files/p/x.png"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/queue/test/probe", {"image_url": NO_URL}),
        ("/openai/v1/images/edits", {"prompt": "a", "model": "test/probe", "image": NO_URL}),
        ("/replicate/v1/models/test/probe/predictions", {"input": {"image_url": NO_URL}}),
        ("/v1/files/sign", {"path": NO_URL}),
        ("/v1/files/revoke", {"url": NO_URL}),
        ("/v1/weights", {"base": "fal-ai/flux/schnell", "name": "x", "source": NO_URL}),
    ],
)
async def test_what_looks_like_a_url_and_is_none_is_no_error_of_the_server(
    client: httpx.AsyncClient, path: str, body: dict[str, object]
) -> None:
    answer = await client.post(path, json=body)
    assert "Unexpected" not in answer.text


async def test_an_origin_that_is_none_is_another_one(house: House) -> None:
    async with house.client() as client:
        key = httpx.BasicAuth(*house.key.split(":"))
        answer = await client.get("/comfyui/queue", auth=key, headers={"origin": "http://["})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/openai/v1/responses", {"input": "a", "tools": [5] * 129}, "at most 128 items"),
        ("/v1/estimate", {f"f{n}": 5 for n in range(1001)}, "more than 1000 fields"),
        ("/openai/v1/batches", {"metadata": {f"f{n}": 5 for n in range(20_000)}}, "exceeds"),
    ],
)
async def test_thousands_of_mistakes_in_a_body_are_one(
    client: httpx.AsyncClient, path: str, body: dict[str, object], words: str
) -> None:
    answer = await client.post(path, json=body)
    assert answer.status_code in (400, 413, 422)
    assert words in answer.text


async def test_a_body_that_is_no_json_names_no_field(client: httpx.AsyncClient) -> None:
    """It named the position in the body, 0."""
    error = (await client.post("/openai/v1/images/generations", content=b"{")).json()["error"]
    assert (error["param"], "not valid JSON" in error["message"]) == (None, True)
    problem = (await client.post(REPLICATE, content=b"{")).json()
    assert ("invalid_fields" in problem, "not valid JSON" in problem["detail"]) == (False, True)


async def test_a_path_that_no_method_has_is_not_there(client: httpx.AsyncClient) -> None:
    for path in ("/v1/nothing", "/openai/v1/nothing", "/comfyui/nothing"):
        assert (await client.put(path)).status_code == 404


async def test_what_is_not_there_says_so(client: httpx.AsyncClient) -> None:
    for path in ("/rest/billing", "/cdn/files"):
        answer = await client.post(path, json={})
        assert answer.status_code == 400
        assert answer.headers["x-fal-error-type"] == "feature_not_supported"


async def test_a_full_queue_says_when_to_come_again() -> None:
    async with build_house(replica=False, max_waiting=1) as house:
        async with house.client() as client:
            assert (await client.post("/queue/test/probe", json={})).status_code == 200
            answer = await client.post("/queue/test/probe", json={})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["x-fal-retryable"] == "true"


async def test_a_nearly_full_disk_is_reported_before_the_work_is_accepted() -> None:
    async def full() -> None:
        raise StorageFull("Too little disk space is left to accept more.")

    async with build_house(room=full) as house, house.client() as client:
        answer = await client.post("/queue/test/probe", json={})
        assert await house.queue.page("default") == []
    assert answer.status_code == 507
    assert "disk space" in answer.json()["detail"]


async def test_an_endpoint_that_no_pool_hosts_is_refused_at_once() -> None:
    pools = {"images": PoolConfig(families=("flux",))}
    async with build_house(pools=pools, replica=False) as house, house.client() as client:
        hosted = await client.post(f"/queue{FLUX}", json={"prompt": "x"})
        answer = await client.post("/queue/test/probe", json={})
        assert [request.pool for request in await house.queue.page("default")] == ["images"]
    assert hosted.status_code == 200
    assert answer.status_code == 503
    assert "probe" in answer.json()["message"]


async def test_an_unexpected_error_is_reported_counted_and_logged(
    house: House, client: httpx.AsyncClient, caplog: CapturedLogs
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    house.queue.submit = broken
    answer = await client.post("/queue/test/probe", json={})
    assert answer.status_code == 500
    assert answer.headers["x-fal-request-id"]
    assert "ZeroDivisionError" in answer.json()["detail"]
    assert "Traceback" in caplog.text
    registry = house.services.metrics.registry
    labels = {"route": "fal.submit"}
    assert registry.get_sample_value("darkroom_unexpected_errors_total", labels) == 1


async def test_every_answer_has_an_id_and_may_be_read_by_browsers(
    client: httpx.AsyncClient,
) -> None:
    answers = [
        await client.get("/healthz"),
        await client.post("/nothing/here", json={}),
        await client.get("/v1/nothing"),
        await client.post("/test/probe", json={}),
        await client.request("OPTIONS", "/test/probe"),
    ]
    for answer in answers:
        assert len(answer.headers["x-fal-request-id"]) == 36
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "x-fal-request-id" in answer.headers["access-control-expose-headers"]


async def test_a_browser_learns_which_headers_it_may_send(client: httpx.AsyncClient) -> None:
    headers = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-fal-queue-priority",
    }
    del client.headers["Authorization"]
    answer = await client.options("/queue/test/probe", headers=headers)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-headers"] == "authorization,x-fal-queue-priority"
    assert "PUT" in answer.headers["access-control-allow-methods"]
