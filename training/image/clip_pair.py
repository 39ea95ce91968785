"""The two CLIP text encoders of an SDXL pipeline, seen as one.

A pipeline takes the tokens' states before each encoder's last layer, side by side, and the second
encoder's projected sentence. CLIP looks back only: the padding after a prompt is where its tokens
can know all of it.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from training.image.text import CLIP_TOKENS

FIRST_WIDTH: Final = 32
SECOND_WIDTH: Final = 112

#: Width of a token as the UNet sees it.
STATE_WIDTH: Final = FIRST_WIDTH + SECOND_WIDTH
POOLED_WIDTH: Final = 64


class ClipPair(nn.Module):
    """Both encoders, under the names that the pipeline gives them."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        first = _config(tokenizer, FIRST_WIDTH, layers=2)
        self.text_encoder = CLIPTextModel(first)
        second = _config(tokenizer, SECOND_WIDTH, layers=4)
        self.text_encoder_2 = CLIPTextModelWithProjection(second)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, T, STATE_WIDTH] and sentences [B, POOLED_WIDTH] of token ids [B, T]."""
        first = self.text_encoder(ids, output_hidden_states=True)
        second = self.text_encoder_2(ids, output_hidden_states=True)
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return states, second.text_embeds


def _config(tokenizer: CLIPTokenizer, width: int, *, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        projection_dim=POOLED_WIDTH,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 28),
        max_position_embeddings=CLIP_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
