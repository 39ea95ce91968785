"""Every call with the ids of another tenant: it is answered like a call with ids that do not exist.

The calls come from the table of routes, so a new one without a case here fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import httpx
import pytest

from serve_app.ingress.http.paths import COMFYUI_PREFIX, MCP_PATH, OPENAI_PREFIX, REPLICATE_PREFIX
from serve_app.ingress.http.route_scopes import NO_KEY
from serve_app.resources.declaration import Resource
from serve_app.resources.registry import RESOURCES
from serve_app.tenants.scopes import API, OPERATOR, SINGLE
from tests.ingress.api.files.private import lifecycle
from tests.ingress.api.test_loras import safetensors
from tests.ingress.books import MakeBooks, fakes, in_postgres
from tests.ingress.fal.test_submit import wait_until_completed
from tests.ingress.house import build_house
from tests.ingress.http.test_route_scopes import ENDLESS, scopes
from tests.queue.database import server

__all__ = ["server"]  # a fixture

OWNER, STRANGER = "default", "stranger"
SECRET = "a lighthouse that no one else knows"
FLUX = "fal-ai/flux/schnell"
CONTENT = b"\x89PNG and more"


@dataclass(frozen=True, slots=True)
class Things:
    """Ids of everything that a tenant has."""

    request_id: str
    draft: str
    share: str
    token: str  # of the share link
    key_id: str
    key: str  # of an upload, which only its tenant reads
    file_id: str  # of a public upload, by Replicate's calls
    made: str  # key of a file of the request
    upload_id: str  # of an open upload
    batch_id: str
    batch_file: str  # of a batch
    weights: str  # name of registered weights
    secret: str  # name of a secret
    workflow: str  # name of a workflow
    plain: str  # key of one of each resource that has only plain calls


INVENTED = Things(
    request_id="0190a0a0-0000-7000-8000-000000000000",
    draft="AAAAAAAAAAAAAAAAAAAAAA",
    share="shr_0000000000000000",
    token="A" * 32,
    key_id="00000000000000000000",
    key="p/AAAAAAAAAAAAAAAAAAAAAA/u/AAAAAAAAAAAAAAAAAAAAAA/file.png",
    file_id="u/AAAAAAAAAAAAAAAAAAAAAA/file.png",
    made="p/AAAAAAAAAAAAAAAAAAAAAA/r/0190a0a0-0000-7000-8000-000000000000/1/AAAA.png",
    upload_id="0" * 32,
    batch_id="batch_" + "8" * 32,
    batch_file="file-" + "7" * 24,
    weights="no-such-weights",
    secret="NO_SUCH_SECRET",
    workflow="no-such-workflow",
    plain="no-such-thing",
)

RENAMED: Mapping[str, Mapping[str, str]] = {
    f"{OPENAI_PREFIX}/files/": {"file_id": "batch_file"},
    "/v1/keys/": {"key": "key_id"},
}
"""Beginning of a path → parameter that is another thing below it than elsewhere."""

OF_NO_TENANT = {
    "endpoint_id": FLUX,
    "job": "notice/evt_1",
    "warm_target": FLUX,
    "entry": FLUX,
    "owner": "fal-ai",
    "name": "flux-schnell",
    "version": "x",
    "slug": "text-to-image",
    "training": "x",
    "model": FLUX,
    "rest": "x",
    "path": "x",
    "number": "1",
    "tenant": "nobody",
    # See tests/ingress/comfyui.
    "prompt_id": "x",
    "job_id": "x",
    "asset_id": "x",
    "node_class": "x",
    "folder": "x",
    "setting": "x",
    "file": "x.json",
    "dest": "y.json",
}
"""Parameters of paths that name nothing of a tenant. Calls with ``tenant`` are operators'."""

BEARERS = {
    "/v1/shared/{token}": "The link is the credential.",
    "/files/{key:path}/upload/{upload_id}": "The URL is the credential, if no key is sent.",
}
"""Calls that need more than an id: whoever has the secret in the path may do it."""

