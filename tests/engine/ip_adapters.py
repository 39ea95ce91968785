"""IP-Adapters with random weights, in the layouts that are published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import FluxIPAdapterMixin, SD3IPAdapterMixin
from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0
from diffusers.models.embeddings import IPAdapterTimeImageProjection
from PIL import Image
from safetensors.torch import save_file

from deployments.engine.loading.loader import load_pipeline
from serve_app.domain.endpoint import Weights, WeightsPart
from serve_app.domain.pipeline_index import folder_of
from tests.engine.conformance.vision_encoders import clip
from weights.parts import compose_folder

TOKENS = 4
WIDTH = 32  # of an image's embedding
FILE = "ip-adapter_tiny.safetensors"

RED = Image.new("RGB", (40, 24), (250, 20, 10))
BLUE = Image.new("RGB", (24, 24), (10, 40, 240))


def adapter_of(
    pipeline: Any, *, patches: bool = False, width: int = WIDTH, seed: int = 7
) -> dict[str, Any]:
    """Tensors of an adapter for the pipeline's denoiser. ``patches``: it looks at those of an
    image, as IP-Adapter Plus. ``width``: of what it takes of an image."""
    torch.manual_seed(seed)
    if isinstance(pipeline, FluxIPAdapterMixin):
        return _of_flux(pipeline.transformer, width)
    if isinstance(pipeline, SD3IPAdapterMixin):
        return _of_sd3(pipeline.transformer, width)
    unet = pipeline.unet
    inner = unet.config["cross_attention_dim"]
    state = _resampler(width, inner) if patches else _projection(width, inner)
    others = ("attn1.processor", "motion_modules")
    places = [
        name for name in unet.attn_processors if not any(pattern in name for pattern in others)
    ]
    for number, name in enumerate(places):
        layer = unet.get_submodule(name.removesuffix(".processor")).to_k.weight
        for part in ("k", "v"):
            values = torch.randn(layer.shape) / 2
            state[f"ip_adapter.{2 * number + 1}.to_{part}_ip.weight"] = values
    return state


def _projection(width: int, inner: int) -> dict[str, Any]:
    return {
        "image_proj.proj.weight": torch.randn(TOKENS * inner, width),
        "image_proj.proj.bias": torch.zeros(TOKENS * inner),
        "image_proj.norm.weight": torch.ones(inner),
        "image_proj.norm.bias": torch.zeros(inner),
    }


def _resampler(width: int, inner: int) -> dict[str, Any]:
    """With 64 values to a head."""
    sizes = {
        "latents": (1, TOKENS, 64),
        "proj_in.weight": (64, width),
        "proj_in.bias": (64,),
        "proj_out.weight": (inner, 64),
        "proj_out.bias": (inner,),
        "norm_out.weight": (inner,),
        "norm_out.bias": (inner,),
    }
    layer = {
        "0.norm1.weight": (64,),
        "0.norm1.bias": (64,),
        "0.norm2.weight": (64,),
        "0.norm2.bias": (64,),
        "0.to_q.weight": (64, 64),
        "0.to_kv.weight": (128, 64),
        "0.to_out.weight": (64, 64),
        "1.0.weight": (64,),
        "1.0.bias": (64,),
        "1.1.weight": (256, 64),
        "1.3.weight": (64, 256),
    }
    sizes |= {
        f"layers.{number}.{name}": size for number in range(4) for name, size in layer.items()
    }
    return {f"image_proj.{name}": torch.randn(size) / 4 for name, size in sizes.items()}


def _of_flux(transformer: Any, width: int) -> dict[str, Any]:
    """By XLabs."""
    inner, joint = transformer.inner_dim, transformer.config["joint_attention_dim"]
    state = {
        name.replace("image_proj", "ip_adapter_proj_model"): values
        for name, values in _projection(width, joint).items()
    }
    for number in range(len(transformer.transformer_blocks)):
        for part in ("k", "v"):
            place = f"double_blocks.{number}.processor.ip_adapter_double_stream_{part}_proj"
            state |= {
                f"{place}.weight": torch.randn(inner, joint) / 2,
                f"{place}.bias": torch.zeros(inner),
            }
    return state


def _of_sd3(transformer: Any, width: int) -> dict[str, Any]:
    """As diffusers names it."""
    config = transformer.config
    inner = config["attention_head_dim"] * config["num_attention_heads"]
    projection = IPAdapterTimeImageProjection(
        embed_dim=width, output_dim=inner, hidden_dim=64, depth=4, heads=1, num_queries=TOKENS
    )
    state = {f"image_proj.{name}": tensor for name, tensor in projection.state_dict().items()}
    for number in range(len(transformer.attn_processors)):
        layers = SD3IPAdapterJointAttnProcessor2_0(inner, inner, config["attention_head_dim"], 64)
        for name, weight in layers.state_dict().items():
            state[f"ip_adapter.{number}.{name}"] = weight
    return state


def save_with_adapter(
    directory: Path,
    pipeline: Any,
    tensors: dict[str, Any] | None = None,
    *more: dict[str, Any],
    encoder: Any = None,
) -> Path:
    """Folder of the pipeline with an adapter, or with ``more``, as the store makes it of an entry's
    parts."""
    first = adapter_of(pipeline) if tensors is None else tensors
    weights = save_parts(directory, pipeline, [first, *more], encoder)
    places = {part: Path(part.source) for part in weights.parts}
    return compose_folder(directory / "store", Path(weights.source), weights, places)


def save_parts(
    directory: Path, pipeline: Any, adapters: Sequence[dict[str, Any]], encoder: Any = None
) -> Weights:
    """The pipeline, and adapters beside it, of which each has a folder, with their encoder."""
    base, parts = directory / "base", directory / "adapter"
    pipeline.save_pretrained(base, safe_serialization=True)
    torch.manual_seed(3)
    (encoder or clip()).eval().save_pretrained(parts / "image_encoder")
    named = [WeightsPart("image_encoder", str(parts / "image_encoder"))]
    for number, tensors in enumerate(adapters):
        place = directory / folder_of("adapter", number)
        place.mkdir(exist_ok=True)
        save_file(tensors, place / FILE)
        named.append(WeightsPart("ip_adapter", str(place), file=FILE))
    return Weights(str(base), parts=tuple(named))


def load_adapter_pipeline(folder: Path, dtype: str = "float32") -> Any:
    pipeline = load_pipeline(Weights(str(folder)), dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
