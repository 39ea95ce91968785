"""LoRA files with known weights, in the layouts of trainers and the names of each family.

Names of the original code are listed here once more, apart from those of the engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import diffusers as df
import torch
from safetensors.torch import save_file

from tests.engine.conformance.families import hunyuan_video, ltx2, wan
from tests.engine.tiny import tiny_flux, tiny_sdxl
from tests.engine.tiny_qwen import tiny_flux2_klein, tiny_qwen_image, tiny_z_image

RANK, ALPHA = 4, 2.0


@dataclass(frozen=True)
class Family:
    make: Any
    layers: Mapping[str, Sequence[str]]  # of the denoiser, by the original name; several: its rows
    encoders: Mapping[str, str] = field(default_factory=dict)  # component.layer by kohya's name
    norms: Mapping[str, str] = field(default_factory=dict)
    swapped: str = ""  # original name of the layer whose halves diffusers has the other way round

    @property
    def denoiser(self) -> str:
        return "unet" if self.make is tiny_sdxl else "transformer"


def only(kind: str, **components: Any) -> Any:
    """A pipeline with these components alone, which is enough to load a LoRA."""
    pipeline = getattr(df, kind)
    names, optional = pipeline._get_signature_keys(pipeline)
    return pipeline(**{name: components.get(name) for name in {*names} - {*optional}})


def _double(block: str, original: str, ff: Sequence[str], theirs: Sequence[str]) -> dict[str, Any]:
    attn, b = f"{block}.attn", original
    return {
        f"{b}.img_attn.qkv": [f"{attn}.to_{letter}" for letter in "qkv"],
        f"{b}.txt_attn.qkv": [f"{attn}.add_{letter}_proj" for letter in "qkv"],
        f"{b}.img_attn.proj": [f"{attn}.to_out.0"],
        f"{b}.txt_attn.proj": [f"{attn}.to_add_out"],
        **{f"{b}.img_mlp.{o}": [f"{block}.ff.{n}"] for n, o in zip(ff, theirs, strict=True)},
        **{
            f"{b}.txt_mlp.{o}": [f"{block}.ff_context.{n}"] for n, o in zip(ff, theirs, strict=True)
        },
    }


_SINGLE = "single_transformer_blocks.0"
FLUX = Family(
    tiny_flux,
    {
        **_double("transformer_blocks.0", "double_blocks.0", ("net.0.proj", "net.2"), ("0", "2")),
        "double_blocks.0.img_mod.lin": ["transformer_blocks.0.norm1.linear"],
        "double_blocks.0.txt_mod.lin": ["transformer_blocks.0.norm1_context.linear"],
        "single_blocks.0.linear1": [
            *(f"{_SINGLE}.attn.to_{letter}" for letter in "qkv"),
            f"{_SINGLE}.proj_mlp",
        ],
        "single_blocks.0.linear2": [f"{_SINGLE}.proj_out"],
        "single_blocks.0.modulation.lin": [f"{_SINGLE}.norm.linear"],
        "img_in": ["x_embedder"],
        "txt_in": ["context_embedder"],
        "time_in.in_layer": ["time_text_embed.timestep_embedder.linear_1"],
        "vector_in.out_layer": ["time_text_embed.text_embedder.linear_2"],
        "final_layer.linear": ["proj_out"],
        "final_layer.adaLN_modulation.1": ["norm_out.linear"],
    },
    {
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (
            "text_encoder.encoder.layers.0.self_attn.q_proj"
        ),
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q": (
            "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q"
        ),
    },
    {"double_blocks.0.img_attn.norm.query_norm": "transformer_blocks.0.attn.norm_q"},
    "final_layer.adaLN_modulation.1",
)
FLUX2 = Family(
    tiny_flux2_klein,
    {
        **_double(
            "transformer_blocks.0", "double_blocks.0", ("linear_in", "linear_out"), ("0", "2")
        ),
        "single_blocks.0.linear1": [f"{_SINGLE}.attn.to_qkv_mlp_proj"],
        "single_blocks.0.linear2": [f"{_SINGLE}.attn.to_out"],
        "img_in": ["x_embedder"],
        "time_in.in_layer": ["time_guidance_embed.timestep_embedder.linear_1"],
        "double_stream_modulation_img.lin": ["double_stream_modulation_img.linear"],
        "final_layer.linear": ["proj_out"],
        "final_layer.adaLN_modulation.1": ["norm_out.linear"],
    },
    norms={"single_blocks.0.norm.query_norm": f"{_SINGLE}.attn.norm_q"},
    swapped="final_layer.adaLN_modulation.1",
)
_BLOCK = "attentions.0.transformer_blocks.0.attn1.to_q"
SDXL = Family(
    tiny_sdxl,
    {
        "input_blocks.3.1.transformer_blocks.0.attn1.to_q": [f"down_blocks.1.{_BLOCK}"],
        "middle_block.1.transformer_blocks.0.ff.net.2": [
            "mid_block.attentions.0.transformer_blocks.0.ff.net.2"
        ],
        "middle_block.2.in_layers.2": ["mid_block.resnets.1.conv1"],
        "output_blocks.0.0.skip_connection": ["up_blocks.0.resnets.0.conv_shortcut"],
        "time_embed.0": ["time_embedding.linear_1"],
        "label_emb.0.2": ["add_embedding.linear_2"],
        "out.2": ["conv_out"],
    },
    {
        "lora_te1_text_model_encoder_layers_0_self_attn_out_proj": (
            "text_encoder.encoder.layers.0.self_attn.out_proj"
        ),
        "lora_te2_text_model_encoder_layers_0_self_attn_out_proj": (
            "text_encoder_2.text_model.encoder.layers.0.self_attn.out_proj"
        ),
    },
    {"out.0": "conv_norm_out"},
)
QWEN = Family(
    tiny_qwen_image,
    {
        name: [name]
        for name in (
            *(
                f"transformer_blocks.0.attn.{projection}"
                for projection in ("to_q", "add_k_proj", "to_add_out")
            ),
            "transformer_blocks.0.attn.to_out.0",
            "transformer_blocks.0.img_mlp.net.0.proj",
            "transformer_blocks.0.txt_mlp.net.2",
            "transformer_blocks.0.img_mod.1",
            "img_in",
            "norm_out.linear",
            "time_text_embed.timestep_embedder.linear_1",
        )
    },
    norms={"txt_norm": "txt_norm"},
)
Z_IMAGE = Family(
    tiny_z_image,
    {
        **{
            f"{block}.0.attention.qkv": [f"{block}.0.attention.to_{letter}" for letter in "qkv"]
            for block in ("layers", "noise_refiner", "context_refiner")
        },
        "layers.0.attention.out": ["layers.0.attention.to_out.0"],
        "layers.0.feed_forward.w1": ["layers.0.feed_forward.w1"],
        "layers.0.adaLN_modulation.0": ["layers.0.adaLN_modulation.0"],
        "t_embedder.mlp.0": ["t_embedder.mlp.0"],
        "cap_embedder.1": ["cap_embedder.1"],
        "x_embedder": ["all_x_embedder.2-1"],
        "final_layer.linear": ["all_final_layer.2-1.linear"],
    },
    norms={"layers.0.attention.q_norm": "layers.0.attention.norm_q"},
)
WAN = Family(
    lambda: only("WanPipeline", transformer=wan.transformer(image_dim=32)),
    {
        **{
            f"blocks.1.self_attn.{theirs}": [f"blocks.1.attn1.{ours}"]
            for ours, theirs in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "o"))
        },
        "blocks.0.cross_attn.q": ["blocks.0.attn2.to_q"],
        "blocks.0.cross_attn.o": ["blocks.0.attn2.to_out.0"],
        "blocks.0.ffn.0": ["blocks.0.ffn.net.0.proj"],
        "blocks.0.ffn.2": ["blocks.0.ffn.net.2"],
        "time_embedding.0": ["condition_embedder.time_embedder.linear_1"],
        "text_embedding.2": ["condition_embedder.text_embedder.linear_2"],
        "time_projection.1": ["condition_embedder.time_proj"],
        "img_emb.proj.1": ["condition_embedder.image_embedder.ff.net.0.proj"],
        "head.head": ["proj_out"],
    },
    norms={
        "blocks.0.norm3": "blocks.0.norm2",
        "blocks.1.self_attn.norm_q": "blocks.1.attn1.norm_q",
    },
)
LTX2 = Family(
    lambda: only("LTX2Pipeline", transformer=ltx2.parts()["transformer"]),
    {
        "patchify_proj": ["proj_in"],
        "audio_patchify_proj": ["audio_proj_in"],
        "adaln_single.linear": ["time_embed.linear"],
        "audio_adaln_single.linear": ["audio_time_embed.linear"],
        "av_ca_a2v_gate_adaln_single.linear": ["av_cross_attn_video_a2v_gate.linear"],
        "transformer_blocks.0.attn1.to_q": ["transformer_blocks.0.attn1.to_q"],
        "transformer_blocks.1.audio_attn2.to_out.0": ["transformer_blocks.1.audio_attn2.to_out.0"],
        "transformer_blocks.1.ff.net.0.proj": ["transformer_blocks.1.ff.net.0.proj"],
    },
    norms={"transformer_blocks.0.attn1.q_norm": "transformer_blocks.0.attn1.norm_q"},
)
_REFINER = "context_embedder.token_refiner.refiner_blocks.0"
_THEIR_REFINER = "txt_in.individual_token_refiner.blocks.0"
HUNYUAN_VIDEO = Family(
    lambda: only("HunyuanVideoPipeline", transformer=hunyuan_video.parts()["transformer"]),
    {
        **{
            name.replace("_attn.", "_attn_"): layers
            for name, layers in _double(
                "transformer_blocks.0", "double_blocks.0", ("net.0.proj", "net.2"), ("fc1", "fc2")
            ).items()
        },
        "single_blocks.0.linear1": FLUX.layers["single_blocks.0.linear1"],
        "single_blocks.0.linear2": [f"{_SINGLE}.proj_out"],
        "single_blocks.0.modulation.linear": [f"{_SINGLE}.norm.linear"],
        f"{_THEIR_REFINER}.self_attn_qkv": [f"{_REFINER}.attn.to_{letter}" for letter in "qkv"],
        f"{_THEIR_REFINER}.mlp.fc1": [f"{_REFINER}.ff.net.0.proj"],
        "txt_in.input_embedder": ["context_embedder.proj_in"],
        "time_in.mlp.0": ["time_text_embed.timestep_embedder.linear_1"],
        "final_layer.linear": ["proj_out"],
        "final_layer.adaLN_modulation.1": ["norm_out.linear"],
    },
    norms={"double_blocks.0.img_attn_q_norm": "transformer_blocks.0.attn.norm_q"},
    swapped="final_layer.adaLN_modulation.1",
)
FAMILIES = {
    "FLUX.1": FLUX,
    "FLUX.2": FLUX2,
    "SDXL": SDXL,
    "Qwen-Image": QWEN,
    "Z-Image": Z_IMAGE,
    "Wan": WAN,
    "LTX-2": LTX2,
    "HunyuanVideo": HUNYUAN_VIDEO,
}


@dataclass(frozen=True)
class Layout:
    """``{}`` in ``name`` is the layer's name."""

    name: str
    names: str = "own"  # or "original", or "split": the original's, each part of its rows by itself
    flat: bool = False
    halves: tuple[str, str] = ("lora_A.weight", "lora_B.weight")
    kind: str = "LoRA"
    more: tuple[str, ...] = ()  # bias, diff_b, norms, encoders
    only: tuple[str, ...] = tuple(FAMILIES)


