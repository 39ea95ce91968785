"""Rest of a suspended pipeline call, from the end of its steps to the next call of a component.

Every class of pipelines has its own way from the latents of the last step to its decoder: it
unpacks tokens, drops those of conditions, scales channels. A preview takes this way itself. The
statements after the loop of the steps are compiled as a function of the loop's variables, and of a
modular pipeline, the blocks after the loop run as well. They get copies of what they could change,
and end where they call a component, so nothing is computed by a model.
"""

from __future__ import annotations

import ast
import copy
import linecache
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import CodeType
from typing import Any

import torch
from diffusers.modular_pipelines.modular_pipeline import (
    LoopSequentialPipelineBlocks,
    ModularPipeline,
    ModularPipelineBlocks,
    SequentialPipelineBlocks,
)
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from greenlet import getcurrent
from torch import Tensor

from deployments.engine.interception.proxy import ComponentCall, GenerationGreenlet
from deployments.engine.interception.stack_frames import frames_of_the_pipeline, read
from serve_app.domain.errors import Unsupported


@dataclass(frozen=True, slots=True, eq=False)
class SuspendedFrame:
    """Stack frame of a suspended call."""

    code: CodeType
    line: int
    module: dict[str, Any]  # global variables
    names: Mapping[str, Any]  # local variables


def suspended_frames() -> Sequence[SuspendedFrame]:
    """Frames from the denoiser's caller outwards; called inside the generation."""
    return [
        SuspendedFrame(frame.f_code, frame.f_lineno, frame.f_globals, read(frame))
        for frame in frames_of_the_pipeline()
    ]


def pipeline_of(frames: Sequence[SuspendedFrame]) -> Any:
    """The innermost pipeline. Raises ``Unsupported`` if there is none."""
    for frame in frames:
        for name in ("self", "components", "pipeline"):
            if isinstance(value := frame.names.get(name), DiffusionPipeline | ModularPipeline):
                return value
    raise Unsupported("The generation is no call of a diffusers pipeline.")


def next_call(
    frames: Sequence[SuspendedFrame], stepped: Tensor | None, latents: Tensor | None
) -> ComponentCall | None:
    """Run the rest of a call up to its next call of a component; None if it makes none.

    ``latents`` take the place of ``stepped``, the output of the last step. Raises ``Unsupported``
    for a call without a loop of steps.
    """
    run = partial(_run, frames, _Copies(stepped, latents))
    suspended = GenerationGreenlet(run, getcurrent(), _stop, _stop, read_only=True)
    try:
        with torch.no_grad():
            call = suspended.switch()
            if not suspended.dead:  # it waits for a denoiser
                suspended.throw(_Reached(call))
    except _Reached as reached:
        return reached.call
    return None


class _Reached(BaseException):
    """Ends the rest of a call. Not an ``Exception``, because modular pipelines log those."""

    def __init__(self, call: ComponentCall) -> None:
        self.call = call


def _stop(call: ComponentCall) -> Any:
    raise _Reached(call)


def _run(frames: Sequence[SuspendedFrame], copies: _Copies) -> None:
    loop = next((number for number, frame in enumerate(frames) if _after_loop(frame)), None)
    if loop is None:
        name = type(pipeline_of(frames)).__name__
        raise Unsupported(f"{name} has no loop that takes the steps of a scheduler.")
    _run_after_loop(frames[loop], copies)
    for frame in frames[loop + 1 :]:
        block = frame.names.get("self")
        if isinstance(block, SequentialPipelineBlocks) or frame.code.co_name == _LOOP_STEP:
            _run_later_blocks(block, frame, copies)
        elif isinstance(block, LoopSequentialPipelineBlocks):
            _run_after_loop(frame, copies)


def _run_later_blocks(block: Any, frame: SuspendedFrame, copies: _Copies) -> None:
    names = copies.of_names(frame.names)
    blocks = list(block.sub_blocks)
    pipeline, state = names.get("pipeline", names.get("components")), names["state"]
    for name in blocks[blocks.index(names["block_name"]) + 1 :]:
        block.sub_blocks[name](pipeline, state, **names.get("kwargs", {}))


def _run_after_loop(frame: SuspendedFrame, copies: _Copies) -> None:
    names = {name: value for name, value in frame.names.items() if name.isidentifier()}
    function: dict[str, Any] = {}
    # It is the pipeline's own code.
    exec(_compiled(frame.code, frame.line, tuple(names)), frame.module, function)  # noqa: S102
    function[_REST](**copies.of_names(names))


class _Copies:
    """Copies of what the rest of a call could change, with the latents in place of a step's
    output."""

    def __init__(self, stepped: Tensor | None, latents: Tensor | None) -> None:
        self._stepped = stepped
        self._latents = latents
        self._of: dict[int, Any] = {} if stepped is None else {id(stepped): latents}

    def of_names(self, names: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._named(name, value) for name, value in names.items()}

    def _named(self, name: str, value: Any) -> Any:
        if name == "output_type":
            return "pt"  # some decode nothing if the latents are asked for
        if name in _LATENTS and isinstance(value, Tensor) and id(value) not in self._of:
            self._of[id(value)] = self._replaced(value)
        return self._copy(value)

    def _replaced(self, held: Tensor) -> Tensor:
        """``held``, where the pipeline keeps the output of its last step, with the latents."""
        if self._stepped is None or self._latents is None:
            return held.clone()
        if held.shape == self._stepped.shape:  # in another precision, or mixed with an image
            return self._latents
        if held.shape == self._stepped.shape[1:]:  # of one video, without the rows
            return self._latents[0]
        return _with_part(held, self._stepped, self._latents)

    def _copy(self, value: Any) -> Any:
        if (known := self._of.get(id(value))) is not None:
            return known
        kind = type(value)
        if kind in (list, tuple):
            return kind(map(self._copy, value))
        if kind is dict:
            return self.of_names(value)
        if isinstance(value, torch.Generator):
            copied: Any = value.clone_state()
        elif _has_state(value):
            copied = copy.copy(value)
            self._of[id(value)] = copied  # before its attributes, which may refer to it
            vars(copied).update(self.of_names(vars(value)))
        else:
            return value
        self._of[id(value)] = copied
        return copied


