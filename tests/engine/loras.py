"""Random LoRAs for the tiny pipelines, saved by diffusers."""

import torch
from diffusers import FluxPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

FLUX_LAYERS = (
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.0.attn.add_k_proj",
    "transformer_blocks.0.ff.net.2",
    "single_transformer_blocks.0.attn.to_v",
    "single_transformer_blocks.0.proj_out",
    "proj_out",
)
SDXL_LAYERS = (
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "up_blocks.0.resnets.0.conv1",
)


LAYERS = {FluxPipeline: FLUX_LAYERS, StableDiffusionXLPipeline: SDXL_LAYERS}


def attention_of(component, ends=("to_q", "to_out.0")):
    return [name for name, _ in component.named_modules() if name.endswith(ends)]


def parts(component, layers, seed, rank):
    noise = torch.Generator().manual_seed(seed)
    state = {}
    for name in layers:
        out, into, *kernel = component.get_submodule(name).weight.shape
        state[f"{name}.lora_A.weight"] = torch.randn(rank, into, *kernel, generator=noise)
        state[f"{name}.lora_B.weight"] = torch.randn(
            out, rank, *(1 for _ in kernel), generator=noise
        )
    return state


def save_lora(folder, pipeline, seed, rank=4, layers=None, alpha=None, **more):
    """``alpha``: not the rank, and so in the file's header, with ``more`` settings of peft."""
    file = folder / f"{seed}.safetensors"
    kind = "unet" if hasattr(pipeline, "unet") else "transformer"
    component = getattr(pipeline, kind)
    layers = layers or LAYERS.get(type(pipeline)) or attention_of(component)
    state = parts(component, layers, seed, rank)
    settings = None
    if alpha is not None:
        settings = {"r": rank, "lora_alpha": alpha, "target_modules": list(layers), **more}
    type(pipeline).save_lora_weights(
        folder,
        weight_name=file.name,
        **{f"{kind}_lora_layers": state, f"{kind}_lora_adapter_metadata": settings},
    )
    return file


def with_encoders(file, pipeline, seed, folder):
    """The LoRA of ``file``, with attention and one more layer of all CLIP encoders."""
    names = [name for name in ("text_encoder", "text_encoder_2") if _is_video(pipeline, name)]
    state = load_file(file)
    for name in names:
        layers = attention_of(getattr(pipeline, name), (".q_proj", ".out_proj", ".fc1"))
        of_encoder = parts(getattr(pipeline, name), layers, seed, rank=4)
        state |= {f"{name}.{layer}": weight for layer, weight in of_encoder.items()}
    path = folder / f"encoders-{seed}.safetensors"
    save_file(state, path)
    return path


def _is_video(pipeline, name):
    return "CLIP" in type(getattr(pipeline, name, None)).__name__