KOHYA = ("lora_down.weight", "lora_up.weight")
_BFL = ("FLUX.1", "FLUX.2", "HunyuanVideo")
LAYOUTS = {
    "diffusers": Layout("{denoiser}.{}", more=("encoders",)),
    "diffusers, with `lora_B.bias`": Layout("{denoiser}.{}", more=("bias",)),
    "peft": Layout(
        "base_model.model.{}", halves=("lora_A.default.weight", "lora_B.default.weight")
    ),
    "kohya": Layout("lora_unet_{}", "original", True, KOHYA, more=("encoders",)),
    "kohya and musubi, layers of diffusers": Layout("lora_unet_{}", "own", True, KOHYA),
    "ai-toolkit and ComfyUI": Layout("diffusion_model.{}", "original"),
    "ai-toolkit, layers of diffusers": Layout("diffusion_model.{}"),
    "ai-toolkit, DoRA": Layout("diffusion_model.{}", "original", kind="DoRA"),
    "OneTrainer": Layout("lora_{denoiser}_{}", "own", True, KOHYA, more=("encoders",)),
    "OneTrainer, native": Layout("{denoiser}.{}", halves=KOHYA),
    "OneTrainer, split (OMI)": Layout("{denoiser}.{}", "split", halves=KOHYA),
    "LyCORIS LoKr": Layout("lycoris_{}", "own", True, kind="LoKr"),
    "LyCORIS LoKr, original layers": Layout("lora_unet_{}", "original", True, kind="LoKr"),
    "LyCORIS LoHa": Layout("lora_unet_{}", "original", True, kind="LoHa"),
    "LyCORIS full": Layout("lycoris_{}", "own", True, kind="full", more=("norms",)),
    "fal": Layout("base_model.model.{}", "original"),
    "Black Forest Labs": Layout("{}", "original", only=_BFL),
    "XLabs": Layout("{}", "xlabs", halves=("down.weight", "up.weight"), only=("FLUX.1",)),
    "lightx2v, CausVid, AccVid": Layout(
        "diffusion_model.{}", "original", halves=KOHYA, more=("diff_b", "norms", "zeros")
    ),
}
_XLABS = {
    "img_attn.qkv": "processor.qkv_lora1",
    "img_attn.proj": "processor.proj_lora1",
    "txt_attn.qkv": "processor.qkv_lora2",
    "txt_attn.proj": "processor.proj_lora2",
    "linear2": "processor.proj_lora",
}

