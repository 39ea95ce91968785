"""``darkroom verify`` as typed by a user."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from deployments.engine.media.images import encode
from deployments.transfer.manifest import GenerationFacts, ManifestWriter
from deployments.transfer.uploader import MediaFile
from serve_app.cli.connection import client as connection
from serve_app.cli.connection.remote import Remote
from serve_app.cli.main import main
from serve_app.cli.verification.replay import drawn_by, replay
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import InvalidInput
from serve_app.domain.lease import LeaseKey
from serve_app.provenance.certificates import CERTIFICATES_FILE
from serve_app.provenance.reader import verify
from tests.cli.flaky_proxy import flaky_proxy
from tests.fakes.file_signer import FakeFileSigner
from tests.wire.served import serve

pytestmark = pytest.mark.engine

SIGNER = FakeFileSigner()
DESCRIBED = {"prompt": "a red circle", "settings": {"image_size": "square"}}
FACTS = GenerationFacts(
    "fal-ai/flux/schnell", "o/n@1", 7, "r-1", 4, deterministic=True, description=DESCRIBED
)


def image(red: int = 200) -> Image.Image:
    return Image.new("RGB", (16, 16), (red, 20, 20))


def sign_file(body: bytes, facts: GenerationFacts = FACTS) -> bytes:
    async def sign() -> bytes:
        loop = asyncio.get_running_loop()
        writer = ManifestWriter(SIGNER, LeaseKey("r-1", 1), SIGNER.chain, loop)
        ticket = UploadTicket("k", "http://s/k", "image/png", 10**8)
        file = await asyncio.to_thread(writer.add_manifest, MediaFile(ticket, body), facts)
        return file.in_memory()

    return asyncio.run(sign())


def png(red: int = 200) -> bytes:
    return encode(image(red), "image/png", marked=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(sign_file(png()))
    return path


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Data directory of the installation that signed the file."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / CERTIFICATES_FILE).write_text(SIGNER.chain)
    return folder


def run_verify(file: Path, data_dir: Path, *more: str) -> Result:
    return CliRunner().invoke(main, ["verify", str(file), "--data-dir", str(data_dir), *more])


def test_a_file_of_this_installation_is_trusted_and_says_what_made_it(
    file: Path, data_dir: Path
) -> None:
    ran = run_verify(file, data_dir)
    assert ran.exit_code == 0, ran.output
    shown = ran.stdout.splitlines()
    assert shown[0] == "signature  unchanged since a trusted signer signed it"
    assert shown[1] == "mark       says that it is AI-generated"
    assert "Darkroom local, not trusted by public viewers: files" in shown[2]
    assert "request    r-1" in shown
    assert "seed       7" in shown


def test_the_signer_of_another_installation_is_not_known(file: Path, tmp_path: Path) -> None:
    ran = run_verify(file, tmp_path)
    assert ran.exit_code == 3
    assert "the signer is not known here" in ran.stdout
    trusted = tmp_path / "theirs.pem"
    trusted.write_text(SIGNER.chain)
    assert run_verify(file, tmp_path, "--trust", str(trusted)).exit_code == 0


def test_a_change_of_one_byte_is_found(file: Path, data_dir: Path) -> None:
    body = bytearray(file.read_bytes())
    body[-30] ^= 1
    file.write_bytes(body)
    ran = run_verify(file, data_dir, "--json")
    assert ran.exit_code == 2
    report = json.loads(ran.stdout)
    assert report["verdict"] == "invalid"
    assert any("mismatch" in problem for problem in report["problems"])


def test_a_file_that_was_saved_again_has_no_signature(file: Path, data_dir: Path) -> None:
    Image.open(file).save(file)
    ran = run_verify(file, data_dir)
    assert ran.exit_code == 4
    assert ran.stdout.splitlines() == ["signature  not signed", "mark       none"]
    assert run_verify(file, data_dir, "--replay").exit_code == 1


def test_what_is_no_file_of_a_known_type_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("nothing")
    ran = run_verify(path, tmp_path)
    assert ran.exit_code == 1
    assert "cannot be signed" in ran.output


def test_a_setting_that_is_wrong_is_reported_in_a_sentence(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARKROOM_PORT", "abc")
    ran = CliRunner().invoke(main, ["verify", str(file)])
    assert ran.exit_code == 1
    assert "The configuration is not valid. port: " in ran.output


def test_a_file_that_cannot_be_read_is_not_said_to_be_changed(file: Path, tmp_path: Path) -> None:
    for missing in (tmp_path / "none.png", tmp_path):
        ran = run_verify(missing, tmp_path)
        assert ran.exit_code == 1, "2 says that it was changed"
        assert f"{missing} cannot be read" in ran.output
        assert "Nothing was checked." in ran.output
    ran = run_verify(file, tmp_path, "--trust", str(tmp_path / "none.pem"))
    assert ran.exit_code == 1
    assert "none.pem cannot be read: No such file or directory" in ran.output


def of(*images: bytes) -> Any:
    """Server that draws these, and notes what it was asked for."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def draw(endpoint: str, body: dict[str, Any]) -> Iterable[bytes]:
        calls.append((endpoint, body))
        return images

    draw.asked = calls
    return draw


def test_an_image_that_is_drawn_again_is_compared_pixel_by_pixel(file: Path) -> None:
    facts = verify(file).generation
    draw = of(sign_file(png()))
    comparison = replay(draw, file, facts)
    assert (comparison.equal, comparison.differing_facts) == (True, ())
    body = {"prompt": "a red circle", "seed": 7, "image_size": "square"}
    assert draw.asked == [("fal-ai/flux/schnell", body)]


def test_the_nearest_of_several_images_counts_and_its_difference_is_said(file: Path) -> None:
    facts = verify(file).generation
    changed = replace(FACTS, model="o/n@2", description={})
    comparison = replay(of(png(0), sign_file(png(203), changed)), file, facts)
    assert (comparison.most, comparison.changed, comparison.facts_known) == (3, 1.0, True)
    assert comparison.words == "drawn again, 100.0% of the pixels differ, by at most 3 of 255"
    assert comparison.differing_facts == ("model o/n@1 then, o/n@2 now",)


def test_without_a_prompt_in_the_manifest_nothing_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(sign_file(png(), replace(FACTS, description={})))
    with pytest.raises(InvalidInput, match="has no prompt"):
        replay(of(), path, verify(path).generation)


def test_a_difference_in_an_image_that_was_drawn_with_others_is_usual(file: Path) -> None:
    facts = {**verify(file).generation, "deterministic": False}
    buffer = io.BytesIO()
    image(201).save(buffer, "PNG")
    words = replay(of(buffer.getvalue()), file, facts).words
    assert "small differences are usual" in words
    assert words.endswith("the server signs no files, so it does not say why")


def test_a_server_draws_alone_and_without_earlier_outcomes() -> None:
    with serve() as address:
        draw = drawn_by(Remote(address.url, address.key))
        assert list(draw("test/probe", {"artifacts": 1, "content": "abc"})) == [b"abc"]


def test_a_restart_of_the_server_does_not_end_a_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PAUSES_S", (0.0,))
    away: set[str] = set()

    def trouble(method: str, path: str) -> int | None:
        seen = method == "POST" or path in away
        away.add(path)
        return None if seen else 503

    with serve() as address, flaky_proxy(address, trouble) as proxy:
        draw = drawn_by(Remote(proxy.url, proxy.key))
        assert list(draw("test/probe", {"artifacts": 1, "content": "abc"})) == [b"abc"]
    assert len(away) == 4  # the submit, the status, the output and the file
