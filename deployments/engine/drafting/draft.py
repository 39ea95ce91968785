"""Drafts: the first steps of a generation as bytes, from which others go on.

A draft holds what the solvers gave at its last step and their state then, and nothing that the
prompt, the guidance or the LoRAs decide: kilobytes to a few megabytes, in safetensors with JSON
metadata and no code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from deployments.engine.snapshot.call_log import Form
from deployments.engine.snapshot.format import Origin
from deployments.engine.snapshot.state import Tree
from serve_app.domain.errors import ForkRefused
from serve_app.domain.media.draft import step_of_draft

FORMAT = 2


@dataclass(frozen=True, slots=True)
class DraftPoint:
    """Where a generation stops as a draft: at the first of both that is reached, before its last
    step and after its first."""

    share: float = 1.0  # of the steps
    noise: float = 0.0  # share of noise in the latents, as ``NoiseLevel.share``

    def step_of(self, steps: int) -> int:
        """Step of ``steps`` after which the share is reached."""
        return step_of_draft(self.share, steps)


@dataclass(frozen=True, slots=True)
class RecordedSolver:
    """A solver after the draft's last step."""

    kind: str  # name of its class
    steps: int  # that it has made
    timesteps: Sequence[float]
    index: int | None  # its step_index; None for solvers without one
    output: Tree  # what its last step returned
    state: Tree
    clean: Tree  # estimate of the clean latents; None if unknown
    level: Sequence[float] | None  # signal and noise of the latents; None if unknown


@dataclass(frozen=True, slots=True)
class RecordedComponent:
    """Calls of one shape, of a denoiser that the draft called."""

    form: Form  # of its output
    shape: Sequence[int]  # of its first tensor, without the rows
    rows: int  # of its first argument
    listed: bool  # whether that argument is a list with an entry for each row
    in_steps: bool  # False: called before the first step only, for what all steps need


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """First ``step`` steps of a generation."""

    origin: Origin
    loras: Sequence[str]  # digests and scales
    step: int
    steps: int  # of the whole generation
    denoisers: Sequence[str]
    components: Mapping[str, Sequence[RecordedComponent]]
    solvers: Sequence[RecordedSolver]  # the main one first
    tensors: Mapping[str, torch.Tensor]  # on the CPU
    step_cache: str = ""  # settings of the step caches; empty without one
    step_caches: Mapping[str, Tree] = field(default_factory=dict[str, Tree])  # by component

    @property
    def noise(self) -> float | None:
        """Share of noise in the latents, as ``NoiseLevel.share``; None for an unknown scheduler."""
        level = self.solvers[0].level
        return None if level is None else level[1] / (level[0] + level[1])

    def to_bytes(self) -> bytes:
        header = {member.name: getattr(self, member.name) for member in fields(self)}
        header |= {
            "format": FORMAT,
            "origin": asdict(self.origin),
            "components": {
                name: [asdict(component) for component in recorded]
                for name, recorded in self.components.items()
            },
            "solvers": [asdict(solver) for solver in self.solvers],
        }
        del header["tensors"]
        return save(dict(self.tensors), metadata={_KEY: json.dumps(header)})

    @classmethod
    def of_bytes(cls, content: bytes) -> Draft:
        """Parse a draft. Raises ``ForkRefused`` for other bytes or another format."""
        try:
            size = int.from_bytes(content[:8], "little")
            header = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][_KEY])
            if (version := header.pop("format")) != FORMAT:
                raise ForkRefused(
                    f"The draft has format {version}, but this version of Darkroom reads format "
                    f"{FORMAT}. Make a new draft."
                )
            header["origin"] = Origin(**header["origin"])
            header["components"] = {
                name: [RecordedComponent(**component) for component in recorded]
                for name, recorded in header["components"].items()
            }
            header["solvers"] = [RecordedSolver(**solver) for solver in header["solvers"]]
            return cls(tensors=load(content), **header)
        except (
            *(ValueError, KeyError, TypeError, AttributeError, RecursionError),
            SafetensorError,
        ) as error:
            raise ForkRefused("These bytes are not a draft. Make a new one.") from error

    def require(self, here: Origin) -> None:
        """Raise ``ForkRefused`` if a generation with this origin cannot go on from it."""
        for name, what in _EQUAL.items():
            was, is_now = getattr(self.origin, name), getattr(here, name)
            if was != is_now:
                raise ForkRefused(f"The draft was made {what(was, is_now)}. Make a new one.")

    def is_unchanged(self, here: Origin, loras: Sequence[str], step_cache: str) -> bool:
        """Return whether a generation with these properties is the draft's own."""
        return (
            here.arguments == self.origin.arguments
            and list(loras) == list(self.loras)
            and step_cache == self.step_cache
        )


_KEY = "darkroom-draft"
_EQUAL: Mapping[str, Callable[[str, str], str]] = {
    "torch": lambda was, now: f"with torch {was}, and this replica has {now}",
    "diffusers": lambda was, now: f"with diffusers {was}, and this replica has {now}",
    "device": lambda was, now: f"on a {was} device, and this one is {now}",
    "pipeline": lambda was, now: f"by {was}, and this is {now}",
    "made_of": lambda _was, _now: "with other components or another configuration of them",
}
