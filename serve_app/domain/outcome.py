"""How an attempt ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serve_app.domain.artifact import Artifact
from serve_app.domain.by_name import by_name


@by_name
@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it is stored and shown: the code and message of a ``GenerationError``.

    ``field`` names the input field at fault, if one is (an input that only the pipeline could
    refuse); inside another one with dots, as ``loras.0.path``. ``type`` and ``context`` are those
    of its ``FieldProblem``.
    """

    code: str
    message: str
    retryable: bool
    field: str | None = None
    type: str | None = None
    context: Mapping[str, Any] | None = None


@by_name
@dataclass(frozen=True, slots=True)
class Usage:
    """What one attempt consumed."""

    run_s: float = 0.0  # wall seconds on the replica, from start to upload
    steps: int = 0  # denoiser steps done
    units: float = 0.0  # the endpoint's billing unit, megapixels for pictures


@by_name
@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of an attempt: ``output`` and ``artifacts``, or a ``failure``.

    ``output`` is JSON. A file in it is written as ``{"artifact": key, …}``; the wire module that
    hands the output out puts a URL there, so a stored outcome knows no host name.
    """

    output: Mapping[str, Any] | None = None
    artifacts: tuple[Artifact, ...] = ()
    failure: Failure | None = None
    usage: Usage = field(default_factory=Usage)

    @property
    def succeeded(self) -> bool:
        return self.failure is None
