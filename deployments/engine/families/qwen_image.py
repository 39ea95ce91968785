"""Qwen-Image."""

from __future__ import annotations

from deployments.engine.declarations import Declaration, ModelFamily

DECLARED: ModelFamily = {
    "QwenImageTransformer2DModel": Declaration(
        repeated=frozenset({"img_shapes", "txt_seq_lens"}),
        pad={"encoder_hidden_states": 1},
        mask="encoder_hidden_states_mask",
    ),
    "QwenImageControlNetInpaintPipeline": Declaration(draws_globally=True),
}
