"""What gives vision-language models texts and images together; none is downloaded."""

from __future__ import annotations

from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor

from deployments.engine.loading.processors import NoVideos, without_torchvision
from tests.engine.conformance import tokenizers


def texts_and_images(tokens: int = 1024, side: str = "right") -> Qwen2VLProcessor:
    """Processor of Qwen2-VL with patches of 4 pixels, of which 2 on a side become one token."""
    tokenizer = tokenizers.words(tokens, side=side)
    images = Qwen2VLImageProcessor(
        patch_size=4, merge_size=2, size={"shortest_edge": 8 * 8, "longest_edge": 32 * 32}
    )
    template = tokenizer.chat_template
    with without_torchvision():
        return Qwen2VLProcessor(images, tokenizer, NoVideos(), chat_template=template)
