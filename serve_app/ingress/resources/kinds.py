"""``/v1/resources``: what the declarations say about the tables of resources, for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

from pydantic import Field

from serve_app.ingress.http.openapi import DocumentedRoute
from serve_app.ingress.resources.calls import Call, JsonCalls
from serve_app.resources.declaration import Column, Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceKind:
    """Kind of resources, as tables show them."""

    name: str
    plural: str
    about: Annotated[str, Field(description="What they are; empty: a part of the page says it.")]
    path: str
    items: Annotated[str, Field(description="Field of a list that has them.")]
    key: Annotated[str, Field(description="Field that names one in paths.")]
    cursor: Annotated[str, Field(description="Field that differs for all in a list.")]
    table_columns: Sequence[Column]
    scope: Annotated[str, Field(description="Of reads. Empty: any key.")]
    change_scope: Annotated[str, Field(description="Of changes, if it is another one.")]
    deletion: Annotated[str, Field(description="What a deletion does. Empty: there is none.")]
    delete_verb: str
    force: Annotated[str, Field(description="What `?force=true` of a deletion does, if it has it.")]
    restart: Annotated[str, Field(description="What a restart does. Empty: there is none.")]
    empty: Annotated[str, Field(description="Sentence on a list with none.")]
    below: Annotated[str, Field(description="Sentence below a list, with its fields in braces.")]


@dataclass(frozen=True, slots=True)
class ResourceKinds:
    resources: Sequence[ResourceKind]


def kind_routes(resources: Sequence[Resource[Any]]) -> Sequence[DocumentedRoute]:
    calls = JsonCalls()
    names = [field.name for field in fields(ResourceKind)]
    kinds = ResourceKinds(
        [
            ResourceKind(**{name: getattr(resource, name) for name in names})
            for resource in resources
        ]
    )

    @calls.call("/v1/resources", "listResources", "List the kinds of resources and their columns")
    async def list_kinds(call: Call) -> ResourceKinds:
        del call
        return kinds

    return calls.routes