BODIES: Mapping[str, Any] = {
    "/v1/requests/favourites": {"request_ids": ["{request_id}"], "favourite": True},
    "/v1/requests/zip": {"request_ids": ["{request_id}"]},
    "/v1/requests/delete": {"request_ids": ["{request_id}"]},
    "/v1/files/sign": {"path": "/files/{key}"},
    "/v1/files/revoke": {"path": "/files/{key}"},
    f"{OPENAI_PREFIX}/batches": {
        "input_file_id": "{batch_file}",
        "endpoint": "/v1/images/generations",
        "completion_window": "24h",
    },
    f"{OPENAI_PREFIX}/responses": {
        "input": "x",
        "tools": [{"type": "image_generation"}],
        "model": FLUX,
        "previous_response_id": "resp_{request_id}",
    },
    "/v1/weights": {
        "name": "style",
        "base": FLUX,
        "source": "http://testserver/files/{file_id}",
    },
    "/v1/workflows": {
        "name": "mine",
        "steps": {"a": {"app": "workflows/default/{workflow}", "input": {}}},
        "output": {"x": "$a"},
    },
    "/v1/estimate": {"endpoint_id": FLUX, "input": {"from_draft": "{draft}"}},
    "/files/{key:path}/multipart/{upload_id}/complete": {"parts": [{"partNumber": 1, "etag": "x"}]},
}
"""Bodies that name something of a tenant."""

EMPTY = {
    "/rest/storage/auth/token",
    "/rest/storage/upload/initiate",
    "/rest/storage/upload/initiate-multipart",
    "/cdn/files/upload",
    "/cdn/files/upload/multipart",
    "/rest/tokens",
    "/rest/tokens/",
    "/rest/tokens/realtime",
    "/v1/models/pricing/estimate",
    "/v1/webhooks/test",
    "/v1/verify",
    "/v1/keys",
    "/v1/sign-in",
    "/v1/sign-in/finish",
    "/v1/sign-in/links",
    "/v1/sign-in/links/take",
    "/v1/sign-in/device",
    "/v1/sign-in/device/finish",
    f"{OPENAI_PREFIX}/files",
    f"{OPENAI_PREFIX}/images/generations",
    f"{OPENAI_PREFIX}/images/edits",
    f"{OPENAI_PREFIX}/images/variations",
    f"{OPENAI_PREFIX}/audio/transcriptions",
    f"{OPENAI_PREFIX}/audio/translations",
    f"{OPENAI_PREFIX}/audio/speech",
    f"{OPENAI_PREFIX}/videos",
    f"{OPENAI_PREFIX}/videos/edits",
    f"{OPENAI_PREFIX}/videos/extensions",
    f"{OPENAI_PREFIX}/videos/characters",
    f"{REPLICATE_PREFIX}/predictions",
    f"{REPLICATE_PREFIX}/models",
    f"{REPLICATE_PREFIX}/models/{{owner}}/{{name}}/predictions",
    f"{REPLICATE_PREFIX}/models/{{owner}}/{{name}}",
    f"{REPLICATE_PREFIX}/models/{{owner}}/{{name}}/versions/{{version}}/trainings",
    f"{REPLICATE_PREFIX}/trainings/{{training}}/cancel",
    f"{REPLICATE_PREFIX}/deployments",
    f"{REPLICATE_PREFIX}/deployments/{{owner}}/{{name}}",
    f"{REPLICATE_PREFIX}/deployments/{{owner}}/{{name}}/predictions",
    f"{REPLICATE_PREFIX}/files",
    # What bodies of these name is tried in tests/ingress/comfyui, where there is an endpoint.
    f"{COMFYUI_PREFIX}/prompt",
    f"{COMFYUI_PREFIX}/queue",
    f"{COMFYUI_PREFIX}/interrupt",
    f"{COMFYUI_PREFIX}/upload/image",
    f"{COMFYUI_PREFIX}/upload/mask",
    f"{COMFYUI_PREFIX}/history",
    f"{COMFYUI_PREFIX}/free",
    f"{COMFYUI_PREFIX}/settings",
    f"{COMFYUI_PREFIX}/settings/{{setting}}",
    f"{COMFYUI_PREFIX}/userdata/{{file:path}}",
    f"{COMFYUI_PREFIX}/userdata/{{file:path}}/move/{{dest:path}}",
    f"{COMFYUI_PREFIX}/jobs/cancel",
    f"{COMFYUI_PREFIX}/jobs/{{job_id}}/cancel",
    f"{COMFYUI_PREFIX}/v2/jobs",
    f"{COMFYUI_PREFIX}/v2/jobs/{{job_id}}/cancel",
    f"{COMFYUI_PREFIX}/v2/assets",
    MCP_PATH,  # its tools are cases of their own
}
"""Calls with a body that names nothing of a tenant: they make something new of the caller's."""

