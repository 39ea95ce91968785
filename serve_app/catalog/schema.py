"""What the input of an endpoint may look like. Each schema is built once per endpoint, at start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from serve_app.catalog.flux import FluxTextToImage
from serve_app.catalog.open import OpenInput
from serve_app.domain.endpoint import Endpoint


class InputSchema(Protocol):
    """Checks inputs of one endpoint."""

    def validate(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The input with its defaults, and warnings; ``InvalidInput`` names the fields at fault."""
        ...

    def media_types(self, input: Mapping[str, Any]) -> tuple[str, ...]:
        """One media type for each file that a valid input may produce."""
        ...

    def json_schema(self) -> dict[str, Any]: ...


SCHEMAS: Mapping[str, Callable[[Endpoint], InputSchema]] = {
    "flux-text-to-image": FluxTextToImage,
    "open": OpenInput,
}
"""Name in the catalogue → how to build it. ``ValueError`` for settings that it cannot use."""
