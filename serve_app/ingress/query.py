"""Query parameters: reading them, and saying what is wrong with one."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest

from serve_app.domain.errors import FieldProblem, InvalidInput


def page_size(request: HttpRequest, *, default: int, most: int) -> int:
    """``limit``; ``InvalidInput`` when it is not from 1 to ``most``."""
    given = request.query_params.get("limit", str(default))
    if not (given.isascii() and given.isdecimal() and 1 <= int(given[:9]) <= most):
        raise invalid("limit", f"should be from 1 to {most}", given)
    return int(given)


def invalid(name: str, what: str, value: str) -> InvalidInput:
    """``what`` goes on from the parameter's name, as in "should be a whole number"."""
    problem = FieldProblem(("query", name), f"{name} {what}", "value_error", None, value)
    return InvalidInput(f"The query parameter {name} {what}.", (problem,))