IN_ALL_METHODS = {
    "/queue/{path:path}": "/queue/test/probe/requests/{request_id}",
    "/run/{path:path}": "/run/test/probe/requests/{request_id}",
    "/{path:path}": "/test/probe/requests/{request_id}",
    "/fal/proxy": None,
    "/rest/{path:path}": None,
    "/cdn/{path:path}": None,
    "/openai/{rest:path}": None,
    "/replicate/{rest:path}": None,
    "/comfyui/{rest:path}": None,
}
"""Paths of fal's calls about a request. None: only refusals."""

FALS = (
    ("GET", ""),
    ("GET", "/response"),
    ("GET", "/status?logs=1"),
    ("GET", "/status/stream?logs=1"),
    ("PUT", "/cancel"),
)
INPUTS = (
    ("/queue/test/probe", {"echo": "http://testserver/files/{key}"}),
    ("/run/test/probe", {"echo": ["http://testserver/files/{made}"]}),
    (f"/queue/{FLUX}", {"prompt": "x", "from_draft": "{draft}"}),
    (f"{OPENAI_PREFIX}/images/generations", {"model": "test/probe", "from_draft": "{draft}"}),
    (
        f"{REPLICATE_PREFIX}/predictions",
        {"version": FLUX, "input": {"prompt": "x", "from_draft": "{draft}"}},
    ),
)
"""Submits that name something."""


def fill_placeholders(text: str, things: Things) -> str:
    for name, value in asdict(things).items():
        text = text.replace(f"{{{name}}}", value)
    return text


def plain(resources: Sequence[Resource[Any]]) -> Sequence[Resource[Any]]:
    """Resources that have only plain calls, which need no case of their own."""
    return [resource for resource in resources if resource.body is not None]


def url_of(path: str, things: Things, resources: Sequence[Resource[Any]] = RESOURCES) -> str:
    """URL of a route with these ids. ``KeyError``: a parameter has no case."""
    values = OF_NO_TENANT | asdict(things)
    values |= dict.fromkeys((resource.parameter for resource in plain(resources)), things.plain)
    for begins, renamed in RENAMED.items():
        if path.startswith(begins):
            values |= {name: values[thing] for name, thing in renamed.items()}
    return re.sub(r"\{(\w+)(?::path)?\}", lambda match: values[match[1]], path)


def body_of(value: Any, things: Things) -> Any:
    return json.loads(fill_placeholders(json.dumps(value), things))


def anonymise(text: str, things: Things) -> str:
    """An answer's text without the ids that the call named and those made for the call."""
    for field, value in asdict(things).items():
        text = text.replace(value, f"<{field}>")
        text = text.replace(value[:64], f"<{field}>")
    return text


