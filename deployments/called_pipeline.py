"""The pipeline that an endpoint's options say is called over its loaded components."""

from __future__ import annotations

from typing import Any

from deployments.call_mapping import CallMapping, check
from deployments.picture_output import own_dtype
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Misconfigured


def loaded(endpoint: Endpoint, mapping: CallMapping, device: str) -> Any:
    """The pipeline for the endpoint's weights, on the CPU, as the mapping can call it; bfloat16 on
    a GPU unless its options say otherwise. ``Misconfigured`` where it cannot be called so."""
    from deployments.engine.loader import load_pipeline  # noqa: PLC0415

    pipeline = load_pipeline(endpoint.weights, dtype=own_dtype(endpoint, device, "bfloat16"))
    check(endpoint, mapping, called_by(endpoint, mapping, pipeline))
    return pipeline


def called_by(endpoint: Endpoint, mapping: CallMapping, pipeline: Any) -> type:
    """Its class. ``Misconfigured`` where diffusers has none of that name."""
    if mapping.pipeline is None:
        return type(pipeline)
    import diffusers  # noqa: PLC0415

    kind = getattr(diffusers, mapping.pipeline, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
        raise Misconfigured(
            f"{endpoint.id}: diffusers {diffusers.__version__} has no pipeline "
            f"{mapping.pipeline!r} (`options.pipeline` in the catalogue)."
        )
    return kind


def view_for(endpoint: Endpoint, pipeline: Any, called: type) -> Any:
    """One of that class over the same weights. ``Misconfigured`` where it needs other parts."""
    from deployments.engine.views import view_of  # noqa: PLC0415

    try:
        return view_of(pipeline, called)
    except TypeError as error:
        raise Misconfigured(
            f"{endpoint.id}: {called.__name__} (`options.pipeline` in the catalogue) cannot be "
            f"made of the parts of {type(pipeline).__name__}: {error}"
        ) from error
