"""Shap-E: shapes from texts and from images; what is compared are their latents."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers as df
import torch
from diffusers.pipelines.shap_e.renderer import ShapERenderer

from tests.engine.conformance import inputs, text_encoders, tokenizers, vision_encoders
from tests.engine.conformance.case import Case

CENTRE = torch.tensor([0.013, 0.027, 0.041])  # no two corners of the grid are as far from it


def _renderer() -> ShapERenderer:
    """A tiny one, with a ball in what its random weights render, which have no surface; and with
    one triangle in each cube of the surface, whose triangles are weights too."""
    renderer = ShapERenderer(
        param_shapes=((8, 93), (8, 8), (8, 8), (8, 8)), d_latent=32, d_hidden=8, n_output=12
    )
    renderer.mesh_decoder.cases[:, 0] = torch.tensor([0, 4, 8])
    renderer.mesh_decoder.masks[1:-1, 0] = True
    forward = renderer.mlp.forward

    def add(*, position: torch.Tensor, **more: Any) -> Any:
        output = forward(position=position, **more)
        output.signed_distance = 0.5 - (position - CENTRE).norm(dim=-1, keepdim=True)
        return output

    renderer.mlp.forward = add
    renderer.decode_to_mesh = partial(renderer.decode_to_mesh, grid_size=16)  # 128 take seconds
    return renderer


def _parts(**encoders: Any) -> dict[str, Any]:
    prior = df.PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=16,
        embedding_dim=32,
        num_embeddings=32,
        embedding_proj_dim=32,
        time_embed_dim=64,
        num_layers=1,
        clip_embed_dim=64,
        additional_embeddings=0,
        time_embed_act_fn="gelu",
        norm_in_type="layer",
        encoder_hid_proj_type=None,
        added_emb_type=None,
    )
    return {
        "prior": prior,
        "shap_e_renderer": _renderer(),
        "scheduler": df.HeunDiscreteScheduler(
            beta_schedule="exp",
            num_train_timesteps=1024,
            prediction_type="sample",
            use_karras_sigmas=True,
            clip_sample=True,
            clip_sample_range=1.0,
        ),
        **encoders,
    }


def _from_text() -> dict[str, Any]:
    return _parts(text_encoder=text_encoders.clip_projected(), tokenizer=tokenizers.clip())


def _from_image() -> dict[str, Any]:
    return _parts(
        image_encoder=vision_encoders.clip("CLIPVisionModel"),
        image_processor=vision_encoders.clip_processor(),
    )


CASES = (
    Case("shap-e", "ShapEPipeline", _from_text, lambda _: {"output_type": "latent"}),
    Case(
        "shap-e",
        "ShapEImg2ImgPipeline",
        _from_image,
        lambda wish: {"output_type": "latent", "image": inputs.image(wish)},
    ),
)
