"""Files of a request that an executor runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as some

from deployments.executors import files
from deployments.executors.base import MadeFile
from deployments.executors.files import RequestFiles, file_places, replaced
from deployments.transfer.uploader import Backoff, Uploader
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import InvalidInput, MarkMissing, PipelineFailed
from serve_app.domain.lease import Lease, LeaseKey
from serve_app.domain.ports import FileSigner
from serve_app.domain.progress import Progress, Stage
from serve_app.domain.request import Priority
from serve_app.telemetry.clock import SystemClock
from tests.deployments.executors.rig import FakeAppSource
from tests.deployments.storage import HttpStorage
from tests.deployments.web import Web

FILE = {"type": "string", "format": "uri", "x-darkroom-file": "image"}
TEXT = {"type": "string"}

# Places of files. Each case is a schema, a value of it, and the places that are right.

Case = tuple[dict[str, Any], Any, list[tuple[str | int, ...]]]


def _within(key: str | int, places: list[tuple[str | int, ...]]) -> list[tuple[str | int, ...]]:
    return [(key, *each) for each in places]


@some.composite
def objects(draw: Any, inner: some.SearchStrategy[Case]) -> Case:
    cases = draw(some.dictionaries(some.sampled_from("abcd"), inner, max_size=3))
    there = {name: each for name, each in cases.items() if draw(some.booleans())}
    value = {name: each[1] for name, each in there.items()}
    places = [place for name in there for place in _within(name, there[name][2])]
    if draw(some.booleans()):
        return (
            {
                "type": "object",
                "properties": {name: each[0] for name, each in cases.items()},
            },
            value,
            places,
        )
    schema, more, found = draw(inner)
    keyword = draw(some.sampled_from(["additionalProperties", "patternProperties"]))
    described = {"^z": schema} if keyword == "patternProperties" else schema
    return (
        {
            "type": "object",
            "properties": {name: each[0] for name, each in cases.items()},
            keyword: described,
        },
        {**value, "z": more},
        places + _within("z", found),
    )


@some.composite
def lists(draw: Any, inner: some.SearchStrategy[Case]) -> Case:
    first = draw(some.lists(inner, max_size=2))
    schema, value, places = draw(inner)
    count = draw(some.integers(0, 2))
    found = [place for n, each in enumerate(first) for place in _within(n, each[2])]
    found += [place for n in range(count) for place in _within(len(first) + n, places)]
    described: dict[str, Any] = {"type": "array", "items": schema}
    described |= {"prefixItems": [each[0] for each in first]} if first else {}
    return described, [*(each[1] for each in first), *[value] * count], found


@some.composite
def unions(draw: Any, inner: some.SearchStrategy[Case]) -> Case:
    """Two branches that a constant tells apart, and null."""
    branches = [draw(inner), draw(inner)]
    chosen = draw(some.integers(0, 2))
    keyword = draw(some.sampled_from(["anyOf", "oneOf"]))
    described = [
        {
            "type": "object",
            "properties": {"kind": {"const": name}, "value": branch[0]},
            "required": ["kind", "value"],
        }
        for name, branch in zip("xy", branches, strict=True)
    ]
    schema = {keyword: [*described, {"type": "null"}]}
    if chosen == 2:
        return schema, None, []
    _, value, places = branches[chosen]
    return schema, {"kind": "xy"[chosen], "value": value}, _within("value", places)


LEAVES: some.SearchStrategy[Case] = some.sampled_from(
    [
        (FILE, "https://host/a.png", [()]),
        (TEXT, "https://host/not-a-file", []),
        ({"type": "integer"}, 3, []),
        ({}, {"any": "https://host/thing"}, []),
        ({"$ref": "#/$defs/File"}, "https://host/b.png", [()]),
        ({"$ref": "#/$defs/Far", "description": "d"}, {"in": ["https://host/c.png"]}, [("in", 0)]),
        ({"anyOf": [FILE, {"type": "null"}]}, None, []),
        ({"anyOf": [FILE, {"type": "null"}]}, "https://host/d.png", [()]),
        ({"allOf": [TEXT, FILE]}, "https://host/e.png", [()]),
    ]
)
CASES = some.recursive(
    LEAVES, lambda inner: objects(inner) | lists(inner) | unions(inner), max_leaves=8
)
DEFINITIONS = {
    "File": FILE,
    "List": {"type": "array", "items": {"$ref": "#/$defs/File"}},
    "Far": {"type": "object", "properties": {"in": {"$ref": "#/$defs/List"}}},
}


@given(CASES)
def test_files_are_found_where_the_schema_has_them_and_nowhere_else(case: Case) -> None:
    schema, value, places = case
    whole = {"type": "object", "properties": {"x": schema}, "$defs": DEFINITIONS}
    found = list(file_places({"x": value}, whole))
    assert sorted(map(str, found)) == sorted(map(str, _within("x", places)))
    for place in found:
        changed = replaced({"x": value}, place, "new")
        assert replaced(changed, place, _at({"x": value}, place)) == {"x": value}


def _at(value: Any, place: tuple[str | int, ...]) -> Any:
    for part in place:
        value = value[part]
    return value


def test_a_model_that_contains_itself_ends() -> None:
    node = {
        "type": "object",
        "properties": {"image": FILE, "next": {"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]}},
    }
    value = {"image": "a", "next": {"image": "b", "next": None}}
    assert list(file_places(value, {**node, "$defs": {"N": node}})) == [
        ("image",),
        ("next", "image"),
    ]


# Fetching and storing.


class Tickets(FakeAppSource):
    """Ingress that gives tickets of ``storage``, and nothing else."""

    def __init__(self, storage: HttpStorage) -> None:
        super().__init__(storage)
        self._storage = storage

    async def file_ticket(
        self, held: LeaseKey, tenant: str, number: int, media_type: str
    ) -> UploadTicket:
        del tenant
        return self._storage.ticket(f"r/{held.request_id}/{number}", media_type)


class Desk:
    """Files of a request, with a web and a storage."""

    def __init__(self, scratch: Path) -> None:
        self.web, self.storage = Web(), HttpStorage()
        self.uploader = Uploader(
            self.storage.client(),
            SystemClock(),
            Backoff(Random(1)),  # noqa: S311
            5.0,
        )
        self.fetcher = self.web.fetcher()
        self.scratch = scratch
        self.progress: list[Progress] = []
        self.signer: FileSigner | None = None

    def files(
        self,
        name: str = "one",
        schema: Any = None,
        marking: str = "off",
        certificates: str = "",
        **given: Any,
    ) -> RequestFiles:
        endpoint = Endpoint(
            "apps/a", "python", Weights("a"), "json", options={"input_schema": schema or {}}
        )
        lease = Lease(name, 1, 60.0, endpoint, given, (), Priority.NORMAL, marking=marking)
        lease = replace(lease, certificates=certificates)
        folder = self.scratch / f"{name}-1"
        tickets = Tickets(self.storage)
        return RequestFiles(
            *(lease, folder, self.fetcher, self.uploader, tickets), signer=self.signer
        )

    async def store(self, output: Any, name: str = "one") -> Any:
        return await self.files(name).store(output, self.progress.append)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path / "scratch")
    desk.scratch.mkdir()
    (desk.scratch / "one-1").mkdir()
    (desk.scratch / "two-1").mkdir()
    yield desk
    await desk.uploader.aclose()
    await desk.fetcher.aclose()


def written(folder: Path, name: str, content: bytes = b"content", **facts: Any) -> MadeFile:
    """File as an executor names it."""
    path = folder / name
    path.write_bytes(content)
    return MadeFile({"$file": str(path), "media_type": "image/png", **facts})


LAYERS = {"type": "object", "properties": {"layers": {"type": "array", "items": FILE}}}


async def test_files_of_an_input_are_fetched_to_the_folder_of_the_request(desk: Desk) -> None:
    for name in "ab":
        desk.web.answers[f"example.com/{name}.png"] = httpx.Response(200, content=name.encode())
    layers = ["https://example.com/a.png?x=1.html", "https://example.com/b.png"]
    layers.append("data:text/plain,c")
    request = desk.files("new", LAYERS, layers=layers, prompt="https://example.com/no.png")
    assert request.are_remote
    fetched = await request.fetch(desk.progress.append)
    assert fetched["prompt"] == "https://example.com/no.png"
    paths = [Path(each["$file"]) for each in fetched["layers"]]
    assert [each.name for each in paths] == ["input-0.png", "input-1.png", "input-2.txt"]
    assert [await asyncio.to_thread(each.read_bytes) for each in paths] == [b"a", b"b", b"c"]
    assert {each.parent for each in paths} == {desk.scratch / "new-1"}
    assert [each.stage for each in desk.progress] == [Stage.FETCHING] * 3
    await request.remove()
    assert not await asyncio.to_thread((desk.scratch / "new-1").exists)
    await request.remove()


async def test_a_file_that_cannot_be_fetched_names_its_field(desk: Desk) -> None:
    request = desk.files(schema=LAYERS, layers=["data:,a", "https://example.com/gone.png"])
    with pytest.raises(InvalidInput) as raised:
        await request.fetch(desk.progress.append)
    assert raised.value.problems[0].loc == ("body", "layers", 1)


async def test_an_input_cannot_name_a_file_of_the_machine(desk: Desk) -> None:
    request = desk.files(schema=LAYERS, options=[{"a": {"$file": "/etc/passwd"}}])
    with pytest.raises(InvalidInput) as raised:
        await request.fetch(desk.progress.append)
    assert raised.value.problems[0].loc == ("body", "options", 0, "a", "$file")


async def test_an_input_with_too_many_files_is_refused_before_any_is_fetched(desk: Desk) -> None:
    request = desk.files(schema=LAYERS, layers=["https://example.com/a.png"] * 65)
    with pytest.raises(InvalidInput, match="65 files; at most 64 are possible") as raised:
        await request.fetch(desk.progress.append)
    assert raised.value.problems[0].loc == ("body", "layers", 64)
    assert desk.web.requests == []


async def test_files_of_an_output_are_stored(desk: Desk) -> None:
    own = desk.scratch / "one-1"
    output, artifacts = await desk.store(
        {
            "images": [written(own, "a.png", b"a", width=4, height=3, seed=7)],
            "deep": {"also": written(own, "b.png", b"bb")},
            "text": "a",
        }
    )
    assert output == {
        "images": [
            {
                "artifact": "r/one/0",
                "content_type": "image/png",
                "width": 4,
                "height": 3,
                "seed": 7,
            }
        ],
        "deep": {"also": {"artifact": "r/one/1", "content_type": "image/png"}},
        "text": "a",
    }
    assert desk.storage.objects == {"r/one/0": b"a", "r/one/1": b"bb"}
    assert [(each.key, each.size, each.width) for each in artifacts] == [
        ("r/one/0", 1, 4),
        ("r/one/1", 2, None),
    ]


async def test_an_app_decides_neither_about_the_key_nor_about_the_url_of_a_file(
    desk: Desk,
) -> None:
    facts: Any = {"artifact": "r/other/0", "url": "https://other", "content_type": "text/html"}
    file = written(desk.scratch / "one-1", "a.png", **facts)
    output, _ = await desk.store({"image": file})
    assert output == {"image": {"artifact": "r/one/0", "content_type": "image/png"}}


async def test_a_text_of_an_app_is_never_shown_as_a_stored_file(desk: Desk) -> None:
    with pytest.raises(PipelineFailed, match="a field `artifact`, whose name is reserved"):
        await desk.store({"echo": [{"artifact": "r/other/0"}]})
    with pytest.raises(PipelineFailed, match="a field `artifact`, whose name is reserved"):
        await desk.store({"echo": [{"artifact": "r/other/0", "$file": "/etc/hostname"}]})


async def test_an_object_that_only_looks_like_a_file_is_plain_data(
    desk: Desk, tmp_path: Path
) -> None:
    own = desk.scratch / "one-1"
    for secret in (written(tmp_path, "token"), written(own, "token")):
        echo = {"deep": [dict(secret), {"$as": "url"}, {**secret, "$as": "url"}]}
        output, (artifact,) = await desk.store({"echo": echo, "image": written(own, "a.png")})
        assert output["echo"] == echo
        assert output["image"]["artifact"] == artifact.key
        shown = await desk.files().inline({"echo": echo, "image": written(own, "a.png")})
        assert shown["echo"] == echo
        assert shown["image"]["url"].startswith("data:image/png;base64,")


async def test_a_file_of_the_apps_own_code_may_be_delivered(desk: Desk, tmp_path: Path) -> None:
    await desk.store({"image": written(tmp_path, "static.png")})
    assert desk.storage.objects == {"r/one/0": b"content"}


@pytest.mark.parametrize("way", ["path", "dots", "link", "linked folder", "hard to see"])
async def test_a_file_of_another_request_is_not_delivered(desk: Desk, way: str) -> None:
    own, other = desk.scratch / "one-1", desk.scratch / "two-1"
    written(other, "secret.png")
    path = {
        "path": other / "secret.png",
        "dots": own / ".." / "two-1" / "secret.png",
        "link": own / "link.png",
        "linked folder": own / "folder" / "secret.png",
        "hard to see": desk.scratch / "loose.png",
    }[way]
    written(desk.scratch, "loose.png")
    if way == "link":
        path.symlink_to(other / "secret.png")
    if way == "linked folder":
        path.parent.symlink_to(other)
    with pytest.raises(PipelineFailed, match="which belongs to another request"):
        await desk.store({"image": MadeFile({"$file": str(path)})})
    assert desk.storage.objects == {}


@pytest.mark.parametrize("name", ["gone.png", "folder", "link"])
async def test_a_file_that_is_not_there_is_an_error_with_its_name(desk: Desk, name: str) -> None:
    own = desk.scratch / "one-1"
    (own / "folder").mkdir()
    (own / "link").symlink_to(own / "nowhere")
    with pytest.raises(PipelineFailed, match=f"The output names the file {name}, which is not"):
        await desk.store({"image": MadeFile({"$file": str(own / name)})})


async def test_a_link_within_the_folder_of_the_request_is_followed(desk: Desk) -> None:
    own = desk.scratch / "one-1"
    written(own, "a.png", b"linked")
    (own / "link.png").symlink_to("a.png")
    await desk.store({"image": MadeFile({"$file": str(own / "link.png")})})
    assert desk.storage.objects == {"r/one/0": b"linked"}


async def test_an_output_with_too_many_files_is_refused(desk: Desk) -> None:
    file = written(desk.scratch / "one-1", "a.png")
    with pytest.raises(PipelineFailed, match="The output has 65 files; at most 64 may be"):
        await desk.store({"images": [file] * (files.MAX_FILES + 1)})


async def test_stored_files_of_an_attempt_that_fails_are_deleted(desk: Desk) -> None:
    own = desk.scratch / "one-1"
    request = desk.files(marking="required")
    output = {"a": written(own, "a.png", generated=False), "b": written(own, "b.png")}
    with pytest.raises(MarkMissing):
        await request.store(output, desk.progress.append)
    assert list(desk.storage.objects) == ["r/one/0"]
    await request.discard()
    assert desk.storage.objects == {}
