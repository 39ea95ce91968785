"""Names of a model's layers in LoRA files: its own, and those of its original code.

Dots and underscores are not told apart, so one index serves names with dots (diffusers, peft,
ai-toolkit, fal's trainers) and flattened ones (kohya, musubi, OneTrainer, LyCORIS). The model's own
names come first. Rules name what its original code calls its layers, where diffusers has split or
renamed them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deployments.engine.interception.components import DENOISERS, is_of_transformers


@dataclass(frozen=True, slots=True)
class Target:
    """Layer of the model that an adapter changes."""

    layer: str  # component.layer
    rows: Tensor | None = None  # of the adapter's output, as the layer has them; None: all
    total: int = 0  # rows of the adapter's output, if the layer does not have all in order
    is_own: bool = False  # by the model's own name


class LayerNames:
    """Layers of a pipeline, by all the names that they have in files.

    Modules are listed, never traversed by iterators of torch: the engine's thread attaches and
    detaches layers at the same time.
    """

    def __init__(self, pipeline: Any) -> None:
        self._components = {
            name: module
            for name, module in vars(pipeline).items()
            if isinstance(module, torch.nn.Module)
        }
        self._denoiser = next(
            (denoiser for denoiser in DENOISERS if denoiser in self._components), ""
        )
        self._indexes: dict[str, Mapping[str, Sequence[Target]]] = {}

    def find(self, name: str) -> Sequence[Target]:
        """Find the layers that an adapter ``name`` of a file changes; none if it is unknown."""
        for component, rest in self._readings(name):
            if targets := self._index(component).get(_flat(rest)):
                return targets
        return ()

    def _readings(self, name: str) -> Iterator[tuple[str, str]]:
        """Components that a name may be for, each with the name that is left for the layer."""
        first, _, rest = name.partition(".")
        if rest and first in self._components:
            yield first, rest
        for prefix, component in _OTHERS.items():
            if name.startswith(prefix) and component in self._components:
                yield component, name.removeprefix(prefix)
        for prefix, preferred in _ENCODERS.items():
            if name.startswith(prefix):
                for encoder in sorted(
                    self._encoders(), key=lambda candidate: candidate != preferred
                ):
                    yield encoder, name.removeprefix(prefix)
        if not self._denoiser:
            return
        yield self._denoiser, name
        while prefix := next(
            (candidate for candidate in _DENOISER if name.startswith(candidate)), ""
        ):
            name = name.removeprefix(prefix)
            yield self._denoiser, name

    def _encoders(self) -> list[str]:
        return [
            name for name, component in self._components.items() if is_of_transformers(component)
        ]

    def _index(self, component: str) -> Mapping[str, Sequence[Target]]:
        if component not in self._indexes:
            self._indexes[component] = _index_of(component, self._components[component])
        return self._indexes[component]


_ENCODERS = {
    **{f"lora_te{number}_": f"text_encoder_{number}" for number in "234"},
    **dict.fromkeys(("lora_te_", "lora_te1_", "text_encoder.", "clip_l."), "text_encoder"),
    **{f"text_encoder_{number}.": f"text_encoder_{number}" for number in "23"},
    **dict.fromkeys(("clip_g.", "t5.", "llama."), "text_encoder_2"),
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
    "text_encoders.t5xxl.transformer.": "text_encoder_2",
}
"""Prefixes of text encoders, with the encoder that most likely has the layer: T5 is the third of
Stable Diffusion 3, and the second or the third of FLUX.1, depending on the trainer."""

_OTHERS = {"text_embedding_projection.": "connectors"}

_DENOISER = (
    *("lycoris_", "lora_unet_", "lora_transformer_"),
    *("diffusion_model.", "base_model.model.", "transformer.", "unet.", "model."),
)

_Rule = tuple[str, str]
"""Layers in diffusers, and what the original code calls them. ``#`` is a number, ``*`` the rest.
Braces list the layers that the original has as one, in the order of its rows."""


def _attention(block: str, original: str, names: Mapping[str, str]) -> list[_Rule]:
    return [(f"{block}.{name}", f"{original}.{theirs}") for name, theirs in names.items()]


_DOUBLE = _attention(
    "transformer_blocks.#",
    "double_blocks.#",
    {
        "attn.{to_q,to_k,to_v}": "img_attn.qkv",
        "attn.{add_q_proj,add_k_proj,add_v_proj}": "txt_attn.qkv",
        "attn.to_out.0": "img_attn.proj",
        "attn.to_add_out": "txt_attn.proj",
        "attn.norm_q": "img_attn.norm.query_norm",
        "attn.norm_k": "img_attn.norm.key_norm",
        "attn.norm_added_q": "txt_attn.norm.query_norm",
        "attn.norm_added_k": "txt_attn.norm.key_norm",
    },
)
_EMBEDDERS = [
    ("time_text_embed.timestep_embedder.linear_1", "time_in.in_layer"),
    ("time_text_embed.timestep_embedder.linear_2", "time_in.out_layer"),
    ("time_text_embed.guidance_embedder.linear_1", "guidance_in.in_layer"),
    ("time_text_embed.guidance_embedder.linear_2", "guidance_in.out_layer"),
    ("time_text_embed.text_embedder.linear_1", "vector_in.in_layer"),
    ("time_text_embed.text_embedder.linear_2", "vector_in.out_layer"),
]
_ENDS = [
    ("x_embedder", "img_in"),
    ("x_embedder", "img_in.proj"),
    ("context_embedder", "txt_in"),
    ("proj_out", "final_layer.linear"),
    ("norm_out.linear", "final_layer.adaLN_modulation.1"),
]
_SINGLE = [
    (
        "single_transformer_blocks.#.{attn.to_q,attn.to_k,attn.to_v,proj_mlp}",
        "single_blocks.#.linear1",
    ),
    ("single_transformer_blocks.#.proj_out", "single_blocks.#.linear2"),
]
_FLUX = [
    *_DOUBLE,
    *_EMBEDDERS,
    *_ENDS,
    *_SINGLE,
    ("transformer_blocks.#.norm1.linear", "double_blocks.#.img_mod.lin"),
    ("transformer_blocks.#.norm1_context.linear", "double_blocks.#.txt_mod.lin"),
    ("transformer_blocks.#.ff.net.0.proj", "double_blocks.#.img_mlp.0"),
    ("transformer_blocks.#.ff.net.2", "double_blocks.#.img_mlp.2"),
    ("transformer_blocks.#.ff_context.net.0.proj", "double_blocks.#.txt_mlp.0"),
    ("transformer_blocks.#.ff_context.net.2", "double_blocks.#.txt_mlp.2"),
    ("single_transformer_blocks.#.norm.linear", "single_blocks.#.modulation.lin"),
    ("single_transformer_blocks.#.attn.norm_q", "single_blocks.#.norm.query_norm"),
    ("single_transformer_blocks.#.attn.norm_k", "single_blocks.#.norm.key_norm"),
    ("single_transformer_blocks.#.attn.{to_q,to_k,to_v}", "single_blocks.#.linear1_qkv"),
    # XLabs
    ("transformer_blocks.#.attn.{to_q,to_k,to_v}", "double_blocks.#.processor.qkv_lora1"),
    (
        "transformer_blocks.#.attn.{add_q_proj,add_k_proj,add_v_proj}",
        "double_blocks.#.processor.qkv_lora2",
    ),
    ("transformer_blocks.#.attn.to_out.0", "double_blocks.#.processor.proj_lora1"),
    ("transformer_blocks.#.attn.to_add_out", "double_blocks.#.processor.proj_lora2"),
    ("single_transformer_blocks.#.attn.{to_q,to_k,to_v}", "single_blocks.#.processor.qkv_lora"),
    ("single_transformer_blocks.#.proj_out", "single_blocks.#.processor.proj_lora"),
]
_FLUX2 = [
    *_DOUBLE,
    *((ours.replace("time_text", "time_guidance"), theirs) for ours, theirs in _EMBEDDERS),
    *_ENDS,
    ("transformer_blocks.#.ff.linear_in", "double_blocks.#.img_mlp.0"),
    ("transformer_blocks.#.ff.linear_out", "double_blocks.#.img_mlp.2"),
    ("transformer_blocks.#.ff_context.linear_in", "double_blocks.#.txt_mlp.0"),
    ("transformer_blocks.#.ff_context.linear_out", "double_blocks.#.txt_mlp.2"),
    ("single_transformer_blocks.#.attn.to_qkv_mlp_proj", "single_blocks.#.linear1"),
    ("single_transformer_blocks.#.attn.to_out", "single_blocks.#.linear2"),
    ("single_transformer_blocks.#.attn.norm_q", "single_blocks.#.norm.query_norm"),
    ("single_transformer_blocks.#.attn.norm_k", "single_blocks.#.norm.key_norm"),
    ("double_stream_modulation_img.linear", "double_stream_modulation_img.lin"),
    ("double_stream_modulation_txt.linear", "double_stream_modulation_txt.lin"),
    ("single_stream_modulation.linear", "single_stream_modulation.lin"),
    ("transformer_blocks.*", "sformer_blocks.*"),
]
_REFINER = "context_embedder.token_refiner.refiner_blocks.#"
_THEIR_REFINER = "txt_in.individual_token_refiner.blocks.#"
_HUNYUAN_VIDEO = [
    *(
        (ours, theirs.replace(".norm.query", "_q").replace(".norm.key", "_k"))
        for ours, theirs in _DOUBLE
    ),
    *(
        (ours, theirs.replace("in_layer", "mlp.0").replace("out_layer", "mlp.2"))
        for ours, theirs in _EMBEDDERS[:4]
    ),
    *_EMBEDDERS[4:],
    *_SINGLE,
    *_ENDS[2:],
    ("x_embedder.proj", "img_in.proj"),
    ("transformer_blocks.#.norm1.linear", "double_blocks.#.img_mod.linear"),
    ("transformer_blocks.#.norm1_context.linear", "double_blocks.#.txt_mod.linear"),
    *(
        (f"transformer_blocks.#.{ours}", f"double_blocks.#.{kind}_mlp.{theirs}")
        for kind, ff in (("img", "ff"), ("txt", "ff_context"))
        for ours, theirs in (
            (f"{ff}.net.0.proj", "fc0"),  # OneTrainer's
            (f"{ff}.net.0.proj", "fc1"),
            (f"{ff}.net.2", "fc2"),
        )
    ),
    ("single_transformer_blocks.#.norm.linear", "single_blocks.#.modulation.linear"),
    ("single_transformer_blocks.#.attn.norm_q", "single_blocks.#.q_norm"),
    ("single_transformer_blocks.#.attn.norm_k", "single_blocks.#.k_norm"),
    (f"{_REFINER}.attn.{{to_q,to_k,to_v}}", f"{_THEIR_REFINER}.self_attn_qkv"),
    (f"{_REFINER}.attn.to_out.0", f"{_THEIR_REFINER}.self_attn_proj"),
    (f"{_REFINER}.ff.net.0.proj", f"{_THEIR_REFINER}.mlp.fc0"),
    (f"{_REFINER}.ff.net.0.proj", f"{_THEIR_REFINER}.mlp.fc1"),
    (f"{_REFINER}.ff.net.2", f"{_THEIR_REFINER}.mlp.fc2"),
    (f"{_REFINER}.norm_out.linear", f"{_THEIR_REFINER}.adaLN_modulation.1"),
    (f"{_REFINER}.norm1", f"{_THEIR_REFINER}.norm1"),
    (f"{_REFINER}.norm2", f"{_THEIR_REFINER}.norm2"),
    ("context_embedder.proj_in", "txt_in.input_embedder"),
    ("context_embedder.time_text_embed.text_embedder.*", "txt_in.c_embedder.*"),
    ("context_embedder.time_text_embed.timestep_embedder.linear_1", "txt_in.t_embedder.mlp.0"),
    ("context_embedder.time_text_embed.timestep_embedder.linear_2", "txt_in.t_embedder.mlp.2"),
    ("context_embedder.time_text_embed.timestep_embedder.*", "txt_in.t_embedder.*"),
]
_WAN = [
    *(
        (f"{block}.#.{ours}", f"{block}.#.{theirs}")
        for block in ("blocks", "vace_blocks")
        for number, kind in (("1", "self"), ("2", "cross"))
        for ours, theirs in (
            *((f"attn{number}.to_{letter}", f"{kind}_attn.{letter}") for letter in "qkv"),
            (f"attn{number}.to_out.0", f"{kind}_attn.o"),
            (f"attn{number}.norm_q", f"{kind}_attn.norm_q"),
            (f"attn{number}.norm_k", f"{kind}_attn.norm_k"),
            (f"attn{number}.add_k_proj", f"{kind}_attn.k_img"),
            (f"attn{number}.add_v_proj", f"{kind}_attn.v_img"),
            (f"attn{number}.norm_added_k", f"{kind}_attn.norm_k_img"),
        )
    ),
    *(
        (f"{block}.#.{ours}", f"{block}.#.{theirs}")
        for block in ("blocks", "vace_blocks")
        for ours, theirs in (
            ("ffn.net.0.proj", "ffn.0"),
            ("ffn.net.2", "ffn.2"),
            ("norm2", "norm3"),  # of the cross-attention; the others have no weights
            ("proj_in", "before_proj"),
            ("proj_out", "after_proj"),
        )
    ),
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("condition_embedder.image_embedder.norm1", "img_emb.proj.0"),
    ("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
    ("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
    ("condition_embedder.image_embedder.norm2", "img_emb.proj.4"),
    ("proj_out", "head.head"),
]
_LTX = [
    ("proj_in", "patchify_proj"),
    ("audio_proj_in", "audio_patchify_proj"),
    ("time_embed.*", "adaln_single.*"),
    ("audio_time_embed.*", "audio_adaln_single.*"),
    ("prompt_adaln.*", "prompt_adaln_single.*"),
    ("audio_prompt_adaln.*", "audio_prompt_adaln_single.*"),
    ("av_cross_attn_video_scale_shift.*", "av_ca_video_scale_shift_adaln_single.*"),
    ("av_cross_attn_video_a2v_gate.*", "av_ca_a2v_gate_adaln_single.*"),
    ("av_cross_attn_audio_scale_shift.*", "av_ca_audio_scale_shift_adaln_single.*"),
    ("av_cross_attn_audio_v2a_gate.*", "av_ca_v2a_gate_adaln_single.*"),
    ("transformer_blocks.#.*.norm_q", "transformer_blocks.#.*.q_norm"),
    ("transformer_blocks.#.*.norm_k", "transformer_blocks.#.*.k_norm"),
]
_Z_IMAGE = [
    *(
        (f"{block}.#.attention.{ours}", f"{block}.#.attention.{theirs}")
        for block in ("layers", "noise_refiner", "context_refiner")
        for ours, theirs in (
            ("{to_q,to_k,to_v}", "qkv"),
            ("to_out.0", "out"),
            ("norm_q", "q_norm"),
            ("norm_k", "k_norm"),
        )
    ),
    ("all_x_embedder.2-1", "x_embedder"),
    ("all_final_layer.2-1.*", "final_layer.*"),
]
_RULES = {
    "Flux2Transformer": _FLUX2,
    "FluxTransformer": _FLUX,
    "ChromaTransformer": _FLUX,
    "HunyuanVideo": _HUNYUAN_VIDEO,
    "Wan": _WAN,
    "SkyReelsV2": _WAN,
    "LTX": _LTX,
    "ZImage": _Z_IMAGE,
    "LTX2TextConnectors": [("text_proj_in", "aggregate_embed")],
}
"""Rules by the beginning of the class's name; the longest that fits counts."""

