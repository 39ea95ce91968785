"""What the modules for other services' protocols share: routes that tell errors in their own shape,
and the names of fields."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.domain.errors import DarkroomError, FieldProblem, InvalidInput
from serve_app.ingress.exchange import exchange_of

Handler = Callable[[HttpRequest], Awaitable[Response]]
Refusal = Callable[[DarkroomError], Response]


def translated(path: str, handler: Handler, *methods: str, label: str, refusal: Refusal) -> Route:
    """A route whose refusals, expected or not, are ``refusal``'s. ``label`` names it in metrics."""

    async def answer(request: HttpRequest) -> Response:
        exchange = exchange_of(request)
        exchange.route, exchange.refusal = label, refusal
        return await handler(request)

    return Route(path, answer, methods=list(methods))


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
