"""Texts of the family ``generic``: arguments of the call, and the output, which has no file.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.families.base import GenerationCall, GenerationResult, Product, first_output
from deployments.families.image_io import seed_of
from serve_app.domain.errors import InvalidInput
from serve_app.options.inputs import MESSAGES, Inputs
from serve_app.options.results import TEXT


def text_arguments(
    inputs: Inputs, input: Mapping[str, Any], pipeline: Any, seed: int
) -> dict[str, Any]:
    """Arguments in place of those for images. Tokens are drawn where the logits are, so the
    generator is of the same device. ``InvalidInput``: a conversation that the weights refuse."""
    import torch  # noqa: PLC0415

    for name, declared in inputs.items():
        if declared.argument == MESSAGES and input.get(name):
            _check_conversation(name, input[name], pipeline)
    generator = torch.Generator(pipeline.device).manual_seed(seed_of(input, seed))
    return {"generator": generator, "output_type": "text"}


def _check_conversation(name: str, messages: Any, pipeline: Any) -> None:
    """Raise ``InvalidInput`` if the template of the weights refuses the conversation. Many take
    none with a system's turn, or with two turns of one role after the other."""
    from jinja2 import TemplateError  # noqa: PLC0415

    tokenizer = getattr(pipeline, "processor", None) or pipeline.tokenizer
    if not tokenizer.chat_template:
        raise InvalidInput.of_field(name, "The weights have no chat template for a conversation")
    try:
        tokenizer.apply_chat_template(messages, tokenize=False)
    except TemplateError as error:
        raise InvalidInput.of_field(
            name, f"The chat template of the weights refuses the conversation: {error}"
        ) from None


def deliver_text(call: GenerationCall, generated: GenerationResult) -> Product:
    """The only text of a call."""
    (text,) = first_output(generated.result, "texts")
    output = {
        TEXT: text,
        "timings": {"inference": round(generated.inference_s, 4)},
        "seed": call.output_facts["seed"],
    }
    return Product(output)
