"""Checks of files in a process of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from serve_app.domain.errors import InvalidInput, Unsupported
from serve_app.provenance.checker import check_apart
from serve_app.provenance.reader import SignatureState, verify
from tests.cli.verification.test_verify import SIGNER, png, sign_file

pytestmark = pytest.mark.engine


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    path = tmp_path / "trusted.pem"
    path.write_text(SIGNER.chain)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(sign_file(png()))
    return path


async def test_another_process_finds_the_same(file: Path, certificates: Path) -> None:
    report = await check_apart(file, certificates)
    assert report.signature == verify(file, SIGNER.chain)
    assert report.signature.verdict is SignatureState.TRUSTED
    assert report.signature.generation["request_id"] == "r-1"
    assert report.marked


async def test_its_python_finds_its_library_where_this_one_does(
    file: Path, certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nenv > "{tmp_path}/env"\nexec {sys.executable} "$@"\n')
    python.chmod(0o700)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/python/lib")
    monkeypatch.setenv("DARKROOM_API_KEY", "secret")
    monkeypatch.setattr(sys, "executable", str(python))
    assert (await check_apart(file, certificates)).marked
    environment = (tmp_path / "env").read_text()
    assert "LD_LIBRARY_PATH=/opt/python/lib\n" in environment
    assert "secret" not in environment


async def test_without_certificates_no_signer_is_known(file: Path, tmp_path: Path) -> None:
    report = await check_apart(file, tmp_path / "missing.pem")
    assert report.signature.verdict is SignatureState.UNKNOWN_SIGNER


async def test_a_file_that_does_not_end_is_given_up(tmp_path: Path, certificates: Path) -> None:
    os.mkfifo(endless := tmp_path / "a.png")
    with pytest.raises(InvalidInput, match="takes longer than 1 seconds"):
        await check_apart(endless, certificates, timeout_s=1.0)


async def test_a_reader_without_memory_ends_alone(file: Path, certificates: Path) -> None:
    with pytest.raises(InvalidInput, match="the reader failed"):
        await check_apart(file, certificates, memory_bytes=2**23)


async def test_a_type_without_a_place_for_a_signature_is_said(
    tmp_path: Path, certificates: Path
) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(Unsupported, match="cannot be signed"):
        await check_apart(path, certificates)
