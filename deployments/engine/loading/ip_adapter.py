"""IP-Adapters: layers beside a denoiser's own attention, which attend to an image of the request.

diffusers adds the layers, and keeps one scale for all rows on them. Here each row brings its own
scale, as one more value of the image's embedding, so that requests with different images and scales
share forwards. A row's image adds ``scale`` times what it gives: its attention is linear in its
values, which are multiplied. Calls without an image run as without an adapter.
"""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, wraps
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.ip_adapter import SD3IPAdapterMixin
from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection
from diffusers.models.transformers import SD3Transformer2DModel
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor
from torch import Tensor, nn
from transformers import SiglipImageProcessor

from deployments.engine.reading.headers import UnknownDtype, WeightFile
from deployments.engine.reading.unread import UnreadWeight, giving_values
from serve_app.domain.errors import WeightsUnavailable
from serve_app.domain.pipeline_index import IP_ADAPTER

_GROUPS = (
    (re.compile(r"(?:image_proj|ip_adapter_proj_model)\.(.+)"), "image_proj"),
    (re.compile(r"ip_adapter\.(.+)"), "ip_adapter"),
    (re.compile(r"double_blocks\.(.+)"), "ip_adapter"),  # Flux, by XLabs
)
_RENAMED = (
    ("processor.", ""),
    ("ip_adapter_double_stream_k_proj", "to_k_ip"),
    ("ip_adapter_double_stream_v_proj", "to_v_ip"),
)
_OF_FACES = ("perceiver_resampler.proj_in.weight", "proj.2.weight")
"""Layers of Face ID adapters, whose embedding of a face no component of a pipeline computes."""


# Loading.


def add_ip_adapters(pipeline: Any, files: Sequence[Path]) -> None:
    """Add the adapters in ``files``, which are not read yet. ``WeightsUnavailable`` says in which
    way one does not fit."""
    first = files[0]
    if not hasattr(pipeline, "load_ip_adapter"):
        raise _refusal(first, f"{type(pipeline).__name__} takes no IP-Adapter")
    if len(files) > 1 and _keeps_its_scale(pipeline):
        kind = type(pipeline).__name__
        raise _refusal(files[1], f"diffusers loads one IP-Adapter into {kind}. Name one file")
    encoder = getattr(pipeline, "image_encoder", None)
    if encoder is None:
        raise _refusal(
            first,
            "it needs the image encoder that it was made with: add --part "
            "image_encoder=owner/name/folder, or `image_encoder` to `weights.parts`",
        )
    denoiser = _denoiser(pipeline)
    opened = [WeightFile(file) for file in files]
    groups = [*map(_groups, files, opened)]
    for file, tensors in zip(files, groups, strict=True):
        _check_kind(file, tensors)
        _check_layers(file, denoiser, tensors["ip_adapter"])
    if _keeps_its_scale(pipeline) and vars(pipeline).get("feature_extractor") is None:
        side = encoder.config.image_size
        processor = SiglipImageProcessor(size={"height": side, "width": side})
        pipeline.register_modules(feature_extractor=processor)
    names = [file.name for file in files]
    try:
        with ExitStack() as stack, _without_warning():
            for file in opened:
                stack.enter_context(giving_values(file))
            if len(files) == 1:  # Stable Diffusion 3 takes no lists
                pipeline.load_ip_adapter(groups[0], subfolder="", weight_name=names[0])
            else:
                pipeline.load_ip_adapter(groups, subfolder="", weight_name=names)
    except (LookupError, ValueError, RuntimeError, AttributeError) as error:
        why = f"it is none that {type(pipeline).__name__} takes ({error})"
        raise _refusal(Path(", ".join(names)), why) from error
    _check_projections(files, denoiser, encoder)
    _by_rows(denoiser)


def _keeps_its_scale(pipeline: Any) -> bool:
    """True for Stable Diffusion 3, whose layers normalize an image with the timestep."""
    return isinstance(pipeline, SD3IPAdapterMixin)


def _denoiser(pipeline: Any) -> Any:
    return getattr(pipeline, "unet", None) or pipeline.transformer


def _refusal(file: Path, why: str) -> WeightsUnavailable:
    return WeightsUnavailable(f"The part {IP_ADAPTER}, {file.name}, cannot be loaded: {why}.")


def _groups(file: Path, opened: WeightFile) -> dict[str, dict[str, Tensor]]:
    """Tensors of the projection of images and of the layers, by diffusers' names."""
    groups: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    try:
        stored_tensors = opened.header().tensors
    except UnknownDtype as error:
        raise _refusal(file, str(error)) from error
    for name, stored in stored_tensors.items():
        for pattern, group in _GROUPS:
            if (match := pattern.fullmatch(name)) is not None:
                inside = match[1]
                for old, new in _RENAMED:
                    inside = inside.replace(old, new)
                groups[group][inside] = UnreadWeight(stored)
                break
    return groups


