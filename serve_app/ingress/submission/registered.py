"""Registered weights that an input names: whose they are, and which file is meant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from serve_app.domain.errors import InvalidInput
from serve_app.domain.lora import HubFile, RegisteredFile, parse_lora_path
from serve_app.ingress.services.services import Services
from serve_app.registry.records import TenantWeights, WeightState

FIELD = "loras"
ERROR_TYPE = "adapter_path"
START = "weights:"


async def with_registered(
    services: Services, tenant: str, endpoint_id: str, input: Mapping[str, Any]
) -> dict[str, Any]:
    """``input`` with the digest of each registered LoRA in its path, so that the request means the
    same file also later. ``InvalidInput`` names the field of one that cannot be used.

    A digest that the client sends must be that of its own weights: replicas fetch by it.
    """
    if not _loras(input):
        return dict(input)
    return await _pinned(services, tenant, endpoint_id, input)


def _refuse_hub(loras: list[Any]) -> None:
    """Raise ``InvalidInput`` for a repository of the hub: replicas would read it with the
    operator's token."""
    for number, each in enumerate(loras):
        path = str(each.get("path", "")) if isinstance(each, Mapping) else ""
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
    given = input.get(FIELD)
    return cast("list[Any]", given) if isinstance(given, list) else []


async def _pinned(
    services: Services, tenant: str, endpoint_id: str, input: Mapping[str, Any]
) -> dict[str, Any]:
    loras, found = _loras(input), list[Any]()
    if not services.config.weights.share_hub_token:
        _refuse_hub(loras)
    for number, each in enumerate(loras):
        if _is_registered(each):
            field = f"{FIELD}.{number}.path"
            source = await _resolved(services, tenant, endpoint_id, each["path"], field)
            each = {**each, "path": str(source)}  # noqa: PLW2901
        found.append(each)
    return {**input, FIELD: found}


def _is_registered(lora: object) -> bool:
    return isinstance(lora, Mapping) and str(lora.get("path", "")).startswith(START)


async def _resolved(
    services: Services, tenant: str, endpoint_id: str, path: str, field: str
) -> RegisteredFile:
    try:
        named = cast("RegisteredFile", parse_lora_path(path))  # no other form begins like this
    except ValueError as error:
        raise InvalidInput.of_field(field, str(error), ERROR_TYPE) from None
    weights = await services.weights.find(named.tenant or tenant, named.name)
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
    services.check_weights(tenant, endpoint_id, repository, weights.digests, field)
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
