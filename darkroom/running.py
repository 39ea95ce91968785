"""Run an endpoint's method, and describe an app."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from darkroom.app import App, EndpointMethod, endpoints_of
from darkroom.calls import Call, Cancelled, entered


def values(method: Callable[..., Any], args: Any, kwargs: Any, call: Call) -> Iterator[Any]:
    """Yield the values of a synchronous method: all of a generator, or its one result."""
    with entered(call):
        made = method(*args, **kwargs)
        if inspect.isgenerator(made):
            try:
                for value in made:
                    if call.cancelled:
                        raise Cancelled
                    yield value
            finally:
                made.close()
        else:
            yield made


async def async_values(
    method: Callable[..., Any], args: Any, kwargs: Any, call: Call
) -> AsyncIterator[Any]:
    """Yield the values of an asynchronous method."""
    with entered(call):
        made = method(*args, **kwargs)
        if inspect.isasyncgen(made):
            async for value in made:
                yield value
        else:
            yield await made


def is_async(method: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)


def run(app: App, path: str = "/", **given: Any) -> dict[str, Any]:
    """Call an endpoint in this process, as a test does. Returns what clients get, with paths in
    place of URLs: ``run(app, "/", prompt="a cat")``.

    The input is validated as Darkroom does. Call ``app.setup()`` before, if the method needs it.
    """
    method = endpoints_of(type(app))[path]
    args, kwargs = method.arguments(given)
    bound, call = getattr(app, method.name), Call()
    if is_async(bound):
        made = asyncio.run(_last(async_values(bound, args, kwargs, call)))
    else:
        *_, made = values(bound, args, kwargs, call)
    return method.plain(made)


async def _last(made: AsyncIterator[Any]) -> Any:
    last: Any = None
    async for last in made:  # noqa: B007  # the last value is the result
        pass
    return last


def described(app: type[App]) -> dict[str, Any]:
    """Description of an app as JSON: its settings, and its endpoints with their schemas."""
    return {
        "name": app.name or app.__name__.lower(),
        "requirements": None if app.requirements is None else list(app.requirements),
        "gpu": app.gpu,
        "concurrency": app.concurrency,
        "start_timeout_s": app.start_timeout_s,
        "endpoints": [_described(each) for each in endpoints_of(app).values()],
    }


def _described(method: EndpointMethod) -> dict[str, Any]:
    return {
        "path": method.path,
        "description": method.description,
        "streams": method.streams,
        "input_schema": method.input_schema(),
        "output_schema": method.output_schema(),
    }