_SWAPPED = "final_layer.adaLN_modulation.1"  # shift and scale; scale and shift in diffusers


def _index_of(component: str, module: torch.nn.Module) -> dict[str, Sequence[Target]]:
    layers = dict(_layers(module, ""))
    index: dict[str, Sequence[Target]] = {}
    for path in layers:
        index.setdefault(_flat(path), [Target(f"{component}.{path}", is_own=True)])
    for path in layers:
        # Transformers before version 5 had all of a CLIP text encoder below one more module.
        bare = path.removeprefix("text_model.")
        short = path.removesuffix(".0") if path.endswith("to_out.0") else path
        for name in (bare, f"text_model.{bare}", short):
            index.setdefault(_flat(name), [Target(f"{component}.{path}")])
    for alias, paths in _aliases(type(module).__name__, module, layers):
        targets = _targets(component, alias, paths, layers)
        index.setdefault(_flat(alias), targets)
        for number, target in enumerate(targets if len(targets) > 1 else ()):
            index.setdefault(_flat(f"{alias}.{number}"), [Target(target.layer)])
    return index


def _targets(
    component: str, alias: str, paths: Sequence[str], layers: Mapping[str, Any]
) -> list[Target]:
    sizes = [layers[path].weight.shape[0] for path in paths]
    total = sum(sizes)
    if alias == _SWAPPED:
        rows = torch.arange(total).roll(total // 2)
        return [Target(f"{component}.{paths[0]}", rows, total)]
    if len(paths) == 1:
        return [Target(f"{component}.{paths[0]}")]
    parts = torch.arange(total).split(sizes)
    return [
        Target(f"{component}.{path}", rows, total) for path, rows in zip(paths, parts, strict=True)
    ]


def _layers(module: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Layers with a weight, by path, without the LoRA layers that may wrap them."""
    for name, child in list(module._modules.items()):  # noqa: SLF001  # see ``LayerNames``
        if child is None:
            continue
        layer = getattr(child, "base_layer", child)
        if isinstance(getattr(layer, "weight", None), Tensor):
            yield f"{prefix}{name}", layer
        if layer is child:
            yield from _layers(child, f"{prefix}{name}.")


def _aliases(
    kind: str, module: Any, layers: Mapping[str, Any]
) -> Iterator[tuple[str, Sequence[str]]]:
    """Names in the original code, each with the layers that it has as one, in their order."""
    if kind.startswith("UNet2DCondition"):
        yield from _unet_aliases(module, layers)
    fitting = [rule for rule in _RULES if kind.startswith(rule)]
    for ours, theirs in _RULES[max(fitting, key=len)] if fitting else ():
        before, _, rest = ours.partition("{")
        listed, _, after = rest.partition("}")
        parts = [f"{before}{name}{after}" for name in listed.split(",")]
        aliases: defaultdict[str, dict[int, str]] = defaultdict(dict)
        for number, part in enumerate(parts):
            pattern = re.compile(re.escape(part).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)"))
            for path in layers:
                if match := pattern.fullmatch(path):
                    groups = iter(match.groups())
                    alias = re.sub(r"[#*]", lambda _, left=groups: next(left), theirs)
                    aliases[alias][number] = path
        for alias, paths in aliases.items():
            if len(paths) == len(parts):
                yield alias, [paths[number] for number in range(len(parts))]


# Stable Diffusion's UNets: the original numbers all blocks of a direction.


def _unet_aliases(module: Any, layers: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[str]]]:
    per_block = module.config.layers_per_block
    for path in layers:
        if path in _OF_UNET:
            yield _OF_UNET[path], [path]
        elif match := _MIDDLE.fullmatch(path):
            kind, number, rest = match.groups()
            place = 1 if kind == "attentions" else 2 * int(number)
            yield f"middle_block.{place}.{_RESNET.get(rest, rest)}", [path]
        elif isinstance(per_block, int) and (match := _OUTER.fullmatch(path)):
            direction, block, kind, number, rest = match.groups()
            first = int(block) * (per_block + 1) + int(number)
            if kind.endswith("samplers"):
                first += per_block
            start = f"input_blocks.{first + 1}" if direction == "down" else f"output_blocks.{first}"
            if kind == "downsamplers":
                yield f"{start}.0.op", [path]
            elif kind == "upsamplers":
                yield f"{start}.1.conv", [path]
                yield f"{start}.2.conv", [path]
            else:
                place = 1 if kind == "attentions" else 0
                yield f"{start}.{place}.{_RESNET.get(rest, rest)}", [path]


_OUTER = re.compile(
    r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
)
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OF_UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def _flat(name: str) -> str:
    return name.replace(".", "_")
