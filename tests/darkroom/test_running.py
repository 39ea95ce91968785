"""Calls of endpoints: in this process, and their progress and cancellation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from darkroom import App, AppError, Cancelled, endpoint, progress, run
from darkroom.calls import Call, context_of, current
from darkroom.running import async_values, values


class Point(BaseModel):
    x: int
    y: int = 0


class Numbers:
    """An iterator that is no generator, as of a client of another service."""

    def __init__(self, to: int) -> None:
        self._left = iter(range(to))

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        for number in self._left:
            return number
        raise StopAsyncIteration


class Counter(App):
    closed: bool = False

    @endpoint("/point")
    def point(self, point: Point) -> Point:
        return Point(x=point.y, y=point.x)

    @endpoint("/count")
    def count(self, to: int) -> Iterator[int]:
        try:
            for number in range(to):
                progress(number, to)
                yield number
        finally:
            self.closed = True

    @endpoint("/later")
    async def later(self, to: int) -> dict[str, int]:
        return {"to": to}

    @endpoint("/stream")
    async def stream(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    @endpoint("/who")
    def who(self) -> Iterator[str]:
        while (call := current()) is not None:
            yield call.request_id


class Iterators(App):
    @endpoint("/iterator")
    def iterator(self, to: int) -> Iterator[int]:
        return iter(range(to))

    @endpoint("/async-iterator")
    def async_iterator(self, to: int) -> AsyncIterator[int]:
        return Numbers(to)

    @endpoint("/awaited-iterator")
    async def awaited_iterator(self, to: int) -> Iterator[int]:
        return iter(range(to))

    @endpoint("/awaited-stream")
    async def awaited_stream(self, to: int) -> AsyncIterator[int]:
        return Counter().stream(to)

    @endpoint("/list")
    def list_(self, to: int) -> list[int]:
        return iter(range(to))  # type: ignore[return-value]  # pydantic makes a list of it


@pytest.mark.parametrize(
    ("path", "arguments", "sent"),
    [
        ("/point", {"x": 1, "y": 2}, {"x": 2, "y": 1}),
        ("/count", {"to": 3}, {"output": 2}),
        ("/later", {"to": 3}, {"to": 3}),
        ("/stream", {"to": 3}, {"output": 2}),
    ],
)
def test_run_returns_what_clients_get(path: str, arguments: Any, sent: Any) -> None:
    assert run(Counter(), path, **arguments) == sent


@pytest.mark.parametrize("path", ["/count", "/stream"])
def test_a_generator_without_values_has_no_result(path: str) -> None:
    with pytest.raises(AppError, match="yielded nothing, so there is no result"):
        run(Counter(), path, to=0)


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/iterator", 2),
        ("/async-iterator", 2),
        ("/awaited-iterator", 2),
        ("/awaited-stream", 2),
        ("/list", [0, 1, 2]),
    ],
)
def test_a_method_may_return_an_iterator_of_any_class(path: str, sent: Any) -> None:
    assert run(Iterators(), path, to=3) == {"output": sent}


def test_run_validates_the_input() -> None:
    with pytest.raises(ValidationError, match="to\n"):
        run(Counter(), "/count", to="some")


def test_an_unknown_path_names_the_known_ones() -> None:
    with pytest.raises(AppError, match="Counter has no endpoint /; it has /count, /later, /point"):
        run(Counter())


def test_progress_outside_of_a_request_does_nothing() -> None:
    progress(1, 2)
    assert current() is None


def test_progress_reaches_the_call_as_whole_numbers() -> None:
    seen: list[tuple[Any, Any]] = []
    call = Call(lambda step, steps: seen.append((step, steps)))
    context_of(call).run(progress, 1.0, 4)
    assert seen == [(1, 4)]
    assert isinstance(seen[0][0], int)


def test_a_cancelled_method_ends_at_its_next_progress_and_cleans_up() -> None:
    app, call = Counter(), Call()
    context = context_of(call)
    iterator = values(app.count, (5,), {}, call)
    assert context.run(next, iterator) == 0
    call.cancelled = True
    with pytest.raises(Cancelled):
        context.run(next, iterator)
    assert app.closed


def test_cancellation_is_no_exception_that_an_app_catches_by_accident() -> None:
    assert not issubclass(Cancelled, Exception)


def test_steps_of_calls_that_take_turns_on_threads_belong_to_their_own_call() -> None:
    app = Counter()
    calls = [Call(request_id=name) for name in "ab"]
    streams = [(context_of(call), values(app.who, (), {}, call)) for call in calls]
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two:
        seen = [
            [thread.submit(context.run, next, iterator).result() for context, iterator in streams]
            for thread in (one, two, one)
        ]
        for context, stream in streams:
            two.submit(context.run, stream.close).result()
        # The threads themselves are in no call, so what they run next is not taken for one.
        assert one.submit(current).result() is None
    assert seen == [["a", "b"]] * 3


async def test_an_asynchronous_stream_that_is_left_is_closed_at_once() -> None:
    closed: list[str] = []

    async def stream() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append("closed")

    iterator = async_values(stream, (), {})
    assert await anext(iterator) == 1
    await iterator.aclose()
    assert closed == ["closed"]
