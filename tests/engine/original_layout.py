"""The weights of ``tiny_sdxl`` under the names of the original repository: what diffusers'
converters take apart, put together. The names are those of its convert_diffusers_to_original_sdxl.
"""

import re

import torch

_UNET = (
    (r"(resnets\.\d)\.norm1", r"\1.in_layers.0"),
    (r"(resnets\.\d)\.conv1", r"\1.in_layers.2"),
    (r"(resnets\.\d)\.time_emb_proj", r"\1.emb_layers.1"),
    (r"(resnets\.\d)\.norm2", r"\1.out_layers.0"),
    (r"(resnets\.\d)\.conv2", r"\1.out_layers.3"),
    (r"(resnets\.\d)\.conv_shortcut", r"\1.skip_connection"),
    (r"down_blocks\.0\.resnets\.0", "input_blocks.1.0"),
    (r"down_blocks\.0\.downsamplers\.0\.conv", "input_blocks.2.0.op"),
    (r"down_blocks\.1\.resnets\.0", "input_blocks.3.0"),
    (r"down_blocks\.1\.attentions\.0", "input_blocks.3.1"),
    (r"mid_block\.resnets\.0", "middle_block.0"),
    (r"mid_block\.attentions\.0", "middle_block.1"),
    (r"mid_block\.resnets\.1", "middle_block.2"),
    (r"up_blocks\.0\.resnets\.(\d)", r"output_blocks.\1.0"),
    (r"up_blocks\.0\.attentions\.(\d)", r"output_blocks.\1.1"),
    (r"up_blocks\.0\.upsamplers\.0", "output_blocks.1.2"),
    (r"up_blocks\.1\.resnets\.0", "output_blocks.2.0"),
    (r"up_blocks\.1\.resnets\.1", "output_blocks.3.0"),
    (r"time_embedding\.linear_1", "time_embed.0"),
    (r"time_embedding\.linear_2", "time_embed.2"),
    (r"add_embedding\.linear_1", "label_emb.0.0"),
    (r"add_embedding\.linear_2", "label_emb.0.2"),
    (r"conv_in", "input_blocks.0.0"),
    (r"conv_norm_out", "out.0"),
    (r"conv_out", "out.2"),
)
_VAE = (
    (r"encoder\.down_blocks\.(\d)\.resnets", r"encoder.down.\1.block"),
    (r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample"),
    (r"decoder\.up_blocks\.0\.", "decoder.up.1."),  # the original counts from the output
    (r"decoder\.up_blocks\.1\.", "decoder.up.0."),
    (r"(decoder\.up\.\d)\.resnets", r"\1.block"),
    (r"upsamplers\.0", "upsample"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"conv_norm_out", "norm_out"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"group_norm", "norm"),
    (r"to_out\.0", "proj_out"),
    (r"attn_1\.to_", "attn_1."),
)
_OPEN_CLIP = (
    (r"text_model\.encoder\.layers", "transformer.resblocks"),
    (r"text_model\.final_layer_norm", "ln_final"),
    (r"text_model\.embeddings\.token_embedding", "token_embedding"),
    (r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"text_projection\.weight", "text_projection"),
    (r"layer_norm", "ln_"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
    (r"self_attn\.(out_proj|[qkv]_proj)", r"attn.\1"),
)


def original_unet(unet):
    """The UNet, without the prefix that it has in a whole file."""
    return _renamed(unet.state_dict(), _UNET)


def original_sdxl(pipeline):
    """The whole file, as trainers and ComfyUI save SDXL."""
    clip = pipeline.text_encoder.state_dict()  # transformers leaves out `text_model` now
    parts = {
        "model.diffusion_model.": original_unet(pipeline.unet),
        "first_stage_model.": _vae(pipeline.vae),
        "conditioner.embedders.0.transformer.text_model.": {
            name.removeprefix("text_model."): tensor for name, tensor in clip.items()
        },
        "conditioner.embedders.1.model.": _open_clip(pipeline.text_encoder_2),
    }
    return {
        f"{prefix}{name}": values.contiguous()
        for prefix, its in parts.items()
        for name, values in its.items()
    }


def _vae(vae):
    renamed = _renamed(vae.state_dict(), _VAE)
    return {  # its attention is convolutions of one pixel
        name: values[:, :, None, None] if "attn_1" in name and values.dim() == 2 else values
        for name, values in renamed.items()
    }


def _open_clip(encoder):
    renamed = _renamed(encoder.state_dict(), _OPEN_CLIP)
    renamed["text_projection"] = renamed["text_projection"].T
    for query in [name for name in renamed if ".q_proj." in name]:
        its = [renamed.pop(query.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
        renamed[query.replace(".q_proj.", ".in_proj_")] = torch.cat(its)
    return renamed


def _renamed(tensors, patterns):
    renamed = {}
    for ours, values in tensors.items():
        name = ours
        for pattern, original in patterns:
            name = re.sub(pattern, original, name)
        renamed[name] = values
    return renamed
