"""What ComfyUI's page needs: its files, settings and workflows, jobs, masks."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from serve_app.domain.errors import ArtifactNotFound, StorageUnavailable
from serve_app.domain.executors.comfyui import MAX_FILE_BYTES, PromptArrivals
from serve_app.ingress.comfyui import events
from serve_app.ingress.comfyui.files import with_alpha_of
from tests.ingress.comfyui.comfy import (
    CATALOG,
    GRAPH,
    Place,
    connect,
    history,
    node,
    queue_prompt,
    wait_for_end,
)
from tests.ingress.house import House, build_house

OWN = "http://comfyui.localhost"
HOLD = {"1": node("Hold"), "2": node("SaveImage", filename_prefix="x")}


@pytest.fixture
async def page_house(tmp_path: Path) -> AsyncIterator[House]:
    folder = tmp_path / "page"
    for name in ("index.html", "assets/a.js", "extensions/core/b.js"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    async with build_house(catalog=CATALOG, replica=False, comfyui_page=folder) as house:
        yield house


async def test_a_browser_is_asked_for_the_key_and_gets_the_page(page_house: House) -> None:
    transport = httpx.ASGITransport(page_house.app)
    async with httpx.AsyncClient(transport=transport, base_url=OWN) as browser:
        moved = await browser.get("/comfyui")
        assert (moved.status_code, moved.headers["location"]) == (307, "/comfyui/")
        challenge = await browser.get("/comfyui/")
        assert (challenge.status_code, challenge.headers["www-authenticate"][:5]) == (401, "Basic")
        user, _, password = page_house.key.partition(":")
        browser.auth = httpx.BasicAuth(user, password)
        page = await browser.get("/comfyui/")
        assert (page.text, page.headers["content-type"]) == (
            "index.html",
            "text/html; charset=utf-8",
        )
        assert "connect-src 'self'" in page.headers["content-security-policy"]
        script = await browser.get("/comfyui/assets/a.js")
        assert script.headers["content-type"].startswith("text/javascript")
        assert (await browser.get("/comfyui/api/extensions")).json() == ["/extensions/core/b.js"]
        for name in ("none.js", "link.txt", "assets", "..%2Fsecret.txt", "a" * 300):
            assert (await browser.get(f"/comfyui/{name}")).status_code == 404, name


async def test_the_page_has_an_origin_of_its_own(page_house: House) -> None:
    """The playground keeps its key at the other one, and ComfyUI's page is a program of others."""
    transport = httpx.ASGITransport(page_house.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as browser:
        for path in ("/comfyui", "/comfyui/"):
            moved = await browser.get(path)
            assert (moved.status_code, moved.headers["location"]) == (
                307,
                "//comfyui.localhost:8000/comfyui/",
            )
        user, _, password = page_house.key.partition(":")
        browser.auth = httpx.BasicAuth(user, password)
        assert (await browser.get("/comfyui/assets/a.js")).status_code == 403
        assert (await browser.get("/comfyui/api/extensions")).status_code == 200
        assert (await browser.get("/")).status_code == 200
        for path in ("/", "/page/icon.svg"):
            assert (await browser.get(f"{OWN}{path}")).status_code == 404
        elsewhere = await browser.get("http://studio.example.org/comfyui/")
        assert (elsewhere.status_code, "DARKROOM_COMFYUI_HOST" in elsewhere.text) == (403, True)
        models = page_house.services.config.models.model_copy(
            update={"comfyui_host": "comfy.example.org"}
        )
        page_house.services.config = page_house.services.config.model_copy(
            update={"models": models}
        )
        moved = await browser.get("https://studio.example.org/comfyui/")
        assert moved.headers["location"] == "//comfy.example.org/comfyui/"
        assert (await browser.get("https://comfy.example.org/comfyui/")).text == "index.html"
        assert (await browser.get("https://comfy.example.org/")).status_code == 404


async def test_without_a_page_a_sentence_says_what_to_do(place: Place) -> None:
    answer = await place.client.get("/comfyui/")
    assert (answer.status_code, "`comfyui_page`" in answer.text) == (404, True)
    for path, expected in (("extensions", []), ("i18n", {}), ("workflow_templates", {})):
        assert (await place.client.get(f"/comfyui/api/{path}")).json() == expected
    assert (await place.client.get("/comfyui/users")).json()["storage"] == "server"
    assert (await place.client.get("/comfyui/features")).json()["max_upload_size"] == 1 << 20
    assert (await place.client.post("/comfyui/free", json={})).status_code == 200


async def test_a_page_of_another_origin_cannot_use_the_remembered_key(place: Place) -> None:
    basic = "Basic " + base64.b64encode(place.house.key.encode()).decode()
    sent = {"authorization": basic}
    for headers, status in (
        ({"origin": "http://testserver"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site", "origin": "http://testserver"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "https://public.example"}, 200),  # a proxy
    ):
        answer = await place.client.post("/comfyui/interrupt", headers={**sent, **headers})
        assert answer.status_code == status, headers
    own = await place.client.post("/comfyui/interrupt", headers={"origin": "http://evil.example"})
    assert own.status_code == 200, "it has the key itself"


async def test_settings_are_those_of_the_tenant(place: Place) -> None:
    mine, other = place.client, place.other
    assert (await mine.post("/comfyui/api/settings/Comfy.Theme", json="dark")).status_code == 200
    await mine.post("/comfyui/api/settings", json={"a": 1, "b": None})
    expected = {"Comfy.Theme": "dark", "a": 1, "b": None}
    assert (await mine.get("/comfyui/settings")).json() == expected
    assert (await mine.get("/comfyui/settings/Comfy.Theme")).json() == "dark"
    assert (await mine.get("/comfyui/settings/none")).json() is None
    assert (await other.get("/comfyui/settings")).json() == {}
    assert (await mine.post("/comfyui/settings", json=[])).status_code == 400
    path = "/comfyui/userdata/comfy.settings.json"
    assert (await mine.post(path, content=b"[]")).status_code == 400
    assert (await mine.get("/comfyui/settings")).json() == expected
    many = b'{"b": 0.' + b"1" * 20_000 + b"}"  # decimals that PostgreSQL would not merge
    assert (await mine.post(path, content=many)).status_code == 200
    kept = await mine.get(path)
    assert kept.content == b'{"b":0.1111111111111111}'


async def test_workflows_are_kept_listed_moved_and_deleted(place: Place) -> None:
    mine, other = place.client, place.other
    path = "/comfyui/api/userdata/workflows%2Fcat.json"
    stored = await mine.post(f"{path}?overwrite=false&full_info=true", content=b"{}")
    assert (stored.json()["path"], stored.json()["size"]) == ("workflows/cat.json", 2)
    again = await mine.post(f"{path}?overwrite=false", content=b"[]")
    assert (again.status_code, "already" in again.text) == (409, True)
    assert (await mine.get(path)).content == b"{}"
    await mine.post("/comfyui/userdata/workflows/a/dog.json", content=b"1")
    query = "dir=workflows&recurse=true&split=false"
    listed = await mine.get(f"/comfyui/userdata?{query}")
    assert listed.json() == ["a/dog.json", "cat.json"]
    full = await mine.get(f"/comfyui/userdata?{query}&full_info=true")
    assert [entry["size"] for entry in full.json()] == [1, 2]
    assert (await mine.get("/comfyui/userdata?dir=workflows&split=true")).json() == [
        ["cat.json", "cat.json"]
    ]
    tree = (await mine.get("/comfyui/v2/userdata?path=workflows")).json()
    assert [(entry["type"], entry["path"]) for entry in tree] == [
        ("directory", "workflows/a"),
        ("file", "workflows/a/dog.json"),
        ("file", "workflows/cat.json"),
    ]
    moved = await mine.post(f"{path}/move/workflows%2Flion.json")
    assert moved.json() == "workflows/lion.json"
    for url in (path, "/comfyui/userdata/workflows%2Flion.json"):
        assert (await other.get(url)).status_code == 404
        assert (await other.delete(url)).status_code == 404
    assert (await other.get(f"/comfyui/userdata?{query}")).json() == []
    assert (await mine.delete("/comfyui/userdata/workflows%2Flion.json")).status_code == 204
    for bad in ("..%2Fx.json", "a%2F..%2Fx", "%2Fx", "a%5Cx", "x" * 301):
        answer = await mine.post(f"/comfyui/userdata/{bad}", content=b"1")
        assert answer.status_code == 400, bad
    large = await mine.post(path, content=b"x" * (MAX_FILE_BYTES + 1))
    assert large.status_code == 413


async def test_a_kept_file_is_never_a_page_or_a_script(place: Place) -> None:
    for name, kind in (("a.html", "application/octet-stream"), ("user.css", "text/css")):
        await place.client.post(f"/comfyui/userdata/{name}", content=b"<script>")
        answer = await place.client.get(f"/comfyui/userdata/{name}")
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_jobs_are_the_prompts(place: Place) -> None:
    flow = {"extra_pnginfo": {"workflow": {"id": "flow-1"}}}
    done = await queue_prompt(place.client, GRAPH, prompt_id="mine", extra_data=flow)
    failed = await queue_prompt(place.client, {"7": node("Fail")})
    for request_id in [done, failed]:
        await place.over(request_id)
    holding = await queue_prompt(place.client, HOLD)
    await place.running(holding)
    jobs = (await place.client.get("/comfyui/api/jobs")).json()
    states = [(job["id"], job["status"]) for job in jobs["jobs"]]
    assert states == [(holding, "in_progress"), (failed, "failed"), ("mine", "completed")]
    assert jobs["jobs"][2]["workflow_id"] == "flow-1"
    assert jobs["jobs"][2]["preview_output"]["nodeId"] == "2"
    assert "Fail" in jobs["jobs"][1]["execution_error"]["exception_message"]
    page = (await place.client.get("/comfyui/jobs?status=completed,failed&limit=1")).json()
    assert ([job["id"] for job in page["jobs"]], page["pagination"]["has_more"]) == (
        [failed],
        True,
    )
    page = (await place.client.get("/comfyui/jobs?status=completed,failed&limit=1&offset=1")).json()
    assert ([job["id"] for job in page["jobs"]], page["pagination"]["has_more"]) == (
        ["mine"],
        False,
    )
    assert (await place.client.get("/comfyui/jobs?status=lost")).status_code == 400
    detail = (await place.client.get("/comfyui/jobs/mine")).json()
    assert detail["workflow"]["prompt"] == GRAPH
    assert detail["execution_status"]["status_str"] == "success"
    for path in ("jobs/mine", f"jobs/{holding}"):
        assert (await place.other.get(f"/comfyui/{path}")).status_code == 404
    assert (await place.other.get("/comfyui/jobs")).json()["jobs"] == []
    none = await place.other.post("/comfyui/jobs/cancel", json={"job_ids": [holding]})
    assert none.json() == {"cancelled": []}
    ended_ = await place.client.post("/comfyui/jobs/cancel", json={"job_ids": [holding, "mine"]})
    assert ended_.json() == {"cancelled": [holding]}
    again = await place.client.post(f"/comfyui/jobs/{holding}/cancel")
    assert again.status_code == 200
    place.replica.release.set()


async def test_the_history_forgets_prompts_that_have_ended(place: Place) -> None:
    first = await queue_prompt(place.client, GRAPH, prompt_id="first")
    second = await queue_prompt(place.client, GRAPH)
    await place.over("first")
    await place.over(second)
    holding = await queue_prompt(place.client, HOLD)
    await place.running(holding)
    await place.other.post("/comfyui/history", json={"delete": [first, second], "clear": True})
    (image,) = (await history(place.client, first))[first]["outputs"]["2"]["images"]
    await place.client.post("/comfyui/history", json={"delete": [first, holding, "unknown"]})
    assert await history(place.client, first) == {}
    assert (await place.client.get("/comfyui/view", params=image)).status_code == 404
    assert list(await history(place.client, second)) == [second]
    await place.client.post("/comfyui/api/history", json={"clear": True})
    assert (await place.client.get("/comfyui/history")).json() == {}
    assert (await place.client.get("/comfyui/queue")).json()["queue_running"] != []
    assert (await place.client.post("/comfyui/history", json={"delete": 1})).status_code == 400
    place.replica.release.set()


def png(color: tuple[int, ...], mode: str = "RGB", size: int = 4) -> bytes:
    written = io.BytesIO()
    Image.new(mode, (size, size), color).save(written, "PNG")
    return written.getvalue()


async def test_a_mask_becomes_the_alpha_channel_of_its_image(place: Place) -> None:
    files = {"image": ("cat.png", png((9, 8, 7)), "image/png")}
    name = (await place.client.post("/comfyui/upload/image", files=files)).json()["name"]
    mask = {"image": ("mask.png", png((0, 0, 0, 50), "RGBA"), "image/png")}
    ref = json.dumps({"filename": name, "type": "input"})
    sent = await place.client.post(
        "/comfyui/api/upload/mask", files=mask, data={"original_ref": ref}
    )
    assert sent.status_code == 200, sent.text
    query = {"filename": sent.json()["name"], "type": "input"}
    masked = await place.client.get("/comfyui/view", params=query)
    with Image.open(io.BytesIO(masked.content)) as image:
        assert image.getpixel((0, 0)) == (9, 8, 7, 50)
    for who, upload, data in (
        (place.other, mask, {"original_ref": ref}),
        (place.client, mask, {"original_ref": "x"}),
        (place.client, mask, {"original_ref": "[" * 100_000}),
        (place.client, mask, {"original_ref": json.dumps({"filename": "none", "type": "input"})}),
        (place.client, {"image": ("m.png", b"x", "image/png")}, {"original_ref": ref}),
        (place.client, {"image": ("m.png", png((0,), "L", 5), "image/png")}, {"original_ref": ref}),
    ):
        answer = await who.post("/comfyui/upload/mask", files=upload, data=data)
        assert answer.status_code == 400, answer.text


async def test_a_mask_fits_its_image_as_it_is_shown(place: Place) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo, mask = Image.new("RGBA", (8, 4), (9, 8, 7, 0)), Image.new("LA", (4, 8), (0, 50))
    photo.paste((1, 2, 3, 0), (0, 0, 4, 4))  # on top as it is shown
    written = io.BytesIO()
    photo.save(written, "PNG", exif=exif)
    drawn = io.BytesIO()
    mask.save(drawn, "PNG")
    with Image.open(io.BytesIO(with_alpha_of(written.getvalue(), drawn.getvalue()))) as image:
        assert image.size == (4, 8)
        # The colours below an earlier mask are still there.
        assert (image.getpixel((1, 1)), image.getpixel((1, 7))) == ((1, 2, 3, 50), (9, 8, 7, 50))


async def test_images_that_are_not_saved_come_by_the_socket(place: Place) -> None:
    """As in ComfyUI's example with the node SaveImageWebsocket."""
    graph = {"1": node("KSampler", seed=1), "9": node("SaveImageWebsocket", images=["1", 0])}
    async with connect(place.house, "me") as socket:
        prompt_id = await queue_prompt(place.client, graph, client_id="me")
        heard = await socket.until("executing", node=None, prompt_id=prompt_id)
    places = [n for n, message in enumerate(heard) if isinstance(message, bytes)]
    results = [n for n in places if heard[n].startswith(b"\0\0\0\1\0\0\0\2")]
    (at,) = results
    assert heard[at][8:] == b"image of 9"
    before = [
        event for event in heard[:at] if isinstance(event, dict) and event["type"] == "executing"
    ]
    assert before[-1]["data"]["node"] == "9"


@pytest.mark.parametrize(
    "error", [ArtifactNotFound("It is gone."), StorageUnavailable("It is off.")]
)
async def test_an_image_that_cannot_be_read_does_not_end_the_socket(
    place: Place, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def size(key: str) -> int:
        raise type(error)(f"{error} {key}")

    monkeypatch.setattr(place.house.services.files.storage, "size", size)
    graph = {"9": node("SaveImageWebsocket", images=["1", 0])}
    async with connect(place.house, "me") as socket:
        for _ in range(2):
            prompt_id = await queue_prompt(place.client, graph, client_id="me")
            heard = await socket.until("executing", node=None, prompt_id=prompt_id)
            assert "execution_success" in [
                event["type"] for event in heard if isinstance(event, dict)
            ]


async def test_states_of_nodes_are_told_for_the_page(place: Place) -> None:
    async with connect(place.house, "me") as socket:
        prompt_id = await queue_prompt(place.client, GRAPH, client_id="me")
        await wait_for_end(place.house, prompt_id)
        heard = await socket.until("execution_success", prompt_id=prompt_id)
    states = [event["data"]["nodes"] for event in heard if event["type"] == "progress_state"]
    assert {node: entry["state"] for node, entry in states[-1].items()} == {
        "1": "finished",
        "2": "finished",
    }


@pytest.mark.parametrize("here", [True, False])
async def test_a_socket_hears_of_prompts_through_its_process_at_once_and_of_others_by_looks(
    place: Place, monkeypatch: pytest.MonkeyPatch, *, here: bool
) -> None:
    if here:
        monkeypatch.setattr(events, "IDLE_DISCOVER_S", 3600.0)
    else:
        monkeypatch.setattr(events, "IDLE_DISCOVER_S", 0.02)
        monkeypatch.setattr(PromptArrivals, "announce", lambda *_: None)
    async with connect(place.house, "me") as socket:
        assert (await socket.hear())["type"] == "status"
        for _ in range(2):
            prompt_id = await queue_prompt(place.client, GRAPH, client_id="me")
            await socket.until("execution_success", prompt_id=prompt_id)
            await socket.until("status")
