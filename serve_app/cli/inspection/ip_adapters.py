"""IP-Adapters that a pipeline is loaded with: the fields of a request for their images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from serve_app.cli.inspection.control_nets import list_of_numbers
from serve_app.cli.inspection.pipeline_call import PipelineCall
from serve_app.domain.errors import Misconfigured
from serve_app.domain.pipeline_index import IP_ADAPTER
from serve_app.options.inputs import ADAPTER_IMAGE, ADAPTER_IMAGES, ADAPTER_SCALE

WITHOUT_ADAPTER = (
    f"it takes an image for an IP-Adapter; add one with --part {IP_ADAPTER}=owner/name/file"
    ".safetensors --part image_encoder=owner/name/folder"
)
OF_MODULAR = "it takes an image for an IP-Adapter, which modular pipelines are served without"

ONE_ADAPTER = "StableDiffusion3"
"""Beginning of the names of the classes that diffusers loads one IP-Adapter into, with one image.
"""


def check_adapters(call: PipelineCall, count: int) -> None:
    """Raise ``Misconfigured`` if the pipeline does not run with so many IP-Adapters."""
    if count and ADAPTER_IMAGES.isdisjoint(call.arguments):
        raise Misconfigured(
            f"{call.name} takes no image for an IP-Adapter: leave out --part {IP_ADAPTER}."
        )
    if count > 1 and call.name.startswith(ONE_ADAPTER):
        raise Misconfigured(
            f"diffusers loads one IP-Adapter into {call.name}, and --part {IP_ADAPTER} is given "
            f"{count} times. Name one file."
        )


def adapter_fields(call: PipelineCall, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Fields for the images of so many IP-Adapters and for their scales: of several, lists with a
    value for each."""
    if count == 0 or call.is_modular:
        return
    for name in call.arguments:
        if name not in ADAPTER_IMAGES:
            continue
        if count == 1:
            yield f"{name}_url", {"type": "image", "argument": name, "as_is": True}
        else:
            length = {"least": count, "most": count}
            yield f"{name}_urls", {"type": "images", "argument": name, **length}
    if count == 1 and not call.name.startswith(ONE_ADAPTER):
        about = f"More images that the IP-Adapter looks at, together with {ADAPTER_IMAGE}_url."
        more = {"type": "images", "argument": ADAPTER_IMAGE, "about": about}
        yield f"{ADAPTER_IMAGE}_urls", more
    about = f"How much the image of {'the' if count == 1 else 'each'} IP-Adapter counts"
    scale = {"type": "number", "argument": ADAPTER_SCALE, "default": 1.0, "least": 0, "most": 1}
    scale["about"] = f"{about}; 0: as without it."
    yield f"{IP_ADAPTER}_scale", scale if count == 1 else list_of_numbers(scale, count)
