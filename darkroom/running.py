"""Run an endpoint's method, and describe an app."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing
from math import inf
from typing import Any

from darkroom.app import App, EndpointMethod, endpoints_of
from darkroom.calls import Call, Cancelled, context_of
from darkroom.errors import AppError

END = object()


def values(
    method: Callable[..., Any], args: Any, kwargs: Any, call: Call, *, streams: bool = False
) -> Generator[Any]:
    """Yield the values of a synchronous method: all of a generator, or its one result. Run every
    step in the call's context. ``streams``: it declares an iterator, which may be of any class."""
    result = method(*args, **kwargs)
    if not (inspect.isgenerator(result) or (streams and isinstance(result, Iterator))):
        yield result
        return
    try:
        for value in result:
            if call.cancelled:
                raise Cancelled
            yield value
    finally:
        if inspect.isgenerator(result):
            result.close()


async def async_values(
    method: Callable[..., Any], args: Any, kwargs: Any, *, streams: bool = False
) -> AsyncGenerator[Any]:
    """Yield the values of an asynchronous method, as ``values`` does. Run it in the call's
    context."""
    result = method(*args, **kwargs)
    if inspect.isawaitable(result):
        result = await result
    if inspect.isasyncgen(result):
        async with aclosing(result):
            async for value in result:
                yield value
    elif streams and isinstance(result, AsyncIterator):
        async for value in result:
            yield value
    elif streams and isinstance(result, Iterator):
        for value in result:
            yield value
    else:
        yield result


def run(app: App, path: str = "/", **fields: Any) -> dict[str, Any]:
    """Call an endpoint in this process, as a test does. Returns what clients get, with paths in
    place of URLs: ``run(app, "/", prompt="a cat")``.

    The input is validated as Darkroom does. Call ``app.setup()`` before, if the method needs it.
    """
    methods = endpoints_of(type(app))
    if (method := methods.get(path)) is None:
        known = ", ".join(methods)
        raise AppError(f"{type(app).__name__} has no endpoint {path}; it has {known}.")
    args, kwargs = method.arguments(fields)
    bound, call = getattr(app, method.name), Call()
    context = context_of(call)
    streams = method.streams
    if method.is_async:
        outputs = async_values(bound, args, kwargs, streams=streams)
        last_value = context.run(asyncio.run, _last(outputs))
    else:
        every = context.run(list, values(bound, args, kwargs, call, streams=streams))
        last_value = every[-1] if every else END
    if last_value is END:
        raise AppError(nothing_yielded(method))
    return context.run(method.plain, last_value)


def nothing_yielded(method: EndpointMethod) -> str:
    return f"{method.name} yielded nothing, so there is no result."


async def _last(outputs: AsyncIterator[Any]) -> Any:
    last: Any = END
    async for last in outputs:  # noqa: B007  # the last value is the result
        pass
    return last


def describe_app(app: type[App]) -> dict[str, Any]:
    """Description of an app as JSON: its settings, and its endpoints with their schemas.
    ``TypeError`` names what is not usable."""
    _check_settings(app)
    return {
        "name": app.name or app.__name__.lower(),
        "requirements": None if app.requirements is None else list(app.requirements),
        "secrets": list(app.secrets),
        "gpu": app.gpu,
        "concurrency": app.concurrency,
        "start_timeout_s": app.start_timeout_s,
        "endpoints": [_describe_endpoint(endpoint) for endpoint in endpoints_of(app).values()],
    }


def _check_settings(app: type[App]) -> None:
    """Settings come from a person's file, so their types are checked."""
    where = app.__name__
    listed: Any = app.requirements
    if listed is not None and (
        isinstance(listed, str)
        or not isinstance(listed, Sequence)
        or not all(isinstance(requirement, str) for requirement in listed)
    ):
        raise TypeError(f"{where}.requirements must be a list of texts, such as ['numpy>=2']")
    named: Any = app.secrets
    if isinstance(named, str) or not (
        isinstance(named, Sequence) and all(isinstance(secret, str) for secret in named)
    ):
        raise TypeError(f"{where}.secrets must be a list of texts, such as ['HF_TOKEN']")
    for name in ("name", "gpu"):
        text: Any = getattr(app, name)
        if not isinstance(text, str) and (name, text) != ("gpu", None):
            raise TypeError(f"{where}.{name} must be a text, not {text!r}")
    number: Any = app.concurrency
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise TypeError(f"{where}.concurrency must be a whole number from 1, not {number!r}")
    limit: Any = app.start_timeout_s
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < inf:
        raise TypeError(f"{where}.start_timeout_s must be a number of seconds, not {limit!r}")


def _describe_endpoint(method: EndpointMethod) -> dict[str, Any]:
    return {
        "path": method.path,
        "description": method.description,
        "streams": method.streams,
        "input_schema": method.input_schema(),
        "output_schema": method.output_schema(),
    }
