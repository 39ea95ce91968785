"""Files of apps, Cog models, workflows and providers are signed as those of the engine are."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deployments.executors.base import MadeFile
from deployments.executors.marks import FileMarks
from deployments.transfer.uploader import MediaFile
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import Fenced, MarkMissing, NotSigned, Unavailable
from serve_app.domain.lease import Lease, LeaseKey
from serve_app.domain.media.marking import is_marked
from serve_app.domain.request import Priority
from serve_app.provenance.reader import SignatureState, verify
from tests.deployments.executors.rig import DIGEST, ExecutorRig
from tests.deployments.executors.test_files import Desk, desk
from tests.deployments.executors.test_marks import SOUNDS, write_sound
from tests.fakes.file_signer import FakeFileSigner

__all__ = ["desk"]

PILLOW = {"image/png": "PNG", "image/jpg": "JPEG", "image/webp": "WEBP"}
"""Media types, as apps say them too, and the format that writes their files."""


def make_file(folder: Path, media_type: str = "image/png") -> MadeFile:
    """File as a worker names it, without a mark."""
    path = folder / f"made{media_type.replace('/', '.')}"
    if media_type in PILLOW:
        Image.new("RGB", (24, 16), (200, 20, 20)).save(path, PILLOW[media_type])
    elif media_type == "audio/x-wav":
        write_sound(path, *SOUNDS["audio/wav"])
    else:
        write_sound(path, *SOUNDS["audio/ogg"])
    return MadeFile({"$file": str(path), "media_type": media_type, "file_size": 1})


@pytest.fixture
def signer(desk: Desk) -> FakeFileSigner:
    desk.signer = FakeFileSigner()
    return desk.signer


def read(desk: Desk, tmp_path: Path, signer: FakeFileSigner) -> Any:
    """What ``darkroom verify`` finds in the one file that was stored."""
    (body,) = desk.storage.objects.values()
    path = tmp_path / "read"
    path.write_bytes(body)
    # The reader goes by the extension.
    kind = {b"\x89PNG": ".png", b"\xff\xd8\xff\xe0": ".jpg", b"RIFF": ".webp"}[body[:4]]
    kind = ".wav" if body[8:12] == b"WAVE" else kind
    return verify(path.rename(path.with_suffix(kind)), signer.chain)


@pytest.mark.parametrize("media_type", [*PILLOW, "audio/x-wav"])
async def test_a_file_is_signed_and_says_what_made_it(
    desk: Desk, signer: FakeFileSigner, tmp_path: Path, media_type: str
) -> None:
    files = desk.files(marking="required", certificates=signer.chain, seed=7, prompt="a secret")
    file = make_file(desk.scratch / "one-1", media_type)
    output, (artifact,) = await files.store({"file": file}, desk.progress.append)
    signature = read(desk, tmp_path, signer)
    assert signature.verdict is SignatureState.TRUSTED
    facts = signature.generation
    assert (facts["endpoint"], facts["seed"], facts["request_id"]) == ("apps/a", 7, "one")
    assert facts["model"].startswith("python:")
    assert facts["versions"].keys() == {"darkroom"}, "an app may have other packages"
    (body,) = desk.storage.objects.values()
    assert is_marked(body)
    assert b"a secret" not in body
    assert artifact.media_type == media_type
    assert (artifact.size, artifact.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert output["file"]["file_size"] == len(body)


async def test_without_a_seed_in_the_input_the_manifest_has_none(
    desk: Desk, signer: FakeFileSigner, tmp_path: Path
) -> None:
    files = desk.files(marking="on", certificates=signer.chain)
    await files.store({"file": make_file(desk.scratch / "one-1")}, desk.progress.append)
    assert not {"seed", "steps"} & read(desk, tmp_path, signer).generation.keys()


async def test_a_file_that_no_model_has_made_is_not_signed(
    desk: Desk, signer: FakeFileSigner, tmp_path: Path
) -> None:
    files = desk.files(marking="required", certificates=signer.chain)
    own = MadeFile({**make_file(desk.scratch / "one-1"), "generated": False})
    await files.store({"file": own}, desk.progress.append)
    assert read(desk, tmp_path, signer).verdict is SignatureState.UNSIGNED


async def test_a_type_without_a_place_for_a_signature_fails_only_where_it_is_required(
    desk: Desk, signer: FakeFileSigner
) -> None:
    output = {"file": make_file(desk.scratch / "one-1", "audio/ogg")}
    strict = desk.files(marking="required", certificates=signer.chain)
    with pytest.raises(MarkMissing, match=r"audio/ogg cannot be signed.*another format"):
        await strict.store(output, desk.progress.append)
    assert desk.storage.objects == {}
    files = desk.files(marking="on", certificates=signer.chain)
    await files.store(output, desk.progress.append)
    assert all(map(is_marked, desk.storage.objects.values()))
    assert signer.unsigned == ["A file of audio/ogg cannot be signed."]


async def test_a_signer_that_fails_fails_the_request_only_where_signatures_are_required(
    desk: Desk, signer: FakeFileSigner
) -> None:
    signer.fails = Unavailable("The ingress is away.")
    output = {"file": make_file(desk.scratch / "one-1")}
    strict = desk.files(marking="required", certificates=signer.chain)
    with pytest.raises(NotSigned, match="The ingress is away") as raised:
        await strict.store(output, desk.progress.append)
    assert raised.value.retryable
    assert desk.storage.objects == {}
    await desk.files(marking="on", certificates=signer.chain).store(output, desk.progress.append)
    assert all(map(is_marked, desk.storage.objects.values()))
    assert signer.unsigned == ["A file could not be signed: The ingress is away."]


async def test_a_replica_without_a_signer_delivers_nothing_where_signatures_are_required(
    desk: Desk,
) -> None:
    output, chain = {"file": make_file(desk.scratch / "one-1")}, FakeFileSigner().chain
    with pytest.raises(NotSigned):
        await desk.files(marking="required", certificates=chain).store(output, desk.progress.append)
    assert desk.storage.objects == {}
    await desk.files(marking="on", certificates=chain).store(output, desk.progress.append)
    assert all(map(is_marked, desk.storage.objects.values()))


async def test_an_attempt_that_lost_its_lease_signs_nothing(
    desk: Desk, signer: FakeFileSigner
) -> None:
    signer.lost.add(LeaseKey("one", 1))
    files = desk.files(marking="on", certificates=signer.chain)
    with pytest.raises(Fenced):
        await files.store({"file": make_file(desk.scratch / "one-1")}, desk.progress.append)
    assert desk.storage.objects == {}


async def test_a_file_that_the_app_keeps_is_not_changed(
    desk: Desk, signer: FakeFileSigner, tmp_path: Path
) -> None:
    kept = make_file(tmp_path)
    before = await asyncio.to_thread(Path(kept["$file"]).read_bytes)
    files = desk.files(marking="on", certificates=signer.chain)
    await files.store({"file": kept, "same": kept}, desk.progress.append)
    assert await asyncio.to_thread(Path(kept["$file"]).read_bytes) == before
    assert len(desk.storage.objects) == 2


async def test_a_manifest_that_a_file_had_is_replaced(
    desk: Desk, signer: FakeFileSigner, tmp_path: Path
) -> None:
    files = desk.files("two", marking="on", certificates=signer.chain)
    await files.store({"file": make_file(desk.scratch / "two-1")}, desk.progress.append)
    signed = desk.scratch / "one-1" / "signed.png"
    (body,) = desk.storage.objects.values()
    await asyncio.to_thread(signed.write_bytes, body)
    desk.storage.objects.clear()
    again = MadeFile({"$file": str(signed), "media_type": "image/png"})
    files = desk.files(marking="on", certificates=signer.chain)
    await files.store({"file": again}, desk.progress.append)
    signature = read(desk, tmp_path, signer)
    assert signature.verdict is SignatureState.TRUSTED
    assert signature.generation["request_id"] == "one"
    assert await asyncio.to_thread(signed.read_bytes) == body, "the app's file stays as it was"


CODE: list[tuple[str, Mapping[str, Any], str]] = [
    ("python", {"app": {"bundle": "ab12"}}, "python:ab12"),
    ("cog", {"cog": {"bundle": "cd34"}}, "cog:cd34"),
    ("openai", {"hosted": {"endpoint": "gpt-image-1"}}, "openai:gpt-image-1"),
]


@pytest.mark.parametrize(("family", "options", "model"), CODE)
async def test_the_manifest_names_the_code_or_the_model_of_the_provider(
    tmp_path: Path, family: str, options: Mapping[str, Any], model: str
) -> None:
    signer = FakeFileSigner()
    endpoint = Endpoint("a/b", family, Weights(""), "json", options=options)
    lease = Lease(
        *("one", 1, 60.0, endpoint, {}, (), Priority.NORMAL),
        marking="on",
        certificates=signer.chain,
    )
    path = Path(make_file(tmp_path)["$file"])
    marks = FileMarks(lease, tmp_path / "copies", signer)
    file = await marks.sign(MediaFile(UploadTicket("k", "", "image/png", 10**8), path), 0)
    assert isinstance(file.body, Path)
    assert verify(file.body, signer.chain).generation["model"] == model


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[ExecutorRig]:
    rig = ExecutorRig(tmp_path)
    await rig.replica.start()
    yield rig
    await rig.replica.aclose()


async def test_a_replica_signs_the_files_of_its_apps(rig: ExecutorRig, tmp_path: Path) -> None:
    key = rig.offer(
        *("one", "/paint"),
        color="red",
        lease_marking="required",
        lease_certificates=rig.signer.chain,
    )
    outcome = await rig.outcome(key)
    assert outcome.failure is None
    for artifact in outcome.artifacts:
        path = tmp_path / "read.png"
        path.write_bytes(rig.storage.objects[artifact.key])
        signature = verify(path, rig.signer.chain)
        assert signature.verdict is SignatureState.TRUSTED
        assert signature.generation["model"] == f"python:{DIGEST}"
