"""What the modules for other services' protocols share: routes that tell errors in their own shape,
and the way in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.domain.errors import DarkroomError, FieldProblem, InvalidInput
from serve_app.domain.request import NewRequest
from serve_app.domain.webhook import Webhook
from serve_app.ingress import submission
from serve_app.ingress.core import Core
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.fal.headers import wishes_of
from serve_app.tenants.keys import Identity

Handler = Callable[[HttpRequest], Awaitable[Response]]
Refusal = Callable[[DarkroomError], Response]


def translated(path: str, handler: Handler, *methods: str, label: str, refusal: Refusal) -> Route:
    """A route whose refusals, expected or not, are ``refusal``'s. ``label`` names it in metrics."""

    async def answer(request: HttpRequest) -> Response:
        exchange = exchange_of(request)
        exchange.route, exchange.refusal = label, refusal
        return await handler(request)

    return Route(path, answer, methods=list(methods))


async def accepted(
    request: HttpRequest,
    core: Core,
    caller: Identity,
    endpoint_id: str,
    body: object,
    request_id: str | None = None,
    webhook: Webhook | None = None,
) -> NewRequest:
    """Check a request with this input and what the headers of the call ask for besides, which are
    the same as for fal's calls. Its id is that of the call unless given."""
    wishes = wishes_of(request, caller)
    return await submission.accept(
        core,
        request_id=request_id or exchange_of(request).request_id,
        tenant=caller.tenant,
        endpoint_id=endpoint_id,
        body=body,
        priority=wishes.priority,
        start_within_s=wishes.start_within_s,
        end_within_s=wishes.end_within_s,
        alone=wishes.deterministic,
        previews=wishes.previews,
        warnings=wishes.warnings,
        idempotency_key=wishes.idempotency_key,
        cache=wishes.cache,
        store_io=wishes.store_io,
        keep_files_s=wishes.keep_files_s,
        webhook=webhook,
    )


def under(name: str, error: InvalidInput) -> InvalidInput:
    """``error`` about what the client sent as the field ``name`` of a larger body."""
    problems = tuple(
        FieldProblem(
            ("body", name, *each.loc[1:]), each.message, each.type, each.context, each.value
        )
        if each.loc[:1] == ("body",)
        else each
        for each in error.problems
    )
    return InvalidInput(error.message, problems)


def renamed(error: InvalidInput, names: Mapping[str, str]) -> InvalidInput:
    """``error`` with the fields of the input called as the client called them.

    ``names``: field of the input → what the client sent it as.
    """
    if not error.problems:
        return error
    problems = tuple(
        FieldProblem(_renamed(each.loc, names), each.message, each.type, each.context, each.value)
        for each in error.problems
    )
    first = problems[0]
    where = ".".join(str(part) for part in first.loc[1:])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return InvalidInput(f"{where}: {first.message}{more}", problems)


def _renamed(loc: tuple[str | int, ...], names: Mapping[str, str]) -> tuple[str | int, ...]:
    if len(loc) < 2 or loc[0] != "body" or loc[1] not in names:
        return loc
    return ("body", names[str(loc[1])], *loc[2:])
