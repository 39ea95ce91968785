"""Routes of resources, from their declarations.

A handler is a function of the call and the resource's key that reads or changes one resource. What
is the same for all stands here: authentication, whose resources the call is about, the audit of
reads of other tenants, pages, bodies, the answer for an unknown key, and the description of the
call.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import Forbidden, NotFound
from serve_app.domain.executors.secrets import INSTALLATION
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import actor_of, authenticate, record_read
from serve_app.ingress.http.body import read_model
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.openapi import (
    Answer,
    DocumentedRoute,
    Operation,
    Parameter,
    answer,
    in_path,
    in_query,
    pascal,
)
from serve_app.ingress.services.services import Services, services_of
from serve_app.resources.declaration import Owner, Resource, plain
from serve_app.tenants.scopes import OPERATOR, Caller

MAX_BODY_BYTES = 16 * 1024
MAX_LISTED = 1000
"""Resources in an answer, and its default: most tenants have fewer."""

Row = TypeVar("Row")
Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Call:
    """An authenticated call. ``owner``: tenant whose resources it is about, or ``INSTALLATION``."""

    request: HttpRequest
    services: Services
    caller: Caller
    owner: str

    @property
    def actor(self) -> Actor:
        return actor_of(self.request)

    def flag(self, name: str) -> bool:
        """Query parameter that is true or, by default, false."""
        return query.yes_no(self.request, name, default=False)


@dataclass(frozen=True, slots=True)
class ResourceList(Generic[Row]):
    """Resources, and what their list says about all of them."""

    rows: Sequence[Row]
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])


List = Callable[[Call], Awaitable[Sequence[Row] | ResourceList[Row]]]
Show = Callable[[Call, str], Awaitable[Row | None]]
Change = Callable[[Call, str, Body], Awaitable[Row]]
Create = Callable[[Call, Body], Awaitable[Row]]
Delete = Callable[[Call, str], Awaitable[bool]]


class Calls(Generic[Row]):
    """Routes of a resource. Each method adds one, and its ``summary`` describes it."""

    def __init__(self, resource: Resource[Row]) -> None:
        self.resource = resource
        self.routes: list[DocumentedRoute] = []

    def list(
        self,
        summary: str,
        *,
        about: Mapping[str, Any] | None = None,
        parameters: Sequence[Parameter] = (),
    ) -> Callable[[List[Row]], List[Row]]:
        """``about``: types of the values beside the resources."""
        resource = self.resource
        types = {
            resource.items: list[cast("Any", resource.model)],
            **(about or {}),
            "next_cursor": str | None,
            "has_more": bool,
        }
        page = cast("Any", TypedDict)(f"{pascal(_slug(resource.plural))}Page", types)

        def add(read: List[Row]) -> List[Row]:
            async def handler(request: HttpRequest) -> Response:
                call = await self._call(request, "list", reads=True)
                limit = query.page_size(request, default=MAX_LISTED, most=MAX_LISTED)
                found = await read(call)
                listing = found if isinstance(found, ResourceList) else ResourceList(found)
                rows = self._after(query.text(request, "cursor"), listing.rows)
                shown, more = rows[:limit], len(rows) > limit
                body = {
                    resource.items: plain(shown),
                    **plain(listing.about),
                    "next_cursor": str(getattr(shown[-1], resource.key)) if more else None,
                    "has_more": more,
                }
                return json_reply(body)

            paging = (
                in_query("limit", f"At most so many; 1 to {MAX_LISTED}.", int),
                in_query("cursor", "`next_cursor` of the answer before."),
            )
            self._add(
                "GET",
                resource.path,
                handler,
                Operation(
                    f"list{pascal(_slug(resource.plural))}",
                    self._needs("GET", summary),
                    {200: answer(f"The {resource.plural}.", page)},
                    errors=(403, 404, 422),
                    parameters=(*parameters, *self._owners(), *paging),
                ),
            )
            return read

        return add

    def show(self, summary: str) -> Callable[[Show[Row]], Show[Row]]:
        def add(read: Show[Row]) -> Show[Row]:
            async def handler(request: HttpRequest) -> Response:
                call = await self._call(request, "show", reads=True)
                found = await read(call, self._key(request))
                if found is None:
                    raise self._unknown(request)
                return json_reply(plain(found))

            self._one("GET", "get", summary, handler, errors=(403, 404, 422))
            return read

        return add

    def put(
        self, summary: str, body: type[Body], *, max_bytes: int = MAX_BODY_BYTES
    ) -> Callable[[Change[Body, Row]], Change[Body, Row]]:
        """Create one, or replace one with this key."""

        def add(write: Change[Body, Row]) -> Change[Body, Row]:
            async def handler(request: HttpRequest) -> Response:
                call = await self._call(request, "set")
                new = await read_model(request, body, max_bytes)
                return json_reply(plain(await write(call, self._key(request), new)))

            self._one("PUT", "set", summary, handler, errors=(403, 404, 413, 422), body=body)
            return write

        return add

    def create(
        self, summary: str, body: type[Body], *, max_bytes: int = MAX_BODY_BYTES
    ) -> Callable[[Create[Body, Row]], Create[Body, Row]]:
        resource = self.resource

        def add(write: Create[Body, Row]) -> Create[Body, Row]:
            async def handler(request: HttpRequest) -> Response:
                call = await self._call(request, "create")
                new = await read_model(request, body, max_bytes)
                return json_reply(plain(await write(call, new)), 201)

            self._add(
                "POST",
                resource.path,
                handler,
                Operation(
                    f"create{self._pascal}",
                    self._needs("POST", summary),
                    {201: answer(f"The {resource.name}.", resource.model)},
                    errors=(403, 404, 413, 422, 503),
                    parameters=self._owners(),
                    body=body,
                ),
            )
            return write

        return add

    def delete(
        self, summary: str, parameters: Sequence[Parameter] = ()
    ) -> Callable[[Delete], Delete]:
        """The handler returns False if there is none."""

        def add(remove: Delete) -> Delete:
            async def handler(request: HttpRequest) -> Response:
                call = await self._call(request, "delete")
                if not await remove(call, self._key(request)):
                    raise self._unknown(request)
                return Response(status_code=204)

            self._one(
                "DELETE",
                "delete",
                summary,
                handler,
                errors=(403, 404, 422),
                answers={204: Answer("It is deleted.")},
                parameters=parameters,
            )
            return remove

        return add

    # Implementation

    @property
    def _pascal(self) -> str:
        return pascal(_slug(self.resource.name))

    def _one(
        self,
        method: str,
        verb: str,
        summary: str,
        handler: Callable[[HttpRequest], Awaitable[Response]],
        *,
        errors: Sequence[int],
        answers: Mapping[int, Answer] | None = None,
        body: Any = None,
        parameters: Sequence[Parameter] = (),
    ) -> None:
        resource = self.resource
        operation = Operation(
            f"{verb}{self._pascal}",
            self._needs(method, summary),
            answers or {200: answer(f"The {resource.name}.", resource.model)},
            errors=errors,
            parameters=(
                in_path(resource.parameter, resource.key_description),
                *parameters,
                *self._owners(),
            ),
            body=body,
        )
        self._add(method, f"{resource.path}/{{{resource.parameter}}}", handler, operation)

    def _add(
        self,
        method: str,
        path: str,
        handler: Callable[[HttpRequest], Awaitable[Response]],
        operation: Operation,
    ) -> None:
        self.routes.append(DocumentedRoute(path, handler, {method: operation}))

    def _needs(self, method: str, summary: str) -> str:
        resource = self.resource
        scope = resource.scope if method == "GET" else resource.change_scope or resource.scope
        return f"{summary}. Needs the scope `{scope}`"

    def _owners(self) -> Sequence[Parameter]:
        tenant = in_query("tenant", "Another tenant. Needs the scope `operator`.")
        installation = in_query(
            "installation", "`true`: those of the installation. Needs the scope `operator`.", bool
        )
        return {
            Owner.TENANT: (tenant,),
            Owner.TENANT_OR_INSTALLATION: (tenant, installation),
        }.get(self.resource.owner, ())

    async def _call(self, request: HttpRequest, verb: str, *, reads: bool = False) -> Call:
        """Authenticate. ``Forbidden``: the call is about resources of another owner."""
        context_of(request).route = f"{self.resource.path.strip('/').replace('/', '.')}.{verb}"
        caller = await authenticate(request)
        services = services_of(request)
        owner = await self._owner(request, caller, services)
        if reads and owner not in (caller.tenant, INSTALLATION):
            await record_read(request, caller, owner)
        return Call(request, services, caller, owner)

    async def _owner(self, request: HttpRequest, caller: Caller, services: Services) -> str:
        match self.resource.owner:
            case Owner.CALLER:
                return caller.tenant
            case Owner.INSTALLATION:
                return INSTALLATION
            case _:
                pass
        tenant = query.text(request, "tenant")
        plural = self.resource.plural.capitalize()
        if self.resource.owner is Owner.TENANT_OR_INSTALLATION and query.yes_no(
            request, "installation", default=False
        ):
            if not caller.may(OPERATOR):
                raise Forbidden(f"{plural} of the installation need the scope `operator`.")
            if tenant is not None:
                raise query.invalid("tenant", "should not be set with installation", tenant)
            return INSTALLATION
        if tenant is None or tenant == caller.tenant:
            return caller.tenant
        if not caller.may(OPERATOR):
            raise Forbidden(f"{plural} of another tenant need the scope `operator`.")
        await services.identity.tenants.find(tenant)
        return tenant

    def _key(self, request: HttpRequest) -> str:
        return str(request.path_params[self.resource.parameter])

    def _unknown(self, request: HttpRequest) -> NotFound:
        resource = self.resource
        return NotFound(
            f"There is no {resource.name} {self._key(request)[:64]}. GET {resource.path} lists "
            "those that there are."
        )

    def _after(self, cursor: str | None, rows: Sequence[Row]) -> Sequence[Row]:
        if cursor is None:
            return rows
        keys = [str(getattr(each, self.resource.key)) for each in rows]
        if cursor not in keys:
            raise query.invalid("cursor", "is of no page; read the list from its start", cursor)
        return rows[keys.index(cursor) + 1 :]


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name)
