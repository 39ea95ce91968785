"""Routes of calls that answer JSON, from their declarations: of resources, and any others.

A handler is a function of the call, and for a resource of its key, that reads or changes something.
What is the same for all stands here: authentication, whose resources the call is about, the audit
of reads of other tenants, pages, bodies, the answer for an unknown key, and the description of the
call.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar, cast, get_type_hints

from pydantic import BaseModel
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import Forbidden, InvalidInput, NotFound
from serve_app.domain.executors.secrets import INSTALLATION
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import (
    actor_of,
    authenticate,
    authenticate_for_tenant,
    record_read,
)
from serve_app.ingress.http.body import read_json, read_model
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.openapi import (
    TAG,
    Answer,
    DocumentedRoute,
    Operation,
    Parameter,
    answer,
    in_path,
    in_query,
    pascal,
)
from serve_app.ingress.http.route_scopes import ANY_KEY
from serve_app.ingress.services.services import Services, services_of
from serve_app.resources.declaration import Owner, Resource, plain
from serve_app.tenants.scopes import OPERATOR, Caller

MAX_BODY_BYTES = 16 * 1024
MAX_LISTED = 1000
"""Resources in an answer, and its default: most tenants have fewer."""

Row = TypeVar("Row")
Body = TypeVar("Body")
Reply = TypeVar("Reply")


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
Create = Callable[[Call, Body], Awaitable[Reply]]
Change = Callable[[Call, str, Body], Awaitable[Reply]]
Act = Callable[[Call, str], Awaitable[Reply]]
Handle = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Special:
    """What is special about a call: ``reply``, the type that it answers with in place of the
    resource's model; its status; a scope of its own; more parameters and statuses of errors."""

    reply: Any = None
    status: int = 200
    scope: str = ""
    max_bytes: int = MAX_BODY_BYTES
    parameters: Sequence[Parameter] = ()
    errors: Sequence[int] = ()


TENANT = in_query("tenant", "Another tenant. Needs the scope `operator`.")
PLAIN, CREATED = Special(), Special(status=201)
DELETED = Special(status=204)
FORCE = in_query("force", "`true`: also while the endpoint has queued or running requests.", bool)


class JsonCalls:
    """Routes of calls that are about no resource. Each method adds one, which answers what its
    handler is declared to return. A handler that needs headers of its own returns a ``Response``,
    and ``reply`` is what that has.

    ``name``: of the call, unique in the description of the interface. ``tenants``: a plural noun,
    such as "Requests", if the call is about those of the tenant of ``?tenant=``.
    """

    def __init__(self) -> None:
        self.routes: list[DocumentedRoute] = []

    def call(
        self,
        path: str,
        name: str,
        summary: str,
        scope: str = ANY_KEY,
        *,
        method: str = "GET",
        reply: Any = None,
        parameters: Sequence[Parameter] = (),
        errors: Sequence[int] = (),
        tag: str = TAG,
        tenants: str = "",
        body: Any = None,
    ) -> Callable[[Handle[Reply]], Handle[Reply]]:
        async def begin(request: HttpRequest) -> Call:
            if tenants:
                caller, tenant = await authenticate_for_tenant(request, tenants)
            else:
                caller = await authenticate(request)
                tenant = caller.tenant
            return Call(request, services_of(request), caller, tenant)

        def add(handle: Handle[Reply]) -> Handle[Reply]:
            operation = Operation(
                name,
                summary,
                {200: answer("The answer.", reply or get_type_hints(handle)["return"])},
                errors=(*(() if body is None else (413, 422)), *errors),
                parameters=(*parameters, *((TENANT,) if tenants else ())),
                body=body,
                tag=tag,
            )
            label = ".".join(
                segment for segment in path.split("/") if segment and "{" not in segment
            )
            self.routes.append(_route(method, path, label, operation, scope, begin, handle))
            return handle

        return add

    def send(
        self,
        path: str,
        name: str,
        summary: str,
        body: type[Body],
        scope: str = ANY_KEY,
        *,
        errors: Sequence[int] = (),
        tag: str = TAG,
        max_bytes: int = MAX_BODY_BYTES,
    ) -> Callable[[Create[Body, Reply]], Create[Body, Reply]]:
        """A call with a body."""

        def add(write: Create[Body, Reply]) -> Create[Body, Reply]:
            async def handle(call: Call) -> Any:
                return await write(call, await _read(call.request, body, max_bytes))

            reply = get_type_hints(write)["return"]
            self.call(
                *(path, name, summary, scope),
                method="POST",
                reply=reply,
                errors=errors,
                tag=tag,
                body=body,
            )(handle)
            return write

        return add


