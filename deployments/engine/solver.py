"""Another solver for a loaded pipeline."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers

from serve_app.domain.errors import Misconfigured, Unsupported


def set_solver(pipeline: Any, name: str, **changes: Any) -> None:
    """Give ``pipeline`` the scheduler class ``name`` of diffusers, configured as the one that came
    with its weights but for ``changes``. ``Misconfigured`` for a class or a setting that is not
    there."""
    kind = getattr(diffusers, name, None)
    if not all(hasattr(kind, method) for method in ("from_config", "set_timesteps", "step")):
        raise Misconfigured(f"diffusers {diffusers.__version__} has no solver {name!r}.")
    solver: Any = kind
    known = inspect.signature(solver.__init__).parameters.keys() - {"self"}
    if unknown := sorted(changes.keys() - known):
        raise Misconfigured(
            f"{name} has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}."
        )
    pipeline.scheduler = solver.from_config(pipeline.scheduler.config, **changes)


def shifted(solver: Any, shift: float) -> Any:
    """A solver like ``solver`` whose schedule spends more of its steps on much noise, the more the
    greater ``shift`` is. ``Unsupported`` for one that has no such setting."""
    config = solver.config
    name = next((each for each in ("flow_shift", "shift") if each in config), None)
    if name is None or config.get("use_dynamic_shifting"):
        raise Unsupported(f"{type(solver).__name__} has no shift of its schedule to choose.")
    return type(solver).from_config(config, **{name: shift})