def _check_kind(file: Path, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
    if not all(groups.values()):
        raise _refusal(
            file, "it is no IP-Adapter: it has no tensors `image_proj.…` and `ip_adapter.…`"
        )
    names = groups["image_proj"]
    if "proj.weight" not in names and any(key in names for key in _OF_FACES):
        raise _refusal(
            file,
            "it is a Face ID adapter, which takes the embedding of a face that no component of "
            "the pipeline computes. Use one that takes images",
        )


def _check_layers(file: Path, denoiser: Any, tensors: Mapping[str, Tensor]) -> None:
    """Compare the layers with those that the model needs."""
    kind = type(denoiser).__name__
    for name, expected_shape in _expected_layers(denoiser):
        if name not in tensors:
            raise _refusal(
                file, f"it has no {name}, which the {kind} needs. Use an adapter for this model"
            )
        if (shape := tuple(tensors[name].shape)) != expected_shape:
            raise _refusal(
                file,
                f"its {name} is {_shape(shape)}, and the {kind} needs {_shape(expected_shape)}. "
                "Use an adapter for this model",
            )


def _expected_layers(denoiser: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the layers that an adapter adds, as diffusers counts them; none if it
    counts in another way."""
    if isinstance(denoiser, SD3Transformer2DModel):
        return
    is_unet = not hasattr(denoiser, "transformer_blocks")
    place = 1 if is_unet else 0
    for name in denoiser.attn_processors:
        attention = denoiser.get_submodule(name.removesuffix(".processor"))
        if is_unet and (name.endswith("attn1.processor") or "motion_modules" in name):
            continue
        if is_unet:
            shape = tuple(attention.to_k.weight.shape)
        elif name.startswith("transformer_blocks"):
            shape = (denoiser.inner_dim, denoiser.config["joint_attention_dim"])
        else:
            continue
        yield f"{place}.to_k_ip.weight", shape
        yield f"{place}.to_v_ip.weight", shape
        place += 2 if is_unet else 1


def _check_projections(files: Sequence[Path], denoiser: Any, encoder: Any) -> None:
    """Compare what each adapter takes of an image with what the encoder gives."""
    projection = getattr(denoiser, "encoder_hid_proj", None)
    if not isinstance(projection, MultiIPAdapterImageProjection):
        return
    for file, layer in zip(files, projection.image_projection_layers, strict=True):
        taken, encoder_width = (
            _input_width(layer),
            _output_width(encoder, whole=isinstance(layer, ImageProjection)),
        )
        if taken != encoder_width:
            raise _refusal(
                file,
                f"it takes {taken} values of an image, and image_encoder gives {encoder_width}. "
                "Name the image encoder that it was made with: --part "
                "image_encoder=owner/name/folder",
            )


def _input_width(projection: nn.Module) -> int:
    """Values that a projection takes of an image, or of each of its patches."""
    linears = (module for module in projection.modules() if isinstance(module, nn.Linear))
    if isinstance(own := getattr(projection, "proj_in", None), nn.Linear):
        return own.in_features
    return next(linears).in_features


def _output_width(encoder: Any, *, whole: bool) -> int:
    """Values that an image encoder gives of an image, or of each of its patches."""
    return int(encoder.config.projection_dim if whole else encoder.config.hidden_size)


@contextmanager
def _without_warning() -> Generator[None]:
    """Suppress diffusers' warning about modules to keep in float32, of which it lists none."""
    log = logging.getLogger("diffusers.models.modeling_utils")
    log.disabled, before = True, log.disabled
    try:
        yield
    finally:
        log.disabled = before


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


# Layers whose rows bring their scale, as the last value of what they get.


class ScaledProjection(MultiIPAdapterImageProjection):
    """Projection that keeps the scale of each row. Embeddings without one get the scale 1."""

    def forward(self, image_embeds: list[Tensor]) -> list[Tensor]:
        """Project ``image_embeds``: for each adapter [rows, images, (patches,) width (+ 1)];
        none for calls without images."""
        if not image_embeds:
            return []
        widths = [_input_width(layer) for layer in self.image_projection_layers]
        pairs = [*zip(image_embeds, widths, strict=True)]
        projected = super().forward([embeds[..., :width].contiguous() for embeds, width in pairs])
        return [
            torch.cat([tokens, _scales(embeds, width, tokens)], dim=-1)
            for (embeds, width), tokens in zip(pairs, projected, strict=True)
        ]


def _scales(embeds: Tensor, width: int, tokens: Tensor) -> Tensor:
    """Scale of each of ``tokens`` [rows, images, tokens, values], as one value."""
    like = tokens[..., :1]
    if embeds.shape[-1] == width:
        return torch.ones_like(like)
    scale = embeds[..., -1:].flatten(2)[..., :1]  # of patches, the first one's
    return scale.unsqueeze(-1).to(tokens.dtype).expand_as(like)


class ScaledKeys(nn.Module):
    """Layer for keys, which the scale does not change.

    Contiguous values give the same bits as those of diffusers' own layers.
    """

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, states: Tensor) -> Tensor:
        return self.linear(states[..., :-1].contiguous())


class ScaledValues(ScaledKeys):
    """Layer for values, which are multiplied by the scale."""

    def forward(self, states: Tensor) -> Tensor:
        return self.linear(states[..., :-1].contiguous()) * states[..., -1:]


class TolerantFluxProcessor(FluxIPAdapterAttnProcessor):
    """Attention of Flux that also runs without an image."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
        ip_hidden_states: list[Tensor] | None = None,
        ip_adapter_masks: Tensor | None = None,
    ) -> Any:
        states = [] if ip_hidden_states is None else ip_hidden_states
        return super().__call__(
            attn,
            hidden_states,
            encoder_hidden_states,
            attention_mask,
            image_rotary_emb,
            states,
            ip_adapter_masks,
        )


@cache
def _tolerant(real: type) -> type:
    """Class of a UNet that also runs without an image."""
    forward: Callable[..., Any] = getattr(real, "forward")  # noqa: B009

    @wraps(forward)
    def tolerant(self: Any, *arguments: Any, **keywords: Any) -> Any:
        conditions = {"image_embeds": [], **(keywords.get("added_cond_kwargs") or {})}
        return forward(self, *arguments, **{**keywords, "added_cond_kwargs": conditions})

    named = {"__module__": real.__module__, "__qualname__": real.__qualname__}
    return type(real.__name__, (real,), {"forward": tolerant, **named})


def _by_rows(denoiser: Any) -> None:
    """Let rows bring their scales. Stable Diffusion 3 keeps that of its layers."""
    projection = getattr(denoiser, "encoder_hid_proj", None)
    if not isinstance(projection, MultiIPAdapterImageProjection):
        return
    denoiser.encoder_hid_proj = ScaledProjection(list(projection.image_projection_layers))
    for processor in denoiser.attn_processors.values():
        if isinstance(getattr(processor, "to_k_ip", None), nn.ModuleList):
            processor.to_k_ip = nn.ModuleList(map(ScaledKeys, processor.to_k_ip))
            processor.to_v_ip = nn.ModuleList(map(ScaledValues, processor.to_v_ip))
        if isinstance(processor, FluxIPAdapterAttnProcessor):
            processor.__class__ = TolerantFluxProcessor
    if hasattr(denoiser, "process_encoder_hidden_states") or "UNet" in type(denoiser).__name__:
        denoiser.__class__ = _tolerant(type(denoiser))


# Scale of a generation.


def with_scale(scale: float | Sequence[float]) -> Callable[[Any], None]:
    """``set_up`` of a generation whose images have this scale, or those of several adapters
    these."""

    def set_up(pipeline: Any) -> None:
        if _keeps_its_scale(pipeline):
            pipeline.set_ip_adapter_scale(scale)
        else:
            vars(pipeline)["prepare_ip_adapter_image_embeds"] = _ScaledEmbeddings(pipeline, scale)

    return set_up


class _ScaledEmbeddings:
    """Method of a generation's pipeline that adds the scales to the embeddings of its images."""

    def __init__(self, pipeline: Any, scale: float | Sequence[float]) -> None:
        self._pipeline = weakref.ref(pipeline)  # the pipeline holds this object
        self._scale = scale

    def __call__(self, images: Any, *arguments: Any, **keywords: Any) -> list[Tensor]:
        pipeline: Any = self._pipeline()
        if not isinstance(images, list):
            # Some pipelines of FLUX have one black image for the negative prompt of all adapters.
            images = [images] * _denoiser(pipeline).encoder_hid_proj.num_ip_adapters
        embeds = type(pipeline).prepare_ip_adapter_image_embeds(
            pipeline, images, *arguments, **keywords
        )
        scales = self._scale if isinstance(self._scale, Sequence) else repeat(self._scale)
        return [
            torch.cat([embed, torch.full_like(embed[..., :1], scale)], dim=-1)
            for embed, scale in zip(embeds, scales, strict=False)
        ]