class Calls(Generic[Row]):
    """Routes of a resource. Each method adds one, and its ``summary`` describes it. A ``body`` is a
    model of pydantic, or another type of JSON objects, of which the handler gets the object.

    A handler that returns None for a key says that there is no such resource.
    """

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
        model: Any = resource.model
        types = {
            resource.items: list[model],
            **(about or {}),
            "next_cursor": str | None,
            "has_more": bool,
        }
        page = cast("Any", TypedDict)(f"{pascal(_slug(resource.plural))}Page", types)
        paging = (
            in_query("limit", f"At most so many; 1 to {MAX_LISTED}.", int),
            in_query("cursor", "`next_cursor` of the answer before."),
        )
        special = Special(reply=page, parameters=(*parameters, *paging))

        def add(read: List[Row]) -> List[Row]:
            async def handle(call: Call) -> Any:
                limit = query.page_size(call.request, default=MAX_LISTED, most=MAX_LISTED)
                listing = await read(call)
                listed = listing if isinstance(listing, ResourceList) else ResourceList(listing)
                cursors = self._cursors(listed.rows)
                what = "is of no page; read the list from its start"
                first = query.after_cursor(call.request, cursors, what)
                end = first + limit
                more = len(cursors) > end
                return {
                    resource.items: listed.rows[first:end],
                    **listed.about,
                    "next_cursor": cursors[end - 1] if more else None,
                    "has_more": more,
                }

            name = f"list{pascal(_slug(resource.plural))}"
            self._add("GET", resource.path, name, summary, handle, special)
            return read

        return add

    def show(
        self, summary: str, special: Special = PLAIN, part: str = ""
    ) -> Callable[[Act[Reply]], Act[Reply]]:
        """``part``: end of the path, if not the resource is shown, but something about it."""

        def add(read: Act[Reply]) -> Act[Reply]:
            self._add_item_call(
                "GET", "get", summary, read, special, under=f"/{part}" if part else ""
            )
            return read

        return add

    def create(
        self, summary: str, body: type[Body], special: Special = CREATED
    ) -> Callable[[Create[Body, Reply]], Create[Body, Reply]]:
        def add(write: Create[Body, Reply]) -> Create[Body, Reply]:
            async def handle(call: Call) -> Any:
                return await write(call, await _read(call.request, body, special.max_bytes))

            name = f"create{self._pascal}"
            self._add("POST", self.resource.path, name, summary, handle, special, body)
            return write

        return add

    def put(
        self, summary: str, body: type[Body], special: Special = PLAIN
    ) -> Callable[[Change[Body, Reply]], Change[Body, Reply]]:
        """Create one, or replace one with this key."""
        return self._changing("PUT", "set", summary, body, special)

    def change(
        self, summary: str, body: type[Body], special: Special = PLAIN
    ) -> Callable[[Change[Body, Reply]], Change[Body, Reply]]:
        """Change some fields of one."""
        return self._changing("PATCH", "change", summary, body, special)

    def delete(
        self, summary: str = "", special: Special = DELETED
    ) -> Callable[[Act[Reply | bool]], Act[Reply | bool]]:
        """The handler returns False if there is none; otherwise True, or what is answered.
        ``summary``: if the declaration does not say what the deletion does."""
        verb = self.resource.delete_verb.capitalize()
        summary = (
            summary
            or f"{verb} {self.resource.name_with_article}. {self.resource.deletion}".rstrip(" .")
        )

        def add(remove: Act[Reply | bool]) -> Act[Reply | bool]:
            async def handle(call: Call, key: str) -> Any:
                return (await remove(call, key)) or None

            self._add_item_call("DELETE", "delete", summary, handle, special)
            return remove

        return add

    def act(
        self,
        name: str,
        summary: str,
        body: type[Body] | None = None,
        special: Special = PLAIN,
        *,
        method: str = "PUT",
        part: str = "",
    ) -> Callable[[Change[Body, Reply]], Change[Body, Reply]]:
        """Do something to one, at a path of its own. Without a body the handler gets None.
        ``part``: end of the path, if it is not the name."""
        return self._changing(method, name, summary, body, special, f"/{part or name}")

    # Implementation

    @property
    def _pascal(self) -> str:
        return pascal(self.resource.parameter.removesuffix("_id").replace("_", "-"))

    def _changing(
        self,
        method: str,
        verb: str,
        summary: str,
        body: type[Body] | None,
        special: Special,
        under: str = "",
    ) -> Callable[[Change[Body, Reply]], Change[Body, Reply]]:
        def add(write: Change[Body, Reply]) -> Change[Body, Reply]:
            async def handle(call: Call, key: str) -> Any:
                return await write(call, key, await _read(call.request, body, special.max_bytes))

            self._add_item_call(method, verb, summary, handle, special, body, under)
            return write

        return add

    def _add_item_call(
        self,
        method: str,
        verb: str,
        summary: str,
        handle: Callable[[Call, str], Awaitable[Any]],
        special: Special,
        body: Any = None,
        under: str = "",
    ) -> None:
        resource = self.resource

        async def of_key(call: Call) -> Any:
            # PostgreSQL stores no NUL.
            key = str(call.request.path_params[resource.parameter]).replace("\0", "")
            if (result := await handle(call, key)) is None:
                raise NotFound(
                    f"There is no {resource.name} {key[:64]}. GET {resource.path} lists those that "
                    "there are."
                )
            return result

        parameters = (in_path(resource.parameter, resource.key_description), *special.parameters)
        of_one = replace(special, parameters=parameters)
        name = f"{verb}{self._pascal}{pascal(under[1:]) if method == 'GET' else ''}"
        self._add(method, f"{resource.path_of_one}{under}", name, summary, of_key, of_one, body)

    def _add(
        self,
        method: str,
        path: str,
        name: str,
        summary: str,
        handle: Handle[Any],
        special: Special,
        body: Any = None,
    ) -> None:
        resource = self.resource
        reads = method == "GET"
        scope = special.scope or (not reads and resource.change_scope) or resource.scope or ANY_KEY
        label = f"{resource.path.strip('/').replace('/', '.')}.{name}"

        async def begin(request: HttpRequest) -> Call:
            return await self._call(request, reads=reads)

        what = f"The {resource.name}."
        operation = Operation(
            name,
            summary,
            {
                special.status: Answer("It is deleted.")
                if special.status == 204
                else answer(what, special.reply or resource.model)
            },
            errors=(403, 404, *(() if body is None else (413,)), 422, *special.errors),
            parameters=(*special.parameters, *self._owners()),
            body=body,
        )
        self.routes.append(_route(method, path, label, operation, scope, begin, handle))

    def _owners(self) -> Sequence[Parameter]:
        installation = in_query(
            "installation", "`true`: those of the installation. Needs the scope `operator`.", bool
        )
        return {
            Owner.TENANT: (TENANT,),
            Owner.TENANT_OR_INSTALLATION: (TENANT, installation),
        }.get(self.resource.owner, ())

    async def _call(self, request: HttpRequest, *, reads: bool) -> Call:
        """Authenticate. ``Forbidden``: the call is about resources of another owner."""
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
        caller.require_tenant(tenant, plural)
        await services.identity.tenants.find(tenant)
        return tenant

    def _cursors(self, rows: Sequence[Row]) -> Sequence[str]:
        """The cursor of each. Where several are alike, as warm targets of the same model from
        several places, the further ones have a number."""
        seen = Counter[str]()
        cursors = list[str]()
        for row in rows:
            value = str(getattr(row, self.resource.cursor))
            cursors.append(f"{value}~{seen[value]}" if seen[value] else value)
            seen[value] += 1
        return cursors


def _route(
    method: str,
    path: str,
    label: str,
    operation: Operation,
    scope: str,
    begin: Callable[[HttpRequest], Awaitable[Call]],
    handle: Handle[Any],
) -> DocumentedRoute:
    (status,) = operation.responses

    async def handler(request: HttpRequest) -> Response:
        context_of(request).route = label
        reply = await handle(await begin(request))
        if isinstance(reply, Response):
            return reply
        if status == 204:
            return Response(status_code=204)
        return json_reply(plain(reply), status)

    if scope != ANY_KEY:
        summary = f"{operation.summary}. Needs the scope `{scope}`"
        operation = replace(operation, summary=summary)
    return DocumentedRoute(path, handler, {method: operation}, scope)


async def _read(request: HttpRequest, body: Any, max_bytes: int) -> Any:
    if body is None:
        return None
    if issubclass(body, BaseModel):
        return await read_model(request, body, max_bytes)
    value = await read_json(request, max_bytes)
    if not isinstance(value, dict):
        raise InvalidInput("The body must be a JSON object.")
    return cast("dict[str, Any]", value)


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name)
