"""Endpoint options that change the loaded pipeline: a merged LoRA, a scheduler, VAE tiling.

Two endpoints with different options of this kind over the same weights are two loaded pipelines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Misconfigured
from weights.selection import LORA_FILE

PIPELINE_OPTIONS = ("dtype", "adapter", "solver", "tiling")
"""Options that require a separate loaded pipeline over the same weights."""

_FRAMES = "tile_sample_min_num_frames"

LORA_KEYS = {"hub", "revision", "directory", "file", "scale"}


def apply_options(pipeline: Any, endpoint: Endpoint) -> Any:
    """Change ``pipeline`` permanently as the endpoint's options say. Runs on the loader's thread.

    ``adapter``: ``{directory}`` with ``file`` and ``scale``, which default to diffusers' own file
    name and 1. A LoRA of the hub (``{hub, revision}``) has already been downloaded to a directory.
    ``solver``: ``{name, …}``, a scheduler class of diffusers and the values that differ from the
    configuration that came with the weights.
    ``tiling``: true makes the autoencoder process large images in overlapping tiles; a mapping has
    the arguments of its ``enable_tiling``. With a number of frames, long videos are tiled in time.
    Raises ``Misconfigured``, which names the endpoint, and ``WeightsUnavailable`` if the LoRA
    cannot be read.
    """
    if (lora := _option(endpoint, "adapter")) is not None:
        from deployments.engine.lora.format import merge_lora  # noqa: PLC0415

        _check_lora(endpoint, lora)
        file = Path(lora["directory"]) / _name(lora)
        try:
            merge_lora(pipeline, file, float(lora.get("scale", 1.0)))
        except Misconfigured as error:
            raise Misconfigured(f"{endpoint.id}: {error.message}") from error
    if (solver := _option(endpoint, "solver")) is not None:
        from deployments.engine.interception.pipeline import set_scheduler  # noqa: PLC0415

        try:
            set_scheduler(pipeline, **solver)
        except (Misconfigured, TypeError) as error:
            raise Misconfigured(f"{endpoint.id}: `options.solver`: {error}") from error
    if endpoint.options.get("tiling"):
        _tile(pipeline, endpoint)
    return pipeline


def options_name(options: Mapping[str, Any]) -> str:
    """Text that distinguishes the pipeline options of two endpoints. Empty if there are none."""
    values = [options[name] for name in PIPELINE_OPTIONS if options.get(name) is not None]
    texts = [
        each if isinstance(each, str) else json.dumps(each, sort_keys=True, separators=(",", ":"))
        for each in values
    ]
    return "".join(f":{text}" for text in texts)


def _tile(pipeline: Any, endpoint: Endpoint) -> None:
    requested = endpoint.options["tiling"]
    sizes: Mapping[str, Any] = {} if requested is True else _option(endpoint, "tiling") or {}
    vae: Any = getattr(pipeline, "vae", None)
    if (enable := getattr(vae, "enable_tiling", None)) is None:
        raise Misconfigured(
            f"{endpoint.id}: `options.tiling`: the autoencoder of {type(pipeline).__name__} does "
            "not support tiles. Remove the option."
        )
    try:
        enable(**sizes)
    except (NotImplementedError, TypeError) as error:  # raised by autoencoders without tiling
        raise Misconfigured(f"{endpoint.id}: `options.tiling`: {error}") from error
    if _FRAMES in sizes and hasattr(vae, "use_framewise_decoding"):
        vae.use_framewise_decoding = True  # enable_tiling does not switch this on


def _option(endpoint: Endpoint, name: str) -> Mapping[str, Any] | None:
    given = endpoint.options.get(name)
    if given is not None and not isinstance(given, Mapping):
        raise Misconfigured(
            f"{endpoint.id}: `options.{name}` is {given!r}; it must be a mapping "
            "(docs/reference/catalogue.md)."
        )
    return cast("Mapping[str, Any] | None", given)


def _check_lora(endpoint: Endpoint, lora: Mapping[str, Any]) -> None:
    unknown = lora.keys() - LORA_KEYS
    if unknown or ("hub" in lora) == ("directory" in lora):
        raise Misconfigured(
            f"{endpoint.id}: `options.adapter` takes `hub` with `revision` or `directory`, and "
            f"`file` and `scale`; found: {', '.join(sorted(lora)) or 'nothing'}."
        )
    if not _name(lora).endswith(".safetensors"):
        raise Misconfigured(
            f"{endpoint.id}: `options.adapter` names {_name(lora)}, which is not a "
            "*.safetensors file. Pickle files can run code and are never loaded."
        )


def _name(lora: Mapping[str, Any]) -> str:
    return str(lora.get("file", LORA_FILE))
