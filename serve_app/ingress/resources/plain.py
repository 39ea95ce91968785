"""Calls that need no code of their own: rows of a table are listed, shown, set and deleted as the
resource's declaration says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel

from serve_app.domain.errors import InvalidInput
from serve_app.ingress.http.openapi import DocumentedRoute
from serve_app.ingress.resources.calls import Call, Calls
from serve_app.resources.declaration import Resource

Row = TypeVar("Row")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def plain_routes(resources: Sequence[Resource[Any]]) -> Sequence[DocumentedRoute]:
    """Routes of the resources that ``PostgresTable`` keeps. Special ones are beside them."""
    return [route for resource in resources if resource.table for route in _calls(resource).routes]


def full(resource: Resource[Any]) -> InvalidInput:
    """Refusal of one more than an owner may have."""
    message = (
        f"There are {resource.max_per_owner} {resource.plural} already, and no more are possible. "
        "Delete one"
    )
    return InvalidInput.of_field(resource.key, message)


def _calls(resource: Resource[Row]) -> Calls[Row]:
    calls = Calls(resource)

    @calls.list(f"List {resource.plural} {resource.listed}".rstrip())
    async def list_(call: Call) -> Sequence[Row]:
        return await call.services.tables.of(resource).list(call.owner)

    async def show(call: Call, key: str) -> Row | None:
        rows = await call.services.tables.of(resource).list(call.owner)
        return next((row for row in rows if getattr(row, resource.key) == key), None)

    async def put(call: Call, key: str, new: BaseModel) -> Row:
        if _KEY.fullmatch(key) is None:
            message = (
                "should be 1 to 128 letters, digits, _, . and -, and begin with a letter or digit"
            )
            raise InvalidInput.of_field(resource.key, message)
        table = call.services.tables.of(resource)
        row = await table.put(call.owner, key, new.model_dump(), call.actor)
        if row is None:
            raise full(resource)
        return row

    async def delete(call: Call, key: str) -> bool:
        return await call.services.tables.of(resource).delete(call.owner, key, call.actor)

    if resource.has_show:
        calls.show(f"Show {resource.name_with_article}")(show)
    if resource.body is not None:
        calls.put(f"Set or replace {resource.name_with_article}", resource.body)(put)
    if resource.deletion:
        calls.delete()(delete)
    return calls
