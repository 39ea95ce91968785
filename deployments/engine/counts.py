"""What the engine has done, as plain numbers that only grow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deployments.engine.part import Part


@dataclass(slots=True)
class PartCounts:
    """Of one kind of components."""

    forwards: int = 0  # that gave somebody an output
    trial_forwards: int = 0  # run to verify a merge, or lost to one that failed
    merged_calls: int = 0  # calls that shared a forward
    single_calls: int = 0  # calls that had one to themselves
    batch_sizes: Counter[int] = field(default_factory=Counter[int])  # calls per forward
    not_merged: Counter[str] = field(default_factory=Counter[str])  # why a call was single

    def forward(self, calls: int) -> None:
        self.forwards += 1
        self.batch_sizes[calls] += 1
        if calls > 1:
            self.merged_calls += calls
        else:
            self.single_calls += calls

    def copy(self) -> dict[str, Any]:
        """By name; may be taken on any thread."""
        return {
            "forwards": self.forwards,
            "trial_forwards": self.trial_forwards,
            "merged_calls": self.merged_calls,
            "single_calls": self.single_calls,
            "batch_sizes": dict(self.batch_sizes),
            "not_merged": dict(self.not_merged),
        }


@dataclass(slots=True)
class Counts:
    """Written by the engine's thread alone."""

    steps: int = 0  # solver steps of all generations
    prompts_encoded: int = 0  # calls of text encoders that may be remembered
    prompts_remembered: int = 0  # such calls that were answered without computing
    seconds: dict[tuple[str, str], float] = field(  # that the device took, by pipeline and stage
        default_factory=dict[tuple[str, str], float]
    )
    parts: Mapping[Part, PartCounts] = field(
        default_factory=lambda: {part: PartCounts() for part in Part}
    )

    def took(self, lap: tuple[str, str], seconds: float) -> None:
        """``lap``: a pipeline's name and a stage."""
        self.seconds[lap] = self.seconds.get(lap, 0.0) + seconds

    def copy(self) -> Mapping[str, Any]:
        """By name; those of denoisers' calls at the top. May be taken on any thread."""
        return {
            "steps": self.steps,
            "prompts_encoded": self.prompts_encoded,
            "prompts_remembered": self.prompts_remembered,
            "seconds": dict(self.seconds),
            **self.parts[Part.DENOISER].copy(),
            "encoders": self.parts[Part.ENCODER].copy(),
            "autoencoders": self.parts[Part.AUTOENCODER].copy(),
        }