async def made_by(
    client: httpx.AsyncClient, resources: Sequence[Resource[Any]] = RESOURCES
) -> Things:
    """Make one of everything for the client's tenant."""
    hidden = lifecycle("hide")
    headers = {"content-type": "image/png", "x-fal-file-name": "lighthouse.png"}
    upload = await client.post("/cdn/files/upload", content=CONTENT, headers=hidden | headers)
    lora = {"content-type": "application/octet-stream", "x-fal-file-name": "lines.safetensors"}
    public = await client.post("/cdn/files/upload", content=safetensors(), headers=lora)
    opened = await client.post(
        "/rest/storage/upload/initiate", json={"file_name": "a.png"}, headers=hidden
    )
    sent = await client.post(
        f"/queue/{FLUX}?fal_webhook=https://example.com/hook",
        json={"prompt": SECRET, "draft": {"count": 1}},
        headers=hidden,
    )
    assert sent.status_code == 200, sent.text
    await wait_until_completed(client, sent.json())
    request_id = sent.json()["request_id"]
    result = (await client.get(sent.json()["response_url"])).json()
    share = (await client.post(f"/v1/requests/{request_id}/share", json={})).json()
    answer = await client.post("/v1/keys", json={"alias": SECRET})
    assert answer.status_code in (200, 201), answer.text
    created = answer.json()
    named = {"name": "lighthouse-style", "base": FLUX, "source": "owner/lighthouse@main"}
    registered = await client.post("/v1/weights", json=named)
    assert registered.status_code == 202, registered.text
    kept = await client.put("/v1/secrets/LIGHTHOUSE_KEY", json={"value": SECRET})
    for path in ("settings/theme", "userdata/x.json"):
        assert (await client.post(f"/comfyui/{path}", json=SECRET)).status_code == 200
    assert kept.status_code == 200, kept.text
    steps = {"draw": {"app": FLUX, "input": {"prompt": SECRET}}}
    flow = {"name": "lighthouse-flow", "steps": steps, "output": {"images": "$draw.images"}}
    answer = await client.post("/v1/workflows", json=flow)
    assert answer.status_code == 200, answer.text
    file = await client.post(
        f"{OPENAI_PREFIX}/files",
        data={"purpose": "batch"},
        files={"file": ("lighthouse.jsonl", b'{"custom_id": "lighthouse"}')},
    )
    batch = await client.post(
        f"{OPENAI_PREFIX}/batches",
        json={
            "input_file_id": file.json()["id"],
            "endpoint": "/v1/images/generations",
            "completion_window": "24h",
        },
    )
    assert batch.status_code == 200, batch.text
    for resource in plain(resources):
        texts = {
            name: SECRET
            for name, field in resource.body.model_fields.items()
            if field.annotation is str
        }
        answer = await client.put(f"{resource.path}/lighthouse-thing", json=texts)
        assert answer.status_code == 200, answer.text
    favourite = {"request_ids": [request_id], "favourite": True}
    assert (await client.post("/v1/requests/favourites", json=favourite)).status_code == 200

    def key(url: str) -> str:
        return url.partition("/files/")[2].partition("?")[0]

    return Things(
        request_id=request_id,
        draft=result["drafts"][0]["id"],
        share=share["share_id"],
        token=share["url"].rpartition("/")[2],
        key_id=created["key_id"],
        key=key(upload.json()["access_url"]),
        file_id=key(public.json()["access_url"]),
        made=key(result["images"][0]["url"]),
        upload_id=opened.json()["upload_url"].rpartition("/")[2],
        batch_id=batch.json()["id"],
        batch_file=file.json()["id"],
        weights=named["name"],
        secret="LIGHTHOUSE_KEY",
        workflow="lighthouse-flow",
        plain="lighthouse-thing",
    )


SEARCHES = (
    *(
        "",
        f"tenant={OWNER}",
        f"endpoint_id={FLUX}&expand=payloads",
        "q=lighthouse",
        "favourite=true",
    ),
    *(
        "state=succeeded",
        "status=success",
        "order=asc&purpose=batch",
        "limit=100&endpoint_id=fal-ai",
    ),
)
"""Queries of lists that name nothing of the owner."""

NAMING = (
    *("request_id={request_id}", "before={request_id}", "after={batch_id}", "after={batch_file}"),
    f"request_id={{request_id}}&endpoint_id={FLUX}",
)
"""Queries with the owner's ids."""

DOCUMENTS = ("/", "/openapi.json")
"""Lists that are the same for all, and large."""


