"""Several ControlNets that run together: the fields of a request that give each its own value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.cli.inspection.pipeline_call import PipelineCall
from serve_app.domain.errors import Misconfigured
from serve_app.options.inputs import CONTROL_MODE, CONTROL_SCALE

CONTROL = "control_image"
NUMBERS = frozenset({CONTROL_SCALE, "control_guidance_start", "control_guidance_end"})
"""Arguments with a number for each ControlNet."""

VIDEOS = "conditioning_frames"
"""Argument with a video for each ControlNet."""

MODES = ("num_mode", "num_control_type")
"""Setting of a ControlNet that says how many kinds of control image it knows."""

NO_MODE = -1
"""Mode for ControlNets of one kind of image: FLUX pipelines need a mode for each of several."""


@dataclass(frozen=True, slots=True)
class ControlNets:
    """ControlNets that are one component together."""

    class_name: str  # of the component
    configs: Sequence[Mapping[str, Any]]  # settings of each

    @property
    def count(self) -> int:
        return len(self.configs)

    def declaration(self, argument: str, declared: Mapping[str, Any]) -> dict[str, Any]:
        """Declaration of an argument's field: a list with a value for each, where it has them."""
        several = {**declared, "least": self.count, "most": self.count}
        if argument == CONTROL:
            # Each is fitted to the output, which other lists of images are not.
            return {**several, "type": "images", "as_is": False}
        if argument == CONTROL_MODE:
            return several | self._modes()
        return list_of_numbers(declared, self.count) if argument in NUMBERS else {**declared}

    def _modes(self) -> dict[str, Any]:
        stated = (config.get(name) for config in self.configs for name in MODES)
        known = [mode for mode in stated if isinstance(mode, int)]
        if not known:
            return {"type": "integers", "default": [NO_MODE] * self.count}
        # A mode that a ControlNet does not know is an index out of range on the device.
        bounds = {"item_least": 0, "item_most": min(known) - 1}
        return {"type": "integers", "required": True, **bounds}


def list_of_numbers(declared: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Declaration of a list with a number for each of several parts."""
    bounds = {f"item_{bound}": declared[bound] for bound in ("least", "most") if bound in declared}
    default = {"default": [declared["default"]] * count} if "default" in declared else {}
    length = {"least": count, "most": count}
    return {**declared, **length, "type": "numbers", **bounds, **default}


def check_control_nets(call: PipelineCall, nets: ControlNets | None) -> None:
    """Raise ``Misconfigured`` if the pipeline does not run these ControlNets together."""
    if nets is None:
        return
    if nets.class_name not in call.control_nets:
        raise Misconfigured(
            f"{call.name} does not take {nets.count} ControlNets together ({nets.class_name}). "
            "Name one, or a class that takes several with --pipeline, such as "
            "StableDiffusionXLControlNetPipeline or FluxControlNetPipeline."
        )
    if VIDEOS in call.arguments:
        raise Misconfigured(
            f"{call.name} needs a control video for each of its {nets.count} ControlNets, and "
            "requests give one. Name one ControlNet."
        )
