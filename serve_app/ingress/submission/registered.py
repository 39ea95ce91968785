"""Registered weights that an input names: whose they are, and which file is meant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from serve_app.domain.errors import InvalidInput
from serve_app.domain.lora import HubFile, RegisteredFile, parse_lora_path
from serve_app.ingress.submission.admission import Submission
from serve_app.ingress.submission.safety import check_weights
from serve_app.registry.records import TenantWeights, WeightState

FIELD = "loras"
ERROR_TYPE = "adapter_path"
START = "weights:"


async def pin_weights(submission: Submission) -> None:
    """Put the digest of each registered LoRA into its path, so that the request means the same file
    also later. ``InvalidInput`` names the field of one that cannot be used.

    A digest that the client sends must be that of its own weights: replicas fetch by it.
    """
    loras, pinned = _loras(submission.input), list[Any]()
    if not loras:
        return
    if not submission.services.config.weights.share_hub_token:
        _refuse_hub(loras)
    for number, lora in enumerate(loras):
        if is_registered(lora):
            field = f"{FIELD}.{number}.path"
            source = await _resolve_lora(submission, lora["path"], field)
            pinned.append({**lora, "path": str(source)})
        else:
            pinned.append(lora)
    submission.input[FIELD] = pinned


def _refuse_hub(loras: list[Any]) -> None:
    """Raise ``InvalidInput`` for a repository of the hub: replicas would read it with the
    operator's token."""
    for number, lora in enumerate(loras):
        path = str(lora.get("path", "")) if isinstance(lora, Mapping) else ""
        try:
            source = parse_lora_path(path)
        except ValueError:
            continue
        if isinstance(source, HubFile):
            message = (
                "requests of this installation do not read from the hub. Register the LoRA with "
                "your own token: POST /v1/weights, and name it as weights:NAME"
            )
            raise InvalidInput.of_field(f"{FIELD}.{number}.path", message, ERROR_TYPE)


def _loras(input: Mapping[str, Any]) -> list[Any]:
    loras = input.get(FIELD)
    return cast("list[Any]", loras) if isinstance(loras, list) else []


def is_registered(lora: object) -> bool:
    """Return whether a LoRA is read from this installation, which other services cannot."""
    return isinstance(lora, Mapping) and str(lora.get("path", "")).startswith(START)


async def _resolve_lora(submission: Submission, path: str, field: str) -> RegisteredFile:
    try:
        named = cast("RegisteredFile", parse_lora_path(path))  # no other form begins like this
    except ValueError as error:
        raise InvalidInput.of_field(field, str(error), ERROR_TYPE) from None
    tenant = submission.tenant
    weights = await submission.services.weights.find(named.tenant or tenant, named.name)
    if weights is None or not may_use(weights, tenant):
        message = (
            f"You have no registered weights {named.name!r}: GET /v1/weights lists yours, and "
            "POST /v1/weights adds some"
        )
        raise InvalidInput.of_field(field, message, ERROR_TYPE)
    digest = _digest(weights, field)
    if named.digest not in ("", digest):
        message = f"The weights {named.name!r} have changed since. Leave out the @digest"
        raise InvalidInput.of_field(field, message, ERROR_TYPE)
    repository = str(weights.source.get("hub", ""))
    check_weights(submission, repository, weights.digests, field)
    return replace(named, digest=digest)


def may_use(weights: TenantWeights, tenant: str) -> bool:
    """Return whether the tenant may use the weights: its own, or published ones."""
    return weights.tenant == tenant or (weights.public and weights.state is WeightState.READY)


def _digest(weights: TenantWeights, field: str) -> str:
    if weights.state is WeightState.REFUSED:
        message = f"The weights {weights.name!r} were refused: {weights.problem}"
    elif weights.state is not WeightState.READY:
        message = f"The weights {weights.name!r} are not ready yet ({weights.state}). Wait a moment"
    elif weights.kind != "lora":
        place = f": send the request to {weights.endpoint}" if weights.endpoint else ""
        message = f"The weights {weights.name!r} are a fine-tune, not a LoRA{place}"
    else:
        return weights.files[0].digest
    raise InvalidInput.of_field(field, message, ERROR_TYPE)
