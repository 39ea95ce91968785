"""A half-done generation, as bytes: safetensors with JSON in its header, and no code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from deployments.engine.belongings import Tree
from deployments.engine.call_log import Form
from deployments.engine.fingerprint import of_arguments, of_pipeline
from serve_app.domain.errors import SnapshotRefused

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Origin:
    """What has to be equal where the generation goes on."""

    format: int
    torch: str
    diffusers: str
    device: str  # cpu, cuda …
    pipeline: str  # its class
    made_of: str  # a digest of its components' classes and configurations
    arguments: str  # a digest

    @classmethod
    def here(cls, pipeline: Any, arguments: Mapping[str, Any], device: str) -> Origin:
        return cls(
            FORMAT,
            torch.__version__,
            diffusers.__version__,
            device.partition(":")[0],
            type(pipeline).__qualname__,
            of_pipeline(pipeline),
            of_arguments(arguments),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Of a generation that waits for a call of a denoiser, or of its autoencoder after the last.

    It goes on from the contents of its pipeline's frames (``frames``, and the arguments of the
    ``call``), or, where ``outputs`` is there, by giving the pipeline the same outputs again.
    """

    origin: Origin
    adapters: Sequence[str]  # digests and scales
    step: int  # steps of its solver that were done
    denoisers: Sequence[str]  # the names of the components that suspended it
    calls: Sequence[tuple[str, Form]]  # before this one: the component, and what it gave
    frames: Sequence[Mapping[str, Any]]  # {"place": …, "locals": {name: tree}}, innermost first
    call: Tree  # its arguments and keywords; where there are outputs, a digest of them
    outputs: Sequence[Tree] | None
    tensors: Mapping[str, torch.Tensor]  # on the CPU
    awaits: str = ""  # the autoencoder's method that it waits for; empty: a denoiser

    def to_bytes(self) -> bytes:
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        told |= {"origin": asdict(self.origin)}
        del told["tensors"]
        return save(dict(self.tensors), metadata={_KEY: json.dumps(told)})

    @classmethod
    def of_bytes(cls, given: bytes) -> Snapshot:
        """``SnapshotRefused`` for bytes that are none, or of another format."""
        try:
            size = int.from_bytes(given[:8], "little")
            told = json.loads(json.loads(given[8 : 8 + size])["__metadata__"][_KEY])
            origin = told.pop("origin")
            if origin["format"] != FORMAT:
                raise SnapshotRefused(
                    f"The snapshot has the format {origin['format']}, and this version of Darkroom "
                    f"reads {FORMAT}. Start the generation anew."
                )
            return cls(origin=Origin(**origin), tensors=load(given), **told)
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise SnapshotRefused(
                "These bytes are no snapshot of a generation. Give those that snapshot() returned."
            ) from error

    def require(self, here: Origin) -> None:
        """``SnapshotRefused`` where a generation cannot go on with it."""
        for name, what in _EQUAL.items():
            was, is_now = getattr(self.origin, name), getattr(here, name)
            if was != is_now:
                told = "" if name in _DIGESTS else f" ({was} there, {is_now} here)"
                raise SnapshotRefused(
                    f"The snapshot is of {what}{told}. Submit it as it was submitted the first "
                    "time, or start the generation anew."
                )

    def require_adapters(self, here: Sequence[str]) -> None:
        """The same for its adapters, which are known only when they have been read."""
        if list(here) != list(self.adapters):
            raise SnapshotRefused(
                "The snapshot is of a generation with other adapters or scales. Submit it as it "
                "was submitted the first time, or start the generation anew."
            )


_KEY = "darkroom"
_DIGESTS = ("made_of", "arguments")
_EQUAL = {
    "torch": "another version of torch",
    "diffusers": "another version of diffusers",
    "device": "another kind of device",
    "pipeline": "another pipeline",
    "made_of": "a pipeline with other components",
    "arguments": "a call with other arguments",
}
