"""fal's clients submit again when a response is lost after the commit: the result of that."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fal_client
import fal_client.client
import httpx
import pytest

import fal_plain_http
from tests.node import node, packages
from tests.wire.cutter import Cutter, cutting
from tests.wire.served import Address, serve
from tests.wire.test_fal_javascript_client import HERE, TIMEOUT_S, documented_program
from tests.wire.test_fal_python_client import GLOBALS, PROBE

pytestmark = pytest.mark.wire


@pytest.fixture(scope="module")
def here() -> Iterator[Address]:
    # Longer than in production: a loaded machine is slow to detect a cut.
    with serve(linger_s=1.0) as address:
        yield address


@pytest.fixture(scope="module")
def cut(here: Address) -> Iterator[tuple[Cutter, str]]:
    with cutting(here.url) as cutter:
        yield cutter


def make_key(here: Address, **wish: Any) -> str:
    headers = {"Authorization": f"Key {here.key}"}
    answer = httpx.post(f"{here.url}/v1/keys", json=wish, headers=headers)
    return str(answer.json()["key"])


def stored_ids(here: Address, key: str, prompt: str) -> list[str]:
    headers = {"Authorization": f"Key {key}"}
    page = httpx.get(f"{here.url}/v1/requests", headers=headers).json()
    return [request["request_id"] for request in page["requests"] if request["prompt"] == prompt]


def submit_by_python(url: str, key: str, prompt: str, **options: Any) -> str:
    fal_plain_http.use(url)
    client = fal_client.SyncClient(key=key)
    try:
        return client.submit(PROBE, {"prompt": prompt}, **options).request_id
    finally:
        client._client.close()


@pytest.fixture
def put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in GLOBALS:
        monkeypatch.setattr(fal_client.client, name, getattr(fal_client.client, name))


@pytest.mark.usefixtures("put_back")
def test_without_a_wish_for_it_a_lost_answer_to_python_is_two_requests(
    here: Address, cut: tuple[Cutter, str]
) -> None:
    cutter, url = cut
    cutter.to_cut = 1
    request_id = submit_by_python(url, here.key, "plain")
    assert cutter.to_cut == 0
    assert stored_ids(here, here.key, "plain")[0] == request_id
    assert len(stored_ids(here, here.key, "plain")) == 2


@pytest.mark.usefixtures("put_back")
def test_a_lost_answer_to_python_is_given_again(here: Address, cut: tuple[Cutter, str]) -> None:
    cutter, url = cut
    key = make_key(here, replay_undelivered=True)
    cutter.to_cut = 1
    request_id = submit_by_python(url, key, "replayed")
    assert cutter.to_cut == 0
    assert stored_ids(here, key, "replayed") == [request_id]
    # The request is replayed once. An equal submit later is a new request.
    assert submit_by_python(url, key, "replayed") != request_id


@pytest.mark.usefixtures("put_back")
def test_with_an_idempotency_key_python_needs_no_such_wish(
    here: Address, cut: tuple[Cutter, str]
) -> None:
    cutter, url = cut
    cutter.to_cut = 2
    headers = {"Idempotency-Key": "order-66"}
    request_id = submit_by_python(url, here.key, "keyed", headers=headers)
    assert cutter.to_cut == 0
    assert stored_ids(here, here.key, "keyed") == [request_id]


@pytest.mark.parametrize("header", [None, "order-67"])
def test_a_lost_answer_to_javascript_is_given_again(
    here: Address, cut: tuple[Cutter, str], tmp_path: Path, header: str | None
) -> None:
    cutter, url = cut
    key = here.key if header else make_key(here, replay_undelivered=True)
    prompt = f"javascript, {header}"
    (tmp_path / "node_modules").symlink_to(packages(HERE))
    setup = tmp_path / "setup.mjs"
    setup.write_text(documented_program(Address(url, key)))
    cutter.to_cut = 1
    done = subprocess.run(
        [node(), HERE / "submit.mjs", setup, prompt, *([header] if header else [])],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert cutter.to_cut == 0
    assert stored_ids(here, key, prompt) == [done.stdout.strip()]
