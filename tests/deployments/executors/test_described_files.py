"""Files of apps, Cog models, workflows and providers say what made them, as the engine's do."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.executors.base import MadeFile
from serve_app.domain.media.file_metadata import FileMetadata, find
from serve_app.domain.media.marking import is_marked
from serve_app.provenance.reader import verify
from tests.deployments.executors.test_files import Desk, desk, write_file, write_picture
from tests.fakes.file_signer import FakeFileSigner

__all__ = ["desk"]

TOKEN = {"properties": {"token": {"type": "string", "format": "password", "writeOnly": True}}}


async def store_file(desk: Desk, output: Any = None, **options: Any) -> bytes:
    """Content of the file of a described request with one image. ``output``: more of it."""
    files = desk.files(**{"described": True, **options})
    image = write_picture(desk.scratch / "one-1", "a.png")
    await files.store({"image": image, **(output or {})}, desk.progress.append)
    (content,) = desk.storage.objects.values()
    return content


@pytest.mark.parametrize("marking", ["on", "off"])
async def test_a_file_says_what_made_it(desk: Desk, marking: str) -> None:
    url = "https://example.com/a.png?signature=secret"
    arguments = {"prompt": "a cat", "seed": 0, "size": {"width": 64}, "image_url": url}
    content = await store_file(desk, marking=marking, **arguments)
    metadata = find(content)
    assert metadata is not None
    assert metadata.model.startswith("python:")
    assert metadata == FileMetadata(
        "apps/a",
        metadata.model,
        0,
        "a cat",
        {"size": {"width": 64}},
        "one",
        left_out=("image_url",),
    )
    assert is_marked(content) is (marking == "on")


async def test_the_size_of_a_file_counts_what_it_says(desk: Desk) -> None:
    image = write_picture(desk.scratch / "one-1", "b.png")
    sized = MadeFile({**image, "file_size": 1})
    files = desk.files(described=True, prompt="a cat")
    output, (artifact,) = await files.store({"image": sized}, desk.progress.append)
    (content,) = desk.storage.objects.values()
    assert find(content) is not None
    assert output["image"]["file_size"] == artifact.size == len(content)


@pytest.mark.parametrize(("output", "seed"), [({"seed": 5}, 5), ({"seed": "x"}, None), ({}, None)])
async def test_its_seed_is_the_one_that_the_code_says(
    desk: Desk, output: dict[str, Any], seed: int | None
) -> None:
    content = await store_file(desk, output)
    metadata = find(content)
    assert metadata is not None
    assert metadata.seed == seed


async def test_secrets_of_an_input_are_not_in_its_files(desk: Desk) -> None:
    content = await store_file(desk, schema=TOKEN, token="hush", prompt="a cat")
    metadata = find(content)
    assert metadata is not None
    assert (metadata.settings, metadata.left_out) == ({}, ("token",))
    assert b"hush" not in content


async def test_a_request_that_is_not_described_leaves_files_as_they_are(desk: Desk) -> None:
    content = await store_file(desk, described=False, prompt="a cat")
    assert content == (desk.scratch / "one-1" / "a.png").read_bytes()


async def test_a_file_that_no_model_made_is_not_described(desk: Desk) -> None:
    files = desk.files(described=True, prompt="a cat")
    image = MadeFile({**write_picture(desk.scratch / "one-1", "a.png"), "generated": False})
    await files.store({"image": image}, desk.progress.append)
    (content,) = desk.storage.objects.values()
    assert find(content) is None


async def test_a_file_without_a_place_for_it_is_stored_as_it_is(desk: Desk) -> None:
    files = desk.files(described=True, prompt="a cat")
    model = write_file(desk.scratch / "one-1", "a.glb")
    mesh = MadeFile({**model, "media_type": "model/gltf-binary"})
    await files.store({"mesh": mesh}, desk.progress.append)
    assert [*desk.storage.objects.values()] == [b"content"]


async def test_a_file_that_is_marked_by_its_provider_stays_valid(desk: Desk) -> None:
    """Its mark may be a signed manifest, which an inserted byte makes invalid."""
    first = await store_file(desk, described=False, marking="on")
    desk.storage.objects.clear()
    files = desk.files(described=True, marking="on", prompt="a cat")
    marked = write_file(desk.scratch / "one-1", "marked.png", first)
    await files.store({"image": marked}, desk.progress.append)
    assert [*desk.storage.objects.values()] == [first]


async def test_a_signed_manifest_has_the_description(desk: Desk, tmp_path: Any) -> None:
    desk.signer = signer = FakeFileSigner()
    content = await store_file(
        desk, {"seed": 5}, marking="on", certificates=signer.chain, prompt="a cat"
    )
    path = tmp_path / "read.png"
    path.write_bytes(content)
    facts = verify(path, signer.chain).generation
    assert (facts["seed"], facts["description"]["prompt"]) == (5, "a cat")
