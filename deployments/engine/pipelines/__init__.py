"""Pipelines made of diffusers' components that diffusers has no class for.

The command line reads their calls from the source, as it does those of diffusers.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import diffusers

from deployments.engine.interception.modular import is_pipeline

MODULES = {"FluxReduxPipeline": "flux_redux"}
"""Class → module of this package."""


def pipeline_class(name: str) -> type | None:
    """Class of a pipeline of this package or of diffusers; None if neither has it."""
    home: Any = import_module(f"{__name__}.{MODULES[name]}") if name in MODULES else diffusers
    kind = getattr(home, name, None)
    return kind if is_pipeline(kind) else None
