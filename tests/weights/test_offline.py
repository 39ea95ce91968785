"""Offline: present files are used, missing ones are reported, and no connection is opened."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download

from serve_app.domain.endpoint import StoreConfig, Weights
from serve_app.domain.errors import WeightsUnavailable
from tests.engine.tiny import save_tiny_flux
from tests.weights.conftest import COMMIT, NAME, NEEDED, WEIGHTS, MakeStore
from tests.weights.hub_server import HubServer
from weights.hub import Hub
from weights.store import Store

UNET = "unet/diffusion_pytorch_model.safetensors"
FOLDER = "models--house--small"


class Called(Exception):
    pass


def no_hub() -> Hub:
    raise Called("The hub was asked.")


def offline(directory: Path, **changes: object) -> Store:
    return Store(StoreConfig(directory=directory, offline=True, **changes), no_hub)


@pytest.fixture
def copied_store(store: Store, tmp_path: Path) -> Path:
    """Copy of the store on a machine without a network, made as the message says."""
    with store.open(WEIGHTS):
        pass
    there = tmp_path / "there"
    shutil.copytree(store.directory / FOLDER, there / FOLDER, symlinks=True)
    for path in (there / FOLDER).rglob("*"):
        if not path.is_symlink():
            os.utime(path, (1, 1))  # as a copy without times
    return there


def refusal_message(store: Store) -> str:
    with pytest.raises(WeightsUnavailable) as caught, store.open(WEIGHTS):
        pass
    return caught.value.message


def test_what_was_copied_is_used(copied_store: Path) -> None:
    with offline(copied_store).open(WEIGHTS) as folder:
        assert (folder / UNET).is_file()
    assert offline(copied_store).plan(WEIGHTS).missing_bytes == 0


def test_missing_weights_are_reported_with_the_way_to_bring_them(tmp_path: Path) -> None:
    message = refusal_message(offline(tmp_path / "empty", mirror="s3://some-bucket"))
    assert f"{NAME} is not in {tmp_path / 'empty'}" in message
    assert "DARKROOM_OFFLINE" in message
    assert "darkroom models pull" in message
    assert FOLDER in message
    assert not (tmp_path / "empty").exists()


def test_missing_files_are_named(copied_store: Path) -> None:
    (copied_store / FOLDER / "snapshots" / COMMIT / UNET).unlink()
    for path in (copied_store / FOLDER / "blobs").iterdir():
        if path.stat().st_size == NEEDED[UNET]:
            path.unlink()
    assert f"{UNET} is missing" in refusal_message(offline(copied_store))


def test_a_damaged_copy_is_reported_and_kept_for_inspection(copied_store: Path) -> None:
    blob = (copied_store / FOLDER / "snapshots" / COMMIT / UNET).resolve()
    blob.write_bytes(bytes(blob.stat().st_size))
    assert f"{UNET} of {NAME} is damaged" in refusal_message(offline(copied_store))
    assert blob.exists()


def test_the_cache_of_another_program_is_used_without_a_listing(
    hub: HubServer, tmp_path: Path
) -> None:
    for name in NEEDED:
        hf_hub_download(NAME, name, revision=COMMIT, cache_dir=tmp_path / "c", endpoint=hub.url)
    with offline(tmp_path / "c").open(WEIGHTS) as folder:
        assert (folder / UNET).is_file()


def test_a_hub_that_is_away_leaves_what_another_program_has_brought(
    hub: HubServer, tmp_path: Path
) -> None:
    for name in NEEDED:
        hf_hub_download(NAME, name, revision=COMMIT, cache_dir=tmp_path / "c", endpoint=hub.url)
    away = Hub("http://127.0.0.1:9", tries=1)
    with Store(StoreConfig(directory=tmp_path / "c"), lambda: away).open(WEIGHTS) as folder:
        assert (folder / UNET).is_file()


def test_a_volume_in_which_no_lock_can_be_made_is_used_as_it_is(
    copied_store: Path, make_store: MakeStore, hub: HubServer
) -> None:
    (copied_store / ".locks").write_text(
        ""
    )  # also for root: no lock file can be created below a file
    hub.asked.clear()
    with make_store(directory=copied_store).open(WEIGHTS) as folder:
        assert (folder / UNET).is_file()
    (folder / UNET).unlink()
    assert f"{UNET} is missing" in refusal_message(make_store(directory=copied_store))
    assert hub.asked == []


CHILD = f"""
import sys
from pathlib import Path
from deployments.engine.loading.loader import load_pipeline
from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import WeightsUnavailable
from serve_app.domain.endpoint import StoreConfig
from weights.store import Store
import diffusers, transformers

def forbid(event, arguments):
    if event.startswith("socket."):
        print("OPENED", event, arguments, flush=True)
        raise RuntimeError(event)

sys.addaudithook(forbid)
config = StoreConfig(directory=Path(sys.argv[1]), offline=True, mirror="s3://some-bucket")
pipeline = load_pipeline(Weights("house/tiny-flux", {COMMIT!r}), open_weights=Store(config).open)
print(type(pipeline).__name__)
try:
    load_pipeline(Weights("house/nothing", {COMMIT!r}), open_weights=Store(config).open)
except WeightsUnavailable as error:
    print("REFUSED", error.message)
"""


@pytest.mark.long
@pytest.mark.engine
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_no_socket_is_opened(hub: HubServer, make_store: MakeStore, tmp_path: Path) -> None:
    hub.add("house/tiny-flux", COMMIT, save_tiny_flux(tmp_path / "flux"))
    store = make_store()
    with store.open(Weights("house/tiny-flux", COMMIT)):
        pass
    # As the setting does in replicas; see ``serve_app.app``.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}  # noqa: TID251
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, str(store.directory)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert "OPENED" not in ran.stdout, ran.stdout
    assert "FluxPipeline" in ran.stdout, ran.stderr[-2000:]
    assert "REFUSED house/nothing is not in" in ran.stdout
