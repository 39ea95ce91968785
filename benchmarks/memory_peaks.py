"""Memory that models need beside their weights, for `memory` in the catalogue.

    python -m benchmarks.memory_peaks [MODEL …]

Models of the real sizes run on torch's meta device: there are shapes, and no numbers. The bytes of
tensors that are alive at a time are counted; workspaces of libraries and what an allocator loses
are not. A denoiser has one block of each kind, because the next one needs no more; a UNet is whole.
Peaks grow in proportion to what is made, so two sizes give the figures of a line:
`fixed + per_megapixel × megapixels of a frame + per_volume × megapixels × frames`, in GB.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import torch.nn.functional as F  # noqa: N812 as everywhere
from torch import Tensor

from deployments.engine.memory.placement import BLOCKS_AT_ONCE, bytes_of
from tests.engine.live import Live

GB = 1e9
TEXT = 512  # tokens


@dataclass(frozen=True, slots=True)
class Work:
    """What is made, in one call: the size of a frame in pixels and the number of frames."""

    width: int
    height: int
    frames: int = 1

    @property
    def megapixels(self) -> float:
        return self.width * self.height / 1e6

    @property
    def volume(self) -> float:
        return self.megapixels * self.frames

    def latents(self, side: int, length: int) -> tuple[int, int, int]:
        """Frames, height and width of latents with so many frames and pixels to one of them."""
        return (self.frames - 1) // length + 1, self.height // side, self.width // side


IMAGES = (Work(1024, 1024), Work(2048, 2048))
VIDEOS = (Work(768, 512, 17), Work(1280, 704, 17), Work(1280, 704, 49))
"""Two frame sizes and two lengths. Long enough for one tile in time and more."""

Arguments = Callable[[Work], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Model:
    denoiser: Callable[[], torch.nn.Module]
    arguments: Arguments  # of one step, as the pipeline calls the denoiser
    vae: Callable[[], Any]
    side: int  # pixels to a latent
    channels: int  # of latents
    length: int = 0  # frames to a latent; 0: images, whose latents have no frames
    works: tuple[Work, ...] = IMAGES
    tiles: Mapping[str, int] | None = None  # for `enable_tiling`; None: its own sizes


def E(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:  # noqa: N802 short on purpose
    return torch.empty(*shape, dtype=dtype)


def _flux(work: Work) -> Mapping[str, Any]:
    _, high, wide = work.latents(16, 1)
    return {
        "hidden_states": E(1, high * wide, 64),
        "encoder_hidden_states": E(1, TEXT, 4096),
        "pooled_projections": E(1, 768),
        "timestep": E(1),
        "img_ids": E(high * wide, 3),
        "txt_ids": E(TEXT, 3),
        "guidance": E(1),
    }


def _sdxl(work: Work) -> Mapping[str, Any]:
    """With guidance, which passes two rows."""
    _, high, wide = work.latents(8, 1)
    return {
        "sample": E(2, 4, high, wide),
        "timestep": torch.empty((), dtype=torch.float32),
        "encoder_hidden_states": E(2, 77, 2048),
        "added_cond_kwargs": {"text_embeds": E(2, 1280), "time_ids": E(2, 6)},
    }


def _flux2(work: Work) -> Mapping[str, Any]:
    """With an input image of the same size, whose tokens come along."""
    _, high, wide = work.latents(16, 1)
    return {
        "hidden_states": E(1, 2 * high * wide, 128),
        "encoder_hidden_states": E(1, TEXT, 7680),
        "timestep": E(1),
        "img_ids": E(1, 2 * high * wide, 4),
        "txt_ids": E(1, TEXT, 4),
    }


def _qwen(work: Work) -> Mapping[str, Any]:
    _, high, wide = work.latents(16, 1)
    return {
        "hidden_states": E(1, high * wide, 64),
        "encoder_hidden_states": E(1, TEXT, 3584),
        "timestep": E(1),
        "img_shapes": [[(1, high, wide)]],
    }


def _z_image(work: Work) -> Mapping[str, Any]:
    _, high, wide = work.latents(8, 1)
    return {"x": [E(16, 1, high, wide)], "t": E(1), "cap_feats": [E(TEXT, 2560)]}


def _wan(side: int, channels: int) -> Arguments:
    def arguments(work: Work) -> Mapping[str, Any]:
        return {
            "hidden_states": E(1, channels, *work.latents(side, 4)),
            "timestep": E(1),
            "encoder_hidden_states": E(1, TEXT, 4096),
        }

    return arguments


def _ltx(work: Work) -> Mapping[str, Any]:
    """With guidance, which passes two rows."""
    frames, high, wide = work.latents(32, 8)
    return {
        "hidden_states": E(2, frames * high * wide, 128),
        "encoder_hidden_states": E(2, 128, 4096),
        "timestep": E(2),
        "encoder_attention_mask": E(2, 128),
        "num_frames": frames,
        "height": high,
        "width": wide,
    }


def _ltx2(work: Work) -> Mapping[str, Any]:
    """With guidance, which passes two rows."""
    frames, high, wide = work.latents(32, 8)
    sounds = round(work.frames / 24 * 25)
    return {
        "hidden_states": E(2, frames * high * wide, 128),
        "audio_hidden_states": E(2, sounds, 128),
        "encoder_hidden_states": E(2, 1024, 3840),
        "audio_encoder_hidden_states": E(2, 1024, 3840),
        "timestep": E(2, 1),
        "audio_timestep": E(2, 1),
        "num_frames": frames,
        "height": high,
        "width": wide,
        "audio_num_frames": sounds,
    }


def _hunyuan(work: Work) -> Mapping[str, Any]:
    return {
        "hidden_states": E(1, 16, *work.latents(8, 4)),
        "timestep": E(1),
        "encoder_hidden_states": E(1, 256, 4096),
        "encoder_attention_mask": E(1, 256),
        "pooled_projections": E(1, 768),
        "guidance": E(1),
    }


def _unet() -> torch.nn.Module:
    from benchmarks.real_sizes import sdxl  # noqa: PLC0415

    return sdxl(tiny=False).unet


def _kl(channels: int) -> Any:
    from benchmarks.real_sizes import image_vae  # noqa: PLC0415

    vae = image_vae(channels, tiny=False)
    vae.tile_sample_min_size, vae.tile_latent_min_size = 1024, 128  # the published `sample_size`
    return vae


def _wan22_vae() -> Any:
    return diffusers.AutoencoderKLWan(
        base_dim=160,
        z_dim=48,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        decoder_base_dim=256,
    )


MODELS: Mapping[str, Model] = {
    "flux": Model(
        lambda: diffusers.FluxTransformer2DModel(
            guidance_embeds=True, num_layers=1, num_single_layers=1
        ),
        _flux,
        lambda: _kl(16),
        8,
        16,
    ),
    "sdxl": Model(_unet, _sdxl, lambda: _kl(4), 8, 4),
    "z-image": Model(
        lambda: diffusers.ZImageTransformer2DModel(n_layers=1, n_refiner_layers=1),
        _z_image,
        lambda: _kl(16),
        8,
        16,
    ),
    "qwen-image": Model(
        lambda: diffusers.QwenImageTransformer2DModel(num_layers=1),
        _qwen,
        diffusers.AutoencoderKLQwenImage,
        8,
        16,
        length=1,
    ),
    "flux-2-klein": Model(
        lambda: diffusers.Flux2Transformer2DModel(
            num_layers=1,
            num_single_layers=1,
            num_attention_heads=24,
            joint_attention_dim=7680,
            guidance_embeds=False,
        ),
        _flux2,
        diffusers.AutoencoderKLFlux2,
        8,
        32,
    ),
    "wan-14b": Model(
        lambda: diffusers.WanTransformer3DModel(num_layers=1),
        _wan(8, 16),
        diffusers.AutoencoderKLWan,
        8,
        16,
        length=4,
        works=VIDEOS,
    ),
    "wan-5b": Model(
        lambda: diffusers.WanTransformer3DModel(
            num_attention_heads=24, ffn_dim=14336, num_layers=1, in_channels=48, out_channels=48
        ),
        _wan(16, 48),
        _wan22_vae,
        16,
        48,
        length=4,
        works=VIDEOS,
    ),
    "ltx-video": Model(
        lambda: diffusers.LTXVideoTransformer3DModel(num_layers=1),
        _ltx,
        diffusers.AutoencoderKLLTXVideo,
        32,
        128,
        length=8,
        works=VIDEOS,
    ),
    "ltx-2": Model(
        lambda: diffusers.LTX2VideoTransformer3DModel(num_layers=1),
        _ltx2,
        lambda: diffusers.AutoencoderKLLTX2Video(
            spatial_compression_ratio=32, temporal_compression_ratio=8
        ),
        32,
        128,
        length=8,
        works=VIDEOS,
        tiles={"tile_sample_min_num_frames": 64, "tile_sample_stride_num_frames": 40},
    ),
    "hunyuan-video": Model(
        lambda: diffusers.HunyuanVideoTransformer3DModel(num_layers=1, num_single_layers=1),
        _hunyuan,
        diffusers.AutoencoderKLHunyuanVideo,
        8,
        16,
        length=4,
        works=VIDEOS,
    ),
}


def streamed_bytes(model: Model) -> int:
    """Bytes of a denoiser that passes through the device block by block, in 16 bits."""
    with torch.device("meta"):
        denoiser = model.denoiser().to(torch.bfloat16)
    blocks = [
        bytes_of([block])
        for child in denoiser.children()
        if isinstance(child, torch.nn.ModuleList | torch.nn.Sequential)
        for block in child
    ]
    return bytes_of([denoiser]) - sum(blocks) + BLOCKS_AT_ONCE * max(blocks)


def forward_bytes(model: Model, work: Work) -> int:
    """Peak bytes of a step of one generation."""
    with torch.device("meta"):
        denoiser = model.denoiser().to(torch.bfloat16).eval()
        arguments = model.arguments(work)
        return _peak(denoiser, lambda: denoiser(**arguments))


def decode_bytes(model: Model, work: Work, *, tiled: bool) -> int:
    """Peak bytes of decoding, in bfloat16."""
    with torch.device("meta"):
        vae = model.vae().to(torch.bfloat16).eval()
        frames, high, wide = work.latents(model.side, model.length or 1)
        lengths = [frames] if model.length else []
        latents = E(1, model.channels, *lengths, high, wide)
        if tiled:
            vae.enable_tiling(**(model.tiles or {}))
            if model.tiles:
                vae.use_framewise_decoding = True
        return _peak(vae, lambda: vae.decode(latents, return_dict=False))


def _peak(module: torch.nn.Module, call: Callable[[], object]) -> int:
    weights = [tensor.untyped_storage() for tensor in (*module.parameters(), *module.buffers())]
    with torch.no_grad(), _attention_of_no_memory(), Live(without=weights) as live:
        call()
    return live.peak


@contextmanager
def _attention_of_no_memory() -> Generator[None]:
    """Attention as kernels compute it, which keep no matrix of all pairs of tokens."""
    real = F.scaled_dot_product_attention

    def attend(query: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.empty_like(query)

    F.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        F.scaled_dot_product_attention = real


def line(works: tuple[Work, ...], peaks: list[int]) -> dict[str, float]:
    """Figures of the line through the peaks, in GB. Two works give what depends on the volume."""
    rows = [[1.0, *([work.megapixels] if len(works) > 2 else []), work.volume] for work in works]
    solution = torch.linalg.solve(
        torch.tensor(rows, dtype=torch.float64), torch.tensor(peaks, dtype=torch.float64) / GB
    ).tolist()
    names = ("fixed", "per_megapixel", "per_volume") if len(works) > 2 else ("fixed", "per_volume")
    return {name: round(value, 4) for name, value in zip(names, solution, strict=True)}


def main() -> None:
    """Print the figures of the models that the arguments name, or of all."""
    diffusers.utils.logging.set_verbosity_error()
    for name in sys.argv[1:] or MODELS:
        for what, figures, peaks in measure_model(MODELS[name]):
            shown = ", ".join(f"{peak / GB:.2f}" for peak in peaks)
            print(f"{name:<14} {what:<8} {figures}  ({shown} GB)", flush=True)
        print(f"{name:<14} streamed {streamed_bytes(MODELS[name]) / GB:.2f}", flush=True)


def measure_model(model: Model) -> Generator[tuple[str, dict[str, float], list[int]]]:
    """Names, figures and peaks of the forward, of decoding at once, and of decoding in tiles.

    A tile has the same size in every frame, so what tiles need depends on the volume alone.
    """
    works = model.works
    forwards = [forward_bytes(model, work) for work in works]
    # A forward is bound by tokens, which are in proportion to the volume.
    yield "forward", line(works[-2:], forwards[-2:]), forwards
    decoded = [decode_bytes(model, work, tiled=False) for work in works]
    yield "decode", line(works, decoded), decoded
    tiled = [decode_bytes(model, work, tiled=True) for work in works[-2:]]
    yield "tiled", line(works[-2:], tiled), tiled


if __name__ == "__main__":
    main()
