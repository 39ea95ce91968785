"""A hub with a small repository: the folders of a pipeline with random weights, and the other files
of a published repository."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.domain.endpoint import StoreConfig, Weights
from tests.weights.hub_server import HubServer, serving
from weights.hub import Hub
from weights.store import Store

NAME = "house/small"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = Weights(NAME, COMMIT)
NEEDED = {
    "model_index.json": 0,
    "scheduler/scheduler_config.json": 40,
    "tokenizer/vocab.json": 300,
    "unet/config.json": 60,
    "unet/diffusion_pytorch_model.safetensors": 400_000,
    "vae/config.json": 50,
    "vae/diffusion_pytorch_model.safetensors": 150_000,
}
BESIDES = {
    "README.md": 100,
    "small.safetensors": 900_000,
    "unet/diffusion_pytorch_model.bin": 400_000,
    "unet/diffusion_pytorch_model.fp16.safetensors": 200_000,
    "vae/diffusion_pytorch_model.fp16.safetensors": 75_000,
}
INDEX = {
    "_class_name": "SomePipeline",
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "safety_checker": [None, None],
    "requires_safety_checker": False,
}
MakeStore = Callable[..., Store]


def write_repository(folder: Path, seed: int = 1) -> Path:
    chance = random.Random(seed)  # noqa: S311
    for path, size in {**NEEDED, **BESIDES}.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(chance.randbytes(size))
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_repository(tmp_path / "published")


@pytest.fixture
def hub(repository: Path) -> Iterator[HubServer]:
    server = HubServer()
    server.add(NAME, COMMIT, repository)
    with serving(server):
        yield server


@pytest.fixture
def waits() -> list[float]:
    """Waits of the store between tries, in seconds."""
    return []


@pytest.fixture
def make_store(
    hub: HubServer, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> MakeStore:
    """``make_store(token=…, **configuration overrides)`` for one fixed directory."""
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def make(token: str | None = None, **changes: Any) -> Store:
        config = StoreConfig(**{"directory": tmp_path / "store", **changes})
        return Store(config, lambda: Hub(hub.url, token, sleep=waits.append))

    return make


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    return make_store()
