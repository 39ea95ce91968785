"""Outcome of an attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serve_app.domain.artifact import Artifact
from serve_app.domain.serialization import pickle_by_name

FRAMES = "frames"
"""Field of a realtime session's output: the number of its frames, which are billed one by one.
Sessions of apps have none."""


@pickle_by_name
@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it is stored and shown: code and message of a ``GenerationError``.

    ``field`` names the input field that caused it, if there is one (only the pipeline could refuse
    such an input). Nested fields are written with dots, as ``loras.0.path``. ``type`` and
    ``context`` are those of its ``FieldProblem``.
    """

    code: str
    message: str
    retryable: bool
    field: str | None = None
    type: str | None = None
    context: Mapping[str, Any] | None = None


@pickle_by_name
@dataclass(frozen=True, slots=True)
class Usage:
    """Consumption of one attempt."""

    run_s: float = 0.0  # wall-clock seconds on the replica, from start to upload
    steps: int = 0  # denoiser steps done
    units: float = 0.0  # the endpoint's billing unit, such as megapixels for images
    share: float = 1.0  # of the outputs' steps; less for drafts, and for what goes on from one


@pickle_by_name
@dataclass(frozen=True, slots=True)
class Outcome:
    """End of an attempt: ``output`` and ``artifacts``, or a ``failure``.

    ``output`` is JSON. A file in it is written as ``{"artifact": key, …}``. The protocol module
    that returns the output puts a URL there, so a stored outcome contains no host name.
    """

    output: Mapping[str, Any] | None = None
    artifacts: tuple[Artifact, ...] = ()
    failure: Failure | None = None
    usage: Usage = field(default_factory=Usage)
    drafts: tuple[Artifact, ...] = ()
    """Files of the drafts in ``output["drafts"]``, in the same order. Not stored with it."""

    @property
    def succeeded(self) -> bool:
        return self.failure is None

    @property
    def thumbnails(self) -> tuple[Artifact, ...]:
        """Small images of the artifacts that have one."""
        return tuple(
            artifact.thumbnail for artifact in self.artifacts if artifact.thumbnail is not None
        )
