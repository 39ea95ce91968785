"""A mirror in S3: filled from the store, asked before the hub, and verified like the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.domain.endpoint import StoreConfig
from serve_app.domain.errors import Misconfigured, WeightsUnavailable
from tests.storage.s3_servers import S3Server, moto
from tests.weights.conftest import COMMIT, NAME, WEIGHTS, MakeStore
from tests.weights.hub_server import HubServer, sha256
from weights.hub import Hub
from weights.mirror import Mirror
from weights.store import Store

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with moto() as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket that only the profile ``mirror`` can access."""
    files = tmp_path / "aws"
    files.write_text(
        f"[mirror]\naws_access_key_id = {s3.key.access_key_id}\n"
        f"aws_secret_access_key = {s3.key.secret_access_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(files))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "")  # as in replicas whose artifacts go to S3
    return s3.new_bucket().bucket


@pytest.fixture
def mirror_config(bucket: str, s3: S3Server) -> dict[str, str]:
    return {
        "mirror": f"s3://{bucket}/models",
        "mirror_endpoint_url": s3.url,
        "mirror_profile": "mirror",
    }


@pytest.fixture
def filled_mirror(
    make_store: MakeStore, mirror_config: dict[str, str], hub: HubServer
) -> dict[str, str]:
    """The bucket with everything in it; the hub's request log is cleared."""
    make_store(**mirror_config).push(WEIGHTS)
    hub.asked.clear()
    return mirror_config


def object_key(path: str) -> str:
    return f"models/{NAME}/{COMMIT}/{path}"


def pull_weights(store: Store) -> Path:
    with store.open(WEIGHTS) as folder:
        return folder


def test_a_mirror_that_has_everything_needs_no_hub(
    filled_mirror: dict[str, str], tmp_path: Path, repository: Path
) -> None:
    config = StoreConfig(directory=tmp_path / "elsewhere", **filled_mirror)
    reported: list[tuple[int, int]] = []
    store = Store(config, lambda: Hub("http://127.0.0.1:9", tries=1))
    with store.open(WEIGHTS, lambda *how: reported.append(how)) as folder:
        assert sha256(folder / UNET) == sha256(repository / UNET)
    assert reported[-1][0] == reported[-1][1] > 500_000
    assert store.push(WEIGHTS) == 0  # nothing is sent twice


@pytest.mark.long
def test_a_mirror_goes_on_from_a_part(
    make_store: MakeStore, filled_mirror: dict[str, str], tmp_path: Path, repository: Path
) -> None:
    store = make_store(directory=tmp_path / "elsewhere", **filled_mirror)
    blobs = store.directory / "models--house--small" / "blobs"
    blobs.mkdir(parents=True)
    whole = (repository / UNET).read_bytes()
    (blobs / f"{sha256(repository / UNET)}.part").write_bytes(whole[:250_000])
    reported: list[int] = []
    with store.open(WEIGHTS, lambda *how: reported.append(how[0])) as folder:
        assert (folder / UNET).read_bytes() == whole
    assert reported[0] == 250_000


def test_a_mirror_is_filled_from_a_shared_directory(
    make_store: MakeStore, mirror_config: dict[str, str], tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    size = sum(file.size for file in make_store(directory=volume).plan(WEIGHTS).files)
    pull_weights(make_store(directory=volume))
    config = StoreConfig(directory=tmp_path / "node", shared_directory=volume, **mirror_config)
    assert Store(config, lambda: Hub("http://127.0.0.1:9", tries=1)).push(WEIGHTS) == size


@pytest.mark.long
def test_what_the_mirror_has_damaged_comes_from_the_hub(
    make_store: MakeStore,
    filled_mirror: dict[str, str],
    hub: HubServer,
    tmp_path: Path,
    s3: S3Server,
    bucket: str,
    repository: Path,
) -> None:
    size = (repository / UNET).stat().st_size
    s3.client().put_object(Bucket=bucket, Key=object_key(UNET), Body=bytes(size))
    folder = pull_weights(make_store(directory=tmp_path / "elsewhere", **filled_mirror))
    assert sha256(folder / UNET) == sha256(repository / UNET)
    assert len(hub.downloads(UNET)) == 1


def test_what_the_mirror_lacks_comes_from_the_hub(
    make_store: MakeStore, mirror_config: dict[str, str]
) -> None:
    assert (pull_weights(make_store(**mirror_config)) / UNET).is_file()


def test_a_mirror_that_is_away_is_gone_round(
    make_store: MakeStore, mirror_config: dict[str, str]
) -> None:
    away = mirror_config | {"mirror_endpoint_url": "http://127.0.0.1:9"}
    assert (pull_weights(make_store(**away)) / UNET).is_file()


def test_a_mirror_that_refuses_says_so_when_it_is_filled(
    make_store: MakeStore, mirror_config: dict[str, str]
) -> None:
    store = make_store(**mirror_config | {"mirror_profile": ""})
    with pytest.raises(WeightsUnavailable, match=r"The mirror s3://.*DARKROOM_WEIGHTS_MIRROR"):
        store.push(WEIGHTS)


def test_a_profile_that_is_not_there_is_reported(
    make_store: MakeStore, mirror_config: dict[str, str]
) -> None:
    with pytest.raises(Misconfigured, match="nobody"):
        pull_weights(make_store(**mirror_config | {"mirror_profile": "nobody"}))


@pytest.mark.parametrize("address", ["bucket", "https://bucket/x", "s3://", "s3://B/x"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(Misconfigured, match="s3://bucket/prefix"):
        Mirror(StoreConfig(mirror=address))