@dataclass
class Scene:
    owner: httpx.AsyncClient
    stranger: httpx.AsyncClient
    things: Things
    resources: Sequence[Resource[Any]] = RESOURCES

    def url_of(self, path: str, things: Things = INVENTED) -> str:
        return url_of(path, things, self.resources)

    def scope_of(self, method: str, path: str) -> str:
        return scopes(self.resources)[method, path]

    def names_something(self, path: str) -> bool:
        return names_something(path, self.resources)

    async def compare(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[httpx.Response, httpx.Response]:
        """Answers to the stranger, which do not differ."""
        theirs, none = await self.pair(method, path, body, **headers)
        what = f"{method} {path}: {theirs.status_code} {theirs.text}, not {none.text}"
        assert alike(theirs, none, self.things), what
        return theirs, none

    async def pair(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[httpx.Response, httpx.Response]:
        """Answers to the stranger, with the owner's ids and with invented ones."""
        answers: list[httpx.Response] = []
        for things in (self.things, INVENTED):
            sent = None if body is None else body_of(body, things)
            answers.append(
                await self.stranger.request(
                    method,
                    fill_placeholders(self.url_of(path, things), things),
                    json=sent,
                    headers=headers,
                )
            )
        return answers[0], answers[1]


def lengths(answer: httpx.Response) -> Mapping[str, int]:
    """Number of elements of each list in an answer, which may have the time besides."""
    is_json = answer.headers.get("content-type") == "application/json"
    content = answer.json() if is_json else {}
    fields = content.items() if isinstance(content, dict) else [("", content)]
    return {name: len(value) for name, value in fields if isinstance(value, list)}


def alike(theirs: httpx.Response, none: httpx.Response, things: Things) -> bool:
    """Return whether an answer about ``things`` is that about invented ones."""
    same = theirs.status_code == none.status_code
    return same and anonymise(theirs.text, things) == anonymise(none.text, INVENTED)


@asynccontextmanager
async def clients_of(
    resources: Sequence[Resource[Any]] = RESOURCES, books: MakeBooks = fakes
) -> AsyncGenerator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """Clients of the owner and of the stranger."""
    async with build_house(resources=resources, books=books) as house:
        rights = frozenset({API, *SINGLE}) - {OPERATOR}
        key = str(await house.keys.create(STRANGER, scopes=rights))
        owner = str(await house.keys.create(OWNER, scopes=rights))
        async with house.client(owner) as client, house.client(key) as stranger:
            yield client, stranger


@asynccontextmanager
async def scene_of(
    resources: Sequence[Resource[Any]] = RESOURCES, books: MakeBooks = fakes
) -> AsyncGenerator[Scene]:
    async with clients_of(resources, books) as (owner, stranger):
        yield Scene(owner, stranger, await made_by(owner, resources), resources)


@pytest.fixture(params=["fakes", "postgres"], scope="module")
def books(request: pytest.FixtureRequest) -> MakeBooks:
    """One for the module: the server starts before a test watches what blocks."""
    return fakes if request.param == "fakes" else in_postgres(request.getfixturevalue("server"))


@pytest.fixture
async def scene(books: MakeBooks) -> AsyncIterator[Scene]:
    async with scene_of(books=books) as scene:
        yield scene


def calls(resources: Sequence[Resource[Any]] = RESOURCES) -> list[tuple[str, str]]:
    """Every call but those of fal's paths, and HEAD, which is answered as GET."""
    return sorted(
        route
        for route in scopes(resources)
        if route[0] != "HEAD" and route[1] not in IN_ALL_METHODS
    )


def names_something(path: str, resources: Sequence[Resource[Any]] = RESOURCES) -> bool:
    own = {field.name for field in fields(Things)} | {
        resource.parameter for resource in plain(resources)
    }
    return bool(own & set(re.findall(r"\{(\w+)", path)))


def test_every_call_with_a_body_has_a_case() -> None:
    of_operators = {
        (method, path) for method, path in calls() if scopes()[method, path] == OPERATOR
    }
    without = [
        (method, path)
        for method, path in calls()
        if method not in ("GET", "DELETE")
        and (method, path) not in of_operators
        and not names_something(path)
        and path not in BODIES
        and path not in EMPTY
    ]
    assert without == [], "say in BODIES which ids its body names, or put it into EMPTY"
    known = {path for _, path in calls()}
    assert known >= {*BODIES, *EMPTY, *BEARERS}, "a case for a call that is gone"
    methods = {
        path: {method for method, other in scopes() if other == path} for _, path in scopes()
    }
    assert IN_ALL_METHODS.keys() == {
        path for path, taken in methods.items() if taken >= {"POST", "PATCH"}
    }


def test_every_parameter_of_a_path_has_a_case() -> None:
    for _, path in calls():
        url_of(path, INVENTED)


async def test_ids_of_another_tenant_are_answered_like_invented_ones(scene: Scene) -> None:
    tried = 0
    for method, path in calls(scene.resources):
        sends = method != "GET" and path in BODIES
        if path in BEARERS or not (scene.names_something(path) or sends):
            continue
        tried += 1
        if method == "POST" and path == "/v1/requests/zip":
            continue  # below: its archive has a time
        theirs, _ = await scene.compare(method, path, BODIES.get(path, {}))
        if path in ("/v1/requests/favourites", "/v1/requests/delete"):
            assert theirs.status_code == 200, "they tell which of the ids were found"
        else:
            assert theirs.status_code in (400, 403, 404, 422), (method, path, theirs.text)
        if theirs.status_code == 403:
            assert scene.scope_of(method, path) in (OPERATOR, NO_KEY), (method, path, theirs.text)
    assert tried > 30
    await assert_unharmed(scene)


async def test_fals_calls_about_a_request_are_too(scene: Scene) -> None:
    for path in filter(None, IN_ALL_METHODS.values()):
        for method, tail in FALS:
            theirs, _ = await scene.compare(method, f"{path}{tail}")
            assert theirs.status_code == 404, (method, path, tail)
    await assert_unharmed(scene)


async def test_so_are_tools_of_assistants(scene: Scene) -> None:
    for tool in ("get_result", "wait", "cancel"):
        call = {"name": tool, "arguments": {"request_id": "{request_id}"}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
        accept = "application/json, text/event-stream"
        theirs, _ = await scene.compare("POST", MCP_PATH, body, accept=accept)
        assert "There is no request" in theirs.text
    await assert_unharmed(scene)


async def test_so_are_submits_that_name_something(scene: Scene) -> None:
    for path, body in INPUTS:
        if "{key}" in str(body) or "{made}" in str(body):
            # An invented URL may be of another server, so it is for the replica to find out.
            for things in (scene.things, INVENTED):
                sent = await scene.stranger.post(path, json=body_of(body, things))
                assert sent.status_code == 200, sent.text
        else:
            theirs, _ = await scene.compare("POST", path, body)
            assert theirs.status_code in (400, 422), "OpenAI has no 422"
    await assert_unharmed(scene)


async def test_an_archive_of_others_requests_is_refused_like_one_of_none(scene: Scene) -> None:
    theirs, _ = await scene.compare("POST", "/v1/requests/zip", BODIES["/v1/requests/zip"])
    assert theirs.status_code in (404, 422), theirs.text


@pytest.mark.variants(1)
async def test_no_list_shows_anything_of_another_tenant(scene: Scene) -> None:
    """Nor by a parameter that names the tenant: that needs the scope ``operator``."""
    tried = 0
    for method, path in calls(scene.resources):
        of_operators = scene.scope_of(method, path) == OPERATOR
        if method != "GET" or scene.names_something(path) or of_operators or path in ENDLESS:
            continue
        tried += 1
        for query in SEARCHES[: 1 if path in DOCUMENTS else None]:
            answer = await scene.stranger.get(f"{scene.url_of(path)}?{query}")
            assert SECRET not in answer.text, path
            for value in asdict(scene.things).values():
                assert value not in answer.text, (path, query)
        for query in NAMING if path not in DOCUMENTS else ():
            theirs, none = await scene.pair("GET", f"{path}?{query}")
            assert theirs.status_code == none.status_code, (path, query)
            assert lengths(theirs) == lengths(none), (path, query)
            assert SECRET not in theirs.text, (path, query)
        owners = await scene.stranger.get(f"{scene.url_of(path)}?tenant={OWNER}")
        nobodys = await scene.stranger.get(f"{scene.url_of(path)}?tenant=nobody")
        assert owners.status_code == nobodys.status_code, path
    assert tried > 20


async def shown_to(client: httpx.AsyncClient, scene: Scene) -> Mapping[tuple[str, str], str]:
    """Text of every list that has something, by its path and query."""
    texts: dict[tuple[str, str], str] = {}
    for method, path in calls(scene.resources):
        of_operators = scene.scope_of(method, path) == OPERATOR
        if method != "GET" or scene.names_something(path) or of_operators:
            continue
        if path in DOCUMENTS or path in ENDLESS:
            continue
        for query in SEARCHES:
            answer = await client.get(f"{scene.url_of(path)}?{query}")
            if not query and not any(lengths(answer).values()):
                break
            # Usage is that of the last day.
            texts[path, query] = re.sub(r'"(start|end)":"[^"]*"', "", answer.text)
    return texts


@pytest.mark.long
async def test_a_tenant_is_alone_whatever_another_one_has(server: str) -> None:
    """The other one has the same, by the same names. Over PostgreSQL: see `tests.isolation`."""
    async with clients_of(books=in_postgres(server)) as (owner, stranger):
        own = await made_by(stranger)
        scene = Scene(owner, stranger, own)
        alone = await shown_to(stranger, scene)
        scene.things = await made_by(owner)
        shown = await shown_to(stranger, scene)
        # What a process notes once a minute may come into the audit log meanwhile.
        acts = {key: shown.pop(key) for key in [*shown] if key[0] == "/v1/audit"}
        assert not any(f'"tenant":"{OWNER}"' in text for text in acts.values())
        assert {key: text for key, text in shown.items() if text != alone.get(key)} == {}
        for path in dict.fromkeys(path for path, _ in (*shown, *acts)):
            for query in NAMING:
                # A request's id is also a time, before which requests may be listed.
                if not query.startswith("before"):
                    theirs, none = await scene.pair("GET", f"{path}?{query}")
                    assert lengths(theirs) == lengths(none), (path, query)
        for method, path in calls():
            if method == "DELETE" and scene.names_something(path):
                await stranger.delete(scene.url_of(path, own))
        assert own.secret not in (await stranger.get("/v1/secrets")).text
        await assert_unharmed(scene)


async def test_operators_calls_refuse_all_others_whatever_they_name(scene: Scene) -> None:
    for method, path in calls(scene.resources):
        if scene.scope_of(method, path) == OPERATOR:
            theirs, _ = await scene.compare(method, path, {})
            assert theirs.status_code == 403, (method, path)
            assert SECRET not in theirs.text
    answer = await scene.stranger.get("/metrics")
    assert answer.status_code == 403


async def test_an_upload_in_progress_is_not_continued_with_a_key_of_another_tenant(
    scene: Scene,
) -> None:
    opened = await scene.owner.post("/rest/storage/upload/initiate", json={"file_name": "b.png"})
    url = opened.json()["upload_url"]
    theirs = await scene.stranger.put(url, content=CONTENT)
    none = await scene.stranger.put(f"{url[:-1]}0", content=CONTENT)
    assert (theirs.status_code, theirs.text) == (none.status_code, none.text)
    assert (await scene.owner.put(url, content=CONTENT)).status_code == 200


async def assert_unharmed(scene: Scene) -> None:
    """Everything of the owner is as it was."""
    things, owner = scene.things, scene.owner
    for resource in plain(scene.resources):
        assert SECRET in (await owner.get(resource.path)).text
    for path in (
        f"/v1/requests/{things.request_id}",
        f"/v1/drafts/{things.draft}",
        f"/v1/shared/{things.token}",
        f"/files/{things.key}",
        f"/files/{things.made}",
        f"/files/{things.file_id}",
    ):
        assert (await owner.get(path)).status_code == 200, path
    assert things.share in (await owner.get("/v1/shares")).text
    shown = (await owner.get(f"/v1/requests/{things.request_id}")).json()
    assert (shown["state"], shown["favourite"]) == ("succeeded", True)
    assert things.secret in (await owner.get("/v1/secrets")).text
    assert things.key_id in (await owner.get("/v1/keys")).text
    assert things.weights in (await owner.get("/v1/weights")).text
    assert things.workflow in (await owner.get("/v1/workflows")).text
