"""Parameters of ``responses``: the turn of a conversation, as a prompt and the images to edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from pydantic import Field

from serve_app.domain.errors import InvalidInput
from serve_app.ingress.openai.parameters import Parameters, not_here

RESPONSE, IMAGE_CALL = "resp_", "ig_"
"""Prefixes of the id of a request, as a response and as its first image."""

TOOL = "image_generation"
CALL = "image_generation_call"
TOOL_CHOICES = (None, "auto", "required", {"type": TOOL})

WITHOUT_EFFECT = (
    *("parallel_tool_calls", "truncation", "service_tier", "prompt_cache_key"),
    *("user", "safety_identifier", "store"),
)
"""Parameters that change nothing about images. Requests are always stored."""

NO_TEXT_MODEL = "no text model runs here, only the tool image_generation does"


MAX_TOOLS = 128
"""As at OpenAI. A million wrong ones were a mistake each: see ``MAX_OWN_FIELDS``."""


class ResponseParameters(Parameters):
    """OpenAI's parameters of ``responses`` that are about images. Others are refused."""

    input: str | list[Any]
    tools: list[dict[str, Any]] = Field(
        max_length=MAX_TOOLS,
        description="One tool `image_generation`, with the parameters of `images/generations`.",
    )
    model: str | None = Field(
        default=None,
        description="Id of an endpoint, or an alias, if the tool names none. Another name, such as "
        "that of a text model, leads to the default endpoint for images.",
    )
    tool_choice: str | dict[str, Any] | None = None
    previous_response_id: str | None = None
    stream: bool | None = None
    background: bool | None = None

    def tool(self) -> dict[str, Any]:
        """Parameters of the tool. ``InvalidInput`` names what is about text."""
        for name, value in (self.model_extra or {}).items():
            if name not in WITHOUT_EFFECT and value not in (None, [], {}):
                raise not_here(name, NO_TEXT_MODEL)
        if (self.model_extra or {}).get("store") is False:
            raise not_here("store", "send the header `X-Fal-Store-IO: 0` in its place")
        for number, tool in enumerate(self.tools):
            if tool.get("type") != TOOL:
                raise not_here(f"tools.{number}.type", NO_TEXT_MODEL)
        if len(self.tools) != 1:
            raise not_here("tools", "send the tool image_generation once")
        if self.tool_choice not in TOOL_CHOICES:
            raise not_here("tool_choice", NO_TEXT_MODEL)
        if self.background and self.stream:
            raise not_here("background", "a stream is not in the background")
        (tool,) = self.tools
        if tool.get("input_image_mask"):
            raise not_here("tools.0.input_image_mask", "send the mask to images.edit")
        known = {"type", "action", "input_image_mask"}
        return {name: value for name, value in tool.items() if name not in known}

    @property
    def action(self) -> Literal["auto", "generate", "edit"]:
        """What the tool does with images of the conversation."""
        action = self.tools[0].get("action") or "auto"
        if action not in ("auto", "generate", "edit"):
            raise InvalidInput.of_field("tools.0.action", "Should be auto, generate or edit")
        return action


@dataclass(frozen=True, slots=True)
class Turn:
    """Last turn of the conversation: what is written and shown after the last answer."""

    prompt: str
    images: Sequence[str]  # URLs
    answer: str = ""  # id of the image before it, as ``ig_`` and the id of its request


def turn_of(turn_input: str | Sequence[Any]) -> Turn:
    """Read ``input``. ``InvalidInput`` names what is no text or image of a user."""
    if isinstance(turn_input, str):
        return Turn(turn_input, ())
    texts: list[str] = []
    images: list[str] = []
    answer = ""
    for number, item in enumerate(turn_input):
        place = f"input.{number}"
        if not isinstance(item, dict):
            raise InvalidInput.of_field(place, "Should be an object")
        fields = cast("dict[str, Any]", item)
        kind = fields.get("type", "message")
        if kind == CALL:
            texts, images, answer = [], [], str(fields.get("id") or "")
            if not answer.startswith(IMAGE_CALL):
                raise InvalidInput.of_field(f"{place}.id", "Should be the id of an image from here")
        elif kind != "message":
            raise not_here(f"{place}.type", NO_TEXT_MODEL)
        elif fields.get("role") == "assistant":
            texts, images = [], []
        elif fields.get("role") != "user":
            raise not_here(f"{place}.role", NO_TEXT_MODEL)
        else:
            _read_content(fields.get("content"), f"{place}.content", texts, images)
    return Turn("\n".join(texts), images, answer)


def _read_content(content: Any, place: str, texts: list[str], images: list[str]) -> None:
    """Add the texts and images of a message."""
    if isinstance(content, str):
        texts.append(content)
        return
    if not isinstance(content, list):
        raise InvalidInput.of_field(place, "Should be a text or a list")
    for number, part in enumerate(cast("list[Any]", content)):
        fields = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
        at = f"{place}.{number}"
        if fields.get("type") == "input_text" and isinstance(fields.get("text"), str):
            texts.append(fields["text"])
        elif fields.get("type") != "input_image":
            raise not_here(f"{at}.type", "a part is an input_text or an input_image")
        elif not isinstance(fields.get("image_url"), str):
            raise not_here(f"{at}.image_url", "send a URL or a data URI of the image")
        else:
            images.append(fields["image_url"])
