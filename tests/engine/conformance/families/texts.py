"""Text by discrete diffusion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers as df

from tests.engine.conformance import language_models, tokenizers
from tests.engine.conformance.case import Case, Parts, Wish


def _text(_: Wish) -> dict[str, Any]:
    """Two blocks, sampled and not only the likeliest, so that seeds count."""
    return {"gen_length": 16, "temperature": 1.0, "output_type": "text"}


def _masked() -> dict[str, Any]:
    tokenizer = tokenizers.words()
    tokenizer.mask_token = "<unk>"
    return {
        "model": language_models.masked(),
        "tokenizer": tokenizer,
        "scheduler": df.BlockRefinementScheduler(block_length=8),
    }


def _gemma(scheduler: Callable[[], Any]) -> Parts:
    return lambda: {
        "model": language_models.diffusion_gemma(),
        "processor": tokenizers.words(),
        "scheduler": scheduler(),
    }


def _case(name: str, parts: Parts, variant: str = "") -> Case:
    return Case("text", name, parts, _text, variant=variant, resumes=False)


CASES = [
    _case("LLaDA2Pipeline", _masked),
    _case("DiffusionGemmaPipeline", _gemma(df.BlockRefinementScheduler)),
    _case("DiffusionGemmaPipeline", _gemma(df.EntropyBoundScheduler), "by entropy"),
    _case("DiffusionGemmaPipeline", _gemma(df.DiscreteDDIMScheduler), "by DDIM"),
]
