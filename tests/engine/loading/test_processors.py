"""Processors of vision-language models, where torchvision is not installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLProcessor
from transformers.utils import is_torchvision_available

from deployments.engine.loading.loader import load_pipeline
from serve_app.domain.endpoint import Weights
from tests.engine.conformance.zoo import cases

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(is_torchvision_available(), reason="torchvision reads the videos"),
]

TEXT = "a red dog <|image_pad|>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of an editing model, as they are published."""
    folder = tmp_path_factory.mktemp("edit")
    cases()["QwenImageEditPipeline"].build().save_pretrained(folder)
    file = folder / "processor/processor_config.json"
    config = json.loads(file.read_text())
    config["video_processor"] = {"video_processor_type": "Qwen2VLVideoProcessor"}
    file.write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    return load_pipeline(Weights(str(folder))).processor


def test_a_model_that_sees_images_is_loaded(processor: Any) -> None:
    image = Image.new("RGB", (16, 16), "red")
    seen = processor(text=[TEXT], images=[image], return_tensors="pt")
    usual = cases()["QwenImageEditPipeline"].build().processor
    for name, values in usual(text=[TEXT], images=[image], return_tensors="pt").items():
        assert torch.equal(seen[name], values), name


def test_videos_are_refused_with_what_is_missing(processor: Any) -> None:
    with pytest.raises(ImportError, match="need torchvision"):
        processor(text=["a dog <|video_pad|>"], videos=[np.zeros((4, 3, 16, 16), np.uint8)])


def test_nothing_else_in_the_process_is_loaded_so(folder: Path, processor: Any) -> None:
    assert processor is not None
    with pytest.raises(ImportError, match="Torchvision"):
        Qwen2VLProcessor.from_pretrained(folder / "processor")