Expected = dict[str, tuple[torch.Tensor, torch.Tensor | None]]
"""Differences of weight and bias, by component.layer."""


def write(pipeline: Any, family: Family, layout: Layout, file: Any, seed: int = 1) -> Expected:
    """Write a file with random weights; return what it has to change."""
    return _Writer(pipeline, family, layout, seed).write(file)


class _Writer:
    def __init__(self, pipeline: Any, family: Family, layout: Layout, seed: int) -> None:
        self._noise = torch.Generator().manual_seed(seed)
        self._pipeline, self._family, self._layout = pipeline, family, layout
        self._module = getattr(pipeline, family.denoiser)
        self._state: dict[str, torch.Tensor] = {}
        self._expected: Expected = {}

    def write(self, file: Any) -> Expected:
        family, layout = self._family, self._layout
        for name, layers in self._named_layers():
            self._add(
                self._full(name), [f"{family.denoiser}.{layer_name}" for layer_name in layers], name
            )
        if "encoders" in layout.more:
            for name, layer in family.encoders.items():
                self._add(self._of_encoder(name, layer), [layer], name)
        for name, layer in family.norms.items() if "norms" in layout.more else ():
            path = name if layout.names == "original" else layer
            full, weight = self._full(path), self._module.get_submodule(layer).weight
            self._state[f"{full}.diff"] = change = self._random(*weight.shape)
            self._expected[f"{family.denoiser}.{layer}"] = change, None
        if "zeros" in layout.more:
            self._state[f"{self._full('blocks.0.norm_of_no_model')}.diff"] = torch.zeros(3)
        save_file({name: tensor.contiguous() for name, tensor in self._state.items()}, file)
        return self._expected

    def _named_layers(self) -> list[tuple[str, Sequence[str]]]:
        match self._layout.names:
            case "own":
                return [(layer, [layer]) for its in self._family.layers.values() for layer in its]
            case "split":
                return [
                    (f"{name}.{number}" if len(its) > 1 else name, [layer])
                    for name, its in self._family.layers.items()
                    for number, layer in enumerate(its)
                ]
            case "xlabs":
                single = self._family.layers["single_blocks.0.linear1"][:3]
                return [
                    ("single_blocks.0.processor.qkv_lora", single),
                    *self._in_names_of_xlabs(),
                ]
        return list(self._family.layers.items())

    def _in_names_of_xlabs(self) -> list[tuple[str, Sequence[str]]]:
        return [
            (name.replace(theirs, xlabs), its)
            for name, its in self._family.layers.items()
            for theirs, xlabs in _XLABS.items()
            if name.endswith(theirs)
        ]

    def _full(self, name: str) -> str:
        layout = self._layout
        path = name.replace(".", "_") if layout.flat else name
        return layout.name.replace("{denoiser}", self._family.denoiser).replace("{}", path)

    def _of_encoder(self, name: str, layer: str) -> str:
        return name if self._layout.flat else layer

    def _random(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self._noise) / 4

    def _add(self, full: str, layers: Sequence[str], name: str) -> None:
        """Add an adapter of one layer of the original, which may be several of the model."""
        bases = [layer_of(self._pipeline, layer_name) for layer_name in layers]
        whole = torch.cat([base.weight.detach() for base in bases])
        is_swapped = name == self._family.swapped
        if is_swapped:
            whole = whole.roll(len(whole) // 2, 0)
        delta, bias = self._adapter(full, whole)
        sizes = [len(base.weight) for base in bases]
        for layer, its, of_bias in zip(
            layers,
            delta.split(sizes),
            [None] * len(sizes) if bias is None else bias.split(sizes),
            strict=True,
        ):
            half = len(its) // 2 if is_swapped else 0
            self._expected[layer] = (
                its.roll(half, 0),
                None if of_bias is None else of_bias.roll(half, 0),
            )

    def _adapter(self, full: str, whole: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Write an adapter of a layer with the weight ``whole``; return its differences."""
        layout, state = self._layout, self._state
        bias = None
        if layout.kind == "full":
            delta = state[f"{full}.diff"] = self._random(*whole.shape)
            bias = state[f"{full}.diff_b"] = self._random(len(whole))
            return delta, bias
        factor = 1.0
        if layout.kind != "DoRA" and (layout.flat or layout.halves == KOHYA):
            state[f"{full}.alpha"], factor = torch.tensor(ALPHA), ALPHA / RANK
        delta = factor * self._low_rank(full, whole).reshape(whole.shape)
        if layout.kind == "DoRA":
            magnitude = state[f"{full}.magnitude"] = self._random(len(whole)).abs() + 1
            changed = (whole + delta).flatten(1)
            scaled = magnitude[:, None] * changed / changed.norm(dim=1, keepdim=True)
            delta = scaled.reshape(whole.shape) - whole
        if "bias" in layout.more:
            state[f"{full}.lora_B.bias"] = self._random(len(whole))
            bias = factor * state[f"{full}.lora_B.bias"]
        if "diff_b" in layout.more:
            state[f"{full}.diff_b"] = bias = self._random(len(whole))
        return delta, bias

    def _low_rank(self, full: str, whole: torch.Tensor) -> torch.Tensor:
        out, columns = len(whole), whole[0].numel()
        match self._layout.kind:
            case "LoKr":
                first, two = (2, 1), (out // 2, RANK)
                if out % 2:
                    first, two = (1, 1), (out, RANK)
                parts = {"lokr_w1": first, "lokr_w2_a": two, "lokr_w2_b": (RANK, columns)}
            case "LoHa":
                pair = {"a": (out, RANK), "b": (RANK, columns)}
                parts = {f"hada_w{n}_{half}": pair[half] for n in "12" for half in "ab"}
            case _:
                down, up = self._layout.halves
                kernel = [1 for _ in whole.shape[2:]]
                parts = {down: (RANK, *whole.shape[1:]), up: (out, RANK, *kernel)}
        factors = [self._random(*shape) for shape in parts.values()]
        self._state |= {
            f"{full}.{name}": factor for name, factor in zip(parts, factors, strict=True)
        }
        match self._layout.kind:
            case "LoKr":
                return torch.kron(factors[0], factors[1] @ factors[2])
            case "LoHa":
                return (factors[0] @ factors[1]) * (factors[2] @ factors[3])
            case _:
                return factors[1].flatten(1) @ factors[0].flatten(1)


def layer_of(pipeline: Any, name: str) -> Any:
    component, _, path = name.partition(".")
    return getattr(pipeline, component).get_submodule(path)