def _has_state(value: Any) -> bool:
    """Return whether it is a pipeline, or an object of diffusers that a call could change: the
    state of blocks, a cache of keys and values."""
    if isinstance(value, DiffusionPipeline | ModularPipeline):
        return True
    return (
        type(value).__module__.startswith("diffusers.")
        and hasattr(value, "__dict__")
        and not isinstance(value, type | torch.nn.Module | Tensor | Mapping | ModularPipelineBlocks)
    )


def _with_part(whole: Tensor, part: Tensor, new: Tensor) -> Tensor:
    """Copy of ``whole`` with ``new`` in the place of ``part``, if that is at its begin or end.

    Kandinsky 5 has a condition behind the channels, MiniMax H3 rows of conditions before the
    others, and LTX-Video its first frame before the others, as tokens.
    """
    whole = whole.clone()
    if new.shape != part.shape:
        return whole
    for arrange in (_as_it_is, _as_tokens):
        old = arrange(part).to(whole.dtype)
        sizes = list(zip(whole.shape, old.shape, strict=False))
        others = [place for place, (size, smaller) in enumerate(sizes) if size != smaller]
        if old.ndim != whole.ndim or len(others) != 1 or sizes[others[0]][0] < sizes[others[0]][1]:
            continue
        size, smaller = sizes[others[0]]
        for start in (0, size - smaller):
            there = whole.narrow(others[0], start, smaller)
            if torch.equal(there, old):
                there.copy_(arrange(new))
                return whole
    return whole


def _as_it_is(latents: Tensor) -> Tensor:
    return latents


def _as_tokens(latents: Tensor) -> Tensor:
    """[rows, channels, *places] as [rows, tokens, channels]."""
    return latents.flatten(2).transpose(1, 2) if latents.ndim > 2 else latents


# The statements after a loop.


def _after_loop(frame: SuspendedFrame) -> bool:
    return _statements(frame.code, frame.line) is not None


@cache
def _compiled(code: CodeType, line: int, names: tuple[str, ...]) -> CodeType:
    """Code that defines the statements after the loop as a function of ``names``."""
    arguments = ast.arguments(
        posonlyargs=[],
        args=[ast.arg(name) for name in names],
        kwonlyargs=[],
        kw_defaults=[],
        defaults=[],
    )
    statements = _statements(code, line) or [ast.Pass()]
    function = ast.FunctionDef(name=_REST, args=arguments, body=statements, decorator_list=[])
    module = ast.fix_missing_locations(ast.Module([function], type_ignores=[]))
    return compile(module, code.co_filename, "exec", dont_inherit=True)


@cache
def _statements(code: CodeType, line: int) -> list[ast.stmt] | None:
    """Statements of a function after the innermost loop of steps round a line, up to its end."""
    around = [] if (tree := _definition(code)) is None else list(_around(tree.body, line))
    loops = [place for place, (statement, _) in enumerate(around) if _takes_steps(statement)]
    if not loops:
        return None
    rest: list[ast.stmt] = []
    for place, (statement, later) in reversed(list(enumerate(around[: loops[-1] + 1]))):
        if place != loops[-1] and isinstance(statement, ast.For | ast.While):
            rest = [_once(rest)]  # may contain `break` and `continue`
        rest += later
    return rest


def _around(body: Sequence[ast.stmt], line: int) -> Iterator[tuple[ast.stmt, Sequence[ast.stmt]]]:
    """Statements that contain a line, the outermost first, with those after each in its block."""
    for number, statement in enumerate(body):
        if statement.lineno <= line <= (statement.end_lineno or 0):
            yield statement, body[number + 1 :]
            for block in ("body", "orelse", "finalbody"):
                yield from _around(getattr(statement, block, ()), line)


def _takes_steps(statement: ast.stmt) -> bool:
    """Return whether it is a loop that calls a scheduler, or blocks that do."""
    called = (
        node.func.attr
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    )
    return isinstance(statement, ast.For | ast.While) and not {"step", _LOOP_STEP}.isdisjoint(
        called
    )


def _once(body: list[ast.stmt]) -> ast.stmt:
    target = ast.Name("_", ast.Store())
    once = ast.Tuple([ast.Constant(None)], ast.Load())
    return ast.For(target=target, iter=once, body=body or [ast.Pass()], orelse=[])


@cache
def _definition(code: CodeType) -> ast.FunctionDef | None:
    source = "".join(linecache.getlines(code.co_filename))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            first = min(part.lineno for part in (node, *node.decorator_list))
            if first == code.co_firstlineno:
                return node
    return None


_LATENTS = ("latents", "latent_model_input")
"""Variables with the output of the last step. The second one: of DiT, whose others are half of
it."""
_LOOP_STEP = "loop_step"  # runs the blocks of one step of a modular pipeline
_REST = "rest"
