"""LoRAs named in inputs: from the web, our own storage, the hub, or inside the input."""

import asyncio
import base64
import hashlib
import json
import struct

import httpx2
import pytest

from deployments.families.options import requested_loras
from deployments.transfer.fetcher import NO_FILES, OwnFiles
from deployments.transfer.lora_cache import LoraCache
from deployments.transfer.lora_fetcher import REVALIDATE_S, LoraFetcher
from deployments.transfer.uploader import StorageRetry
from serve_app.domain.endpoint import StoreConfig
from serve_app.domain.errors import InvalidInput
from tests.deployments.web import Web
from tests.fakes.clock import FakeClock
from tests.weights import hub_server
from tests.weights.hub_server import HubServer, serving
from weights.hub import Hub
from weights.repository_files import RepositoryFiles
from weights.store import Store

URL = "https://example.com/api/download/models/7?type=Model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MOST = 5000


def safetensors(fill=b"\1", size=16):
    header = {"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + fill * size


class House:
    """A fetcher and all its sources."""

    def __init__(self, folder, hub):
        self.web = Web()
        self.clock = FakeClock()
        self.folder = folder / "loras"
        self.hub = hub
        self._store = folder / "store"
        self.fetchers = []
        self.registered = {}  # digest → URL
        self.located = []

    async def locate(self, digest):
        self.located.append(digest)
        return self.registered.get(digest, "")

    def fetcher(self, *, offline=False, most=MOST):
        config = StoreConfig(directory=self._store, offline=offline)
        store = Store(config, lambda: Hub(self.hub.url, tries=1))
        lora_fetcher = LoraFetcher(
            self.web.fetcher(max_bytes=most, offline=offline),
            RepositoryFiles(store),
            LoraCache(self.folder, 10**6, self.clock.now),
            self.clock,
            most,
            self.locate,
        )
        self.fetchers.append(lora_fetcher)
        return lora_fetcher

    def publish(self, folder, *names, fill=b"\1"):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(safetensors(fill))
        self.hub.add("house/style", COMMIT, folder)


@pytest.fixture
async def house(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serving(HubServer()) as hub:
        new_house = House(tmp_path, hub)
        yield new_house
        for fetcher in new_house.fetchers:
            await fetcher.aclose()


async def bring(fetcher, *paths, files=NO_FILES, scope="", tenant=""):
    acquired = []
    try:
        loras = requested_loras({"loras": [{"path": path} for path in paths]})
        fetched = await fetcher.acquire(loras, acquired, files, scope, tenant)
        return [lora.file.read_bytes() for lora in fetched]
    finally:
        for file in acquired:
            file.release()


async def assert_refused(fetcher, path, match, **more):
    good = "data:;base64," + base64.b64encode(safetensors()).decode()
    with pytest.raises(InvalidInput, match=match) as caught:
        await bring(fetcher, good, path, **more)
    (problem,) = caught.value.problems
    assert problem.loc == ("body", "loras", 1, "path")
    return problem.type


async def test_a_url_needs_no_file_name(house):
    house.web.answers["example.com/api/download/models/7"] = httpx2.Response(
        302, headers={"location": "https://cdn.example.com/blob"}
    )
    house.web.names["cdn.example.com"] = house.web.names["example.com"]
    house.web.answers["cdn.example.com/blob"] = httpx2.Response(200, content=safetensors())
    assert await bring(house.fetcher(), URL) == [safetensors()]


async def test_what_one_tenant_has_fetched_is_no_faster_for_another(house, tmp_path):
    """Neither by the same name nor by another one of the same file, from the web or the hub."""
    house.web.answers["example.com/api/download/models/7"] = httpx2.Response(
        200, content=safetensors()
    )
    house.publish(tmp_path / "hub", "a.safetensors")
    (source,) = (lora.source for lora in requested_loras({"loras": [{"path": URL}]}))
    fetcher = house.fetcher()
    for scope in ("a", "b", ""):
        assert not fetcher.is_current(source, scope)
        assert await bring(fetcher, URL, scope=scope) == [safetensors()]
        assert fetcher.is_current(source, scope)
    assert len(house.web.requests) == 3
    assert len(list(house.folder.rglob("*.safetensors"))) == 3, "one for each scope"
    await bring(fetcher, "house/style", scope="b")
    assert house.hub.downloads("a.safetensors") == [], "a file that the scope has by another name"
    for number, scope in enumerate(("c", "d"), 1):
        for _ in range(2):
            assert await bring(fetcher, "house/style", scope=scope) == [safetensors()]
        assert len(house.hub.downloads("a.safetensors")) == number
    digest = hashlib.sha256(safetensors()).hexdigest()
    assert {path.stem for path in house.folder.rglob("*.safetensors")} == {digest}


async def test_a_file_may_be_inside_the_input_or_in_our_own_storage(house):
    house.web.answers["ingress:8000/files/r/1/a"] = httpx2.Response(200, content=safetensors(b"\2"))
    inline = "data:;base64," + base64.b64encode(safetensors()).decode()
    ours = "http://localhost:8000/files/r/1/a"
    for fetcher in (house.fetcher(), house.fetcher(offline=True)):
        contents = await bring(fetcher, inline, ours, files=OwnFiles("http://ingress:8000"))
        assert contents == [safetensors(), safetensors(b"\2")]


async def test_a_private_file_is_for_its_tenant_also_where_tenants_share_caches(house):
    """Storage answers by the token; a name that was fetched for one tenant says nothing of others'
    rights, neither afterwards nor while it is being fetched."""
    url, go = "http://localhost:8000/files/p/one/r/1/a", asyncio.Event()

    async def answer():
        token = house.web.requests[-1].headers["authorization"]
        await go.wait()
        return httpx2.Response(200, content=safetensors()) if "one" in token else refusal

    refusal = httpx2.Response(403)
    house.web.answers["ingress:8000/files/p/one/r/1/a"] = answer
    ours = {name: OwnFiles("http://ingress:8000", name) for name in ("one", "other")}
    fetcher = house.fetcher()
    both = [
        asyncio.create_task(bring(fetcher, url, files=ours[name], tenant=name))
        for name in ("other", "one")
    ]
    await asyncio.sleep(0)
    go.set()
    other, one = await asyncio.gather(*both, return_exceptions=True)
    assert one == [safetensors()]
    assert "private" in str(other)
    with pytest.raises(InvalidInput, match="private"):
        await bring(fetcher, url, files=ours["other"], tenant="other")


async def test_who_asks_for_the_same_at_once_waits_for_one_fetch(house):
    requested, go = asyncio.Event(), asyncio.Event()

    async def slow():
        requested.set()
        await go.wait()
        return httpx2.Response(200, content=safetensors())

    house.web.answers["example.com/api/download/models/7"] = slow
    fetcher = house.fetcher()
    first = asyncio.create_task(bring(fetcher, URL))
    others = [asyncio.create_task(bring(fetcher, URL, URL)) for _ in range(3)]
    await requested.wait()
    first.cancel()  # the other callers still get the file
    go.set()
    assert await asyncio.gather(*others) == [[safetensors(), safetensors()]] * 3
    assert len(house.web.requests) == 1


async def test_after_a_minute_the_server_is_asked_whether_it_changed(house):
    answers = house.web.answers
    name = "example.com/api/download/models/7"
    answers[name] = httpx2.Response(200, content=safetensors(), headers={"etag": '"one"'})
    fetcher = house.fetcher()
    await bring(fetcher, URL)
    await bring(fetcher, URL)
    assert len(house.web.requests) == 1
    house.clock.advance(REVALIDATE_S + 1)
    answers[name] = httpx2.Response(304)
    assert await bring(fetcher, URL) == [safetensors()]
    assert house.web.requests[-1].headers["if-none-match"] == '"one"'
    house.clock.advance(REVALIDATE_S + 1)
    answers[name] = httpx2.Response(200, content=safetensors(b"\2"))
    assert await bring(fetcher, URL) == [safetensors(b"\2")]
    assert len(house.web.requests) == 3


async def test_what_was_evicted_is_fetched_again(house):
    name = "example.com/api/download/models/7"
    house.web.answers[name] = httpx2.Response(200, content=safetensors(), headers={"etag": '"one"'})
    fetcher = house.fetcher()
    await bring(fetcher, URL)
    for path in house.folder.iterdir():
        path.unlink()
    assert await bring(fetcher, URL) == [safetensors()]
    assert "if-none-match" not in house.web.requests[-1].headers


async def test_what_is_no_safetensors_file_is_not_read_to_its_end(house):
    read = []

    async def pickle():
        while True:
            read.append(1)
            yield b"PK\3\4" * 25

    name = "example.com/api/download/models/7"
    house.web.answers[name] = httpx2.Response(200, content=pickle())
    assert (
        await assert_refused(house.fetcher(), URL, "not a safetensors file") == "unsupported_file"
    )
    assert len(read) <= 2
    assert not list(house.folder.glob("*.part"))


@pytest.mark.parametrize("body", [safetensors()[:-1], safetensors()[:9], b"", b"\xff" * 8 + b"{}"])
async def test_a_damaged_file_is_refused(house, body):
    house.web.answers["example.com/api/download/models/7"] = httpx2.Response(200, content=body)
    await assert_refused(house.fetcher(), URL, "not a safetensors file")
    assert len(list(house.folder.iterdir())) == 1  # next to the valid one


async def test_what_cannot_be_fetched_or_is_too_large_names_its_field(house):
    assert await assert_refused(house.fetcher(), URL, "answered 404") == "file_download_error"
    await assert_refused(house.fetcher(), "http://127.0.0.1:1/a", "private")
    house.web.answers["example.com/api/download/models/7"] = httpx2.Response(
        200, content=safetensors(size=MOST)
    )
    assert await assert_refused(house.fetcher(), URL, "larger than 5000") == "file_too_large"


async def test_offline_nothing_is_fetched_from_elsewhere(house):
    await assert_refused(house.fetcher(offline=True), URL, "DARKROOM_OFFLINE")
    await assert_refused(house.fetcher(offline=True), "house/style", "DARKROOM_OFFLINE")
    await assert_refused(house.fetcher(offline=True), f"house/style@{COMMIT}", "DARKROOM_OFFLINE")
    assert house.web.requests == house.hub.asked == []


async def test_of_a_repository_the_file_that_is_meant_comes_alone(house, tmp_path):
    folder = tmp_path / "published"
    house.publish(folder, "pytorch_lora_weights.safetensors", "other.safetensors")
    (folder / "other.safetensors").write_bytes(safetensors(b"\2"))
    contents = await bring(
        house.fetcher(),
        f"house/style@{COMMIT}",
        f"house/style/other.safetensors@{COMMIT}",
    )
    assert contents == [safetensors(), safetensors(b"\2")]
    assert len(house.hub.downloads(".safetensors")) == 2
    # Another replica on the node downloads nothing.
    assert await bring(house.fetcher(), f"house/style@{COMMIT}") == [safetensors()]
    assert len(house.hub.downloads(".safetensors")) == 2


async def test_a_file_that_its_repository_stores_without_lfs_has_its_sha256_as_the_others(
    house, tmp_path, monkeypatch
):
    monkeypatch.setattr(hub_server, "LARGE", ())
    house.publish(tmp_path / "one", "style.safetensors")
    assert await bring(house.fetcher(), "house/style") == [safetensors()]
    digest = hashlib.sha256(safetensors()).hexdigest()
    assert [path.stem for path in house.folder.rglob("*.safetensors")] == [digest]


async def test_without_a_revision_it_is_what_the_main_branch_is_now(house, tmp_path):
    house.publish(tmp_path / "one", "style.safetensors")
    fetcher = house.fetcher()
    assert await bring(fetcher, "house/style") == [safetensors()]
    other = "f" * 40
    house.publish(tmp_path / "two", "style.safetensors", fill=b"\2")
    house.hub.add("house/style", other, tmp_path / "two")
    assert await bring(fetcher, "house/style") == [safetensors()]
    house.clock.advance(REVALIDATE_S + 1)
    assert await bring(fetcher, "house/style") == [safetensors(b"\2")]


async def test_a_commit_is_not_asked_for_twice(house, tmp_path):
    house.publish(tmp_path / "one", "style.safetensors")
    fetcher = house.fetcher()
    await bring(fetcher, f"house/style@{COMMIT}")
    request_count = len(house.hub.asked)
    house.clock.advance(REVALIDATE_S + 1)
    await bring(fetcher, f"house/style@{COMMIT}")
    assert len(house.hub.asked) == request_count


async def test_a_repository_that_leaves_a_choice_or_has_none_is_reported(house, tmp_path):
    house.publish(tmp_path / "many", "a.safetensors", "b.safetensors")
    says = r"name the one to use.*a\.safetensors, b\.safetensors"
    await assert_refused(house.fetcher(), "house/style", says)
    await assert_refused(house.fetcher(), "house/style/c.safetensors", r"no file c\.safetensors")
    (tmp_path / "pickles").mkdir()
    (tmp_path / "pickles" / "lora.bin").write_bytes(b"x")
    house.hub.add("house/style", COMMIT, tmp_path / "pickles")
    await assert_refused(house.fetcher(), "house/style", "has no safetensors")
    await assert_refused(house.fetcher(), "house/absent", "has no house/absent")


async def test_a_large_file_of_a_repository_is_not_even_begun(house, tmp_path):
    house.publish(tmp_path / "one", "style.safetensors")
    (tmp_path / "one" / "style.safetensors").write_bytes(safetensors(size=500))
    await assert_refused(house.fetcher(most=200), "house/style", "larger than 200")
    assert house.hub.downloads(".safetensors") == []


async def test_bytes_that_are_not_those_of_the_digest_are_thrown_away(house, tmp_path):
    house.publish(tmp_path / "one", "style.safetensors", fill=b"\2")
    house.hub.wrong["style.safetensors"] = 1
    await assert_refused(house.fetcher(), "house/style", "does not match the digest")
    assert await bring(house.fetcher(), "house/style") == [safetensors(b"\2")]


async def test_a_registered_file_is_located_by_its_digest_and_kept(house):
    content = safetensors(b"\5")
    digest = hashlib.sha256(content).hexdigest()
    house.registered[digest] = "http://ingress:8000/files/w/abc.safetensors"
    house.web.answers["ingress:8000/files/w/abc.safetensors"] = httpx2.Response(
        200, content=content
    )
    for fetcher in (house.fetcher(), house.fetcher(offline=True)):
        path = f"weights:style@{digest}"
        contents = await bring(fetcher, path, path, files=OwnFiles("http://ingress:8000"))
        assert contents == [content, content]
    assert house.located == [digest]  # the second one found it on the disk
    assert fetcher.is_current(requested_loras({"loras": [{"path": path}]})[0].source)


async def test_a_registered_file_that_is_gone_or_damaged_names_the_field(house):
    digest = "d" * 64
    assert await assert_refused(house.fetcher(), f"weights:style@{digest}", "do not exist any more")
    assert await assert_refused(house.fetcher(), "weights:style", "do not exist any more")
    house.registered[digest] = "http://ingress:8000/files/w/abc.safetensors"
    other = httpx2.Response(200, content=safetensors())
    house.web.answers["ingress:8000/files/w/abc.safetensors"] = other
    origin = "http://ingress:8000"
    await assert_refused(
        house.fetcher(), f"weights:style@{digest}", "damaged", files=OwnFiles(origin)
    )


@pytest.mark.parametrize("error", [TimeoutError(), RuntimeError("the actor died")])
async def test_an_ingress_that_locates_no_file_is_no_fault_of_the_input(house, error):
    async def locate(digest):
        raise error

    house.locate = locate
    with pytest.raises(StorageRetry):
        await bring(house.fetcher(), f"weights:style@{'d' * 64}")
