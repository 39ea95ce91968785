"""``darkroom doctor`` beside a Darkroom that runs: by whose settings it judges."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from serve_app.cli.main import main
from serve_app.ingress.services.health import Examination
from tests.ingress.house import House
from tests.wire.served import Address, serve

Said = Callable[..., str]


FOUND = [("database", lambda: "PostgreSQL 15"), ("storage", lambda: "the bucket of the cluster")]


@asynccontextmanager
async def with_examination(house: House) -> AsyncGenerator[None]:
    """The ingress is on a machine with other settings than the environment of the command."""
    services = house.services
    services.health = replace(services.health, examination=Examination(lambda: FOUND))
    yield


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve(with_examination, replica=False) as address:
        yield address


@pytest.fixture
def doctor_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Said:
    """Output of the doctor in an environment that names a bucket of which the installation knows
    nothing. ``url``: in its data directory, as a cluster's ingress leaves it."""
    monkeypatch.setenv("DARKROOM_S3_BUCKET", "nowhere")
    monkeypatch.setenv("DARKROOM_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("DARKROOM_S3_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("DARKROOM_S3_SECRET_ACCESS_KEY", "b")

    def doctor(*words: str, url: str = "", key: str = "") -> str:
        if url:
            (tmp_path / "address.json").write_text(json.dumps({"url": url}))
        if key:
            (tmp_path / "api_key").write_text(key)
        return CliRunner().invoke(main, ["doctor", "--data-dir", str(tmp_path), *words]).output

    return doctor


def test_without_a_file_the_running_ingress_checks_its_own_settings(
    address: Address, doctor_output: Said
) -> None:
    output = doctor_output(url=address.url, key=address.key)
    assert f"ok       settings: those of the ingress at {address.url}" in output
    assert f"ok       server: {address.url} is ready" in output
    assert "ok       storage: the bucket of the cluster" in output
    assert "ok       database: PostgreSQL 15" in output
    assert "nowhere" not in output


def test_with_a_file_its_settings_are_judged(
    address: Address, doctor_output: Said, tmp_path: Path
) -> None:
    file = tmp_path / "darkroom.yaml"
    file.write_text("applications: [{import_path: 'serve_app.app:build', args: {}}]")
    output = doctor_output("--config", str(file), url=address.url, key=address.key)
    assert f"ok       settings: those of {file}" in output
    assert "PROBLEM  storage: " in output


def test_where_nothing_runs_the_environment_is_judged_and_named(
    doctor_output: Said, tmp_path: Path
) -> None:
    output = doctor_output()
    assert f"those of the environment, because no Darkroom runs on {tmp_path}" in output
    assert "PROBLEM  storage: " in output


def test_an_ingress_that_does_not_answer_is_named_beside_what_the_environment_says(
    doctor_output: Said,
) -> None:
    output = doctor_output(url="http://127.0.0.1:9", key="a:b")
    assert "those of the environment, because the ingress did not check its own." in output
    assert "Nothing answers at http://127.0.0.1:9" in output
    assert "PROBLEM  storage: " in output
