"""What an endpoint's options change about the weights it names: an adapter, a solver, tiles.

Two endpoints with other amendments over the same weights are two loaded pipelines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Misconfigured
from weights.selection import ADAPTER_FILE

AMENDMENTS = ("dtype", "adapter", "solver", "tiling")
"""Options that make another pipeline of the same weights."""

_FRAMES = "tile_sample_min_num_frames"

ADAPTER_KEYS = {"hub", "revision", "directory", "file", "scale"}


def amended(pipeline: Any, endpoint: Endpoint) -> Any:
    """``pipeline``, changed for good as the options say. On the loader's thread.

    ``adapter``: ``{directory}``, which one of the hub (``{hub, revision}``) lies in by then, with
    ``file`` and ``scale`` if they are not diffusers' own name and 1. ``solver``: ``{name, …}``, a
    scheduler class of diffusers and what differs from the configuration that came with the weights.
    ``tiling``: true, so that the autoencoder takes what is large in overlapping tiles, or a mapping
    of arguments of its ``enable_tiling``; with a number of frames it takes what is long in such.
    ``Misconfigured`` names the endpoint; ``WeightsUnavailable`` where the adapter cannot be had.
    """
    if (adapter := _option(endpoint, "adapter")) is not None:
        from deployments.engine.adapter_merge import merge_adapter  # noqa: PLC0415

        _check_adapter(endpoint, adapter)
        file = Path(adapter["directory"]) / _name(adapter)
        try:
            merge_adapter(pipeline, file, float(adapter.get("scale", 1.0)))
        except Misconfigured as error:
            raise Misconfigured(f"{endpoint.id}: {error.message}") from error
    if (solver := _option(endpoint, "solver")) is not None:
        from deployments.engine.solver import set_solver  # noqa: PLC0415

        try:
            set_solver(pipeline, **solver)
        except (Misconfigured, TypeError) as error:
            raise Misconfigured(f"{endpoint.id}: `options.solver`: {error}") from error
    if endpoint.options.get("tiling"):
        _tile(pipeline, endpoint)
    return pipeline


def amendments_name(options: Mapping[str, Any]) -> str:
    """Tells the amendments of two endpoints apart; empty without any."""
    said = [options[name] for name in AMENDMENTS if options.get(name) is not None]
    texts = [
        each if isinstance(each, str) else json.dumps(each, sort_keys=True, separators=(",", ":"))
        for each in said
    ]
    return "".join(f":{text}" for text in texts)


def _tile(pipeline: Any, endpoint: Endpoint) -> None:
    asked = endpoint.options["tiling"]
    sizes: Mapping[str, Any] = {} if asked is True else _option(endpoint, "tiling") or {}
    vae: Any = getattr(pipeline, "vae", None)
    if (enable := getattr(vae, "enable_tiling", None)) is None:
        raise Misconfigured(
            f"{endpoint.id}: `options.tiling`: {type(pipeline).__name__} has no autoencoder that "
            "takes tiles."
        )
    try:
        enable(**sizes)
    except (NotImplementedError, TypeError) as error:  # what diffusers' own do that have none
        raise Misconfigured(f"{endpoint.id}: `options.tiling`: {error}") from error
    if _FRAMES in sizes and hasattr(vae, "use_framewise_decoding"):
        vae.use_framewise_decoding = True  # which is apart from the tiles of pixels


def _option(endpoint: Endpoint, name: str) -> Mapping[str, Any] | None:
    given = endpoint.options.get(name)
    if given is not None and not isinstance(given, Mapping):
        raise Misconfigured(
            f"{endpoint.id}: `options.{name}` is {given!r}; it has to be a mapping "
            "(docs/11-catalogue.md)."
        )
    return cast("Mapping[str, Any] | None", given)


def _check_adapter(endpoint: Endpoint, adapter: Mapping[str, Any]) -> None:
    unknown = adapter.keys() - ADAPTER_KEYS
    if unknown or ("hub" in adapter) == ("directory" in adapter):
        raise Misconfigured(
            f"{endpoint.id}: `options.adapter` takes `hub` with `revision` or `directory`, and "
            f"`file` and `scale`; given: {', '.join(sorted(adapter)) or 'nothing'}."
        )
    if not _name(adapter).endswith(".safetensors"):
        raise Misconfigured(
            f"{endpoint.id}: `options.adapter` names {_name(adapter)}, which is no *.safetensors; "
            "a pickle can run code and is never loaded."
        )


def _name(adapter: Mapping[str, Any]) -> str:
    return str(adapter.get("file", ADAPTER_FILE))
