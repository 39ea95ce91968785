"""How the input of an endpoint becomes the arguments of a pipeline, as its options say."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from deployments.task import IMAGE_TO_VIDEO, VIDEO_TO_VIDEO, task_of
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Misconfigured

PIXELS, PILLOW = "pixels", "pillow"

STANDARD = frozenset({"prompt", "num_inference_steps", "generator", "output_type"})
"""Arguments that every pipeline gets."""

DISPENSABLE = {
    IMAGE_TO_VIDEO: frozenset({"prompt"}),
    VIDEO_TO_VIDEO: frozenset({"prompt"}),
}
"""Task → of those, what a pipeline need not take: Stable Video Diffusion goes by its picture."""

Tasks = Mapping[str, frozenset[str]]
"""Task → arguments that are what its files hold."""


@dataclass(frozen=True, slots=True)
class CallMapping:
    """The options that say it, checked; made by ``mapping_of``."""

    task: str
    given: frozenset[str] = frozenset()  # arguments that come from files
    arguments: Mapping[str, str] = field(default_factory=dict)  # field of the input → argument
    fixed: Mapping[str, Any] = field(default_factory=dict)  # argument → what it always is
    unless_empty: tuple[str, ...] = ()  # fields that are left out when they are ""
    pictures: str = PIXELS  # as what given pictures are passed: a tensor, or Pillow's own
    video: str = "video"  # the argument that takes the frames of a given clip
    pipeline: str | None = None  # class of diffusers to call over the loaded components
    multiple: int | None = None  # pixels; None: as the pipeline's parts tell it
    native_size: int | None = None  # pixels

    def passed(self) -> frozenset[str]:
        """The arguments that the pipeline has to have."""
        return STANDARD | self.given | {*self.arguments.values()} | self.fixed.keys()


def mapping_of(endpoint: Endpoint, tasks: Tasks) -> CallMapping:
    """``tasks``: those that the family knows. ``Misconfigured`` names the endpoint and the option
    that is not as it has to be."""
    options = endpoint.options
    task = task_of(endpoint, tuple(tasks))
    video = _typed(endpoint, "video", str) or "video"
    mapping = CallMapping(
        task=task,
        given=frozenset(video if each == "video" else each for each in tasks[task]),
        arguments=_names(endpoint, "arguments"),
        fixed=_typed(endpoint, "fixed", Mapping) or {},
        unless_empty=tuple(_typed(endpoint, "unless_empty", list) or ()),
        pictures=options.get("pictures", PIXELS),
        video=video,
        pipeline=_typed(endpoint, "pipeline", str),
        multiple=_typed(endpoint, "multiple", int),
        native_size=_typed(endpoint, "native_size", int),
    )
    if mapping.pictures not in (PIXELS, PILLOW):
        raise _wrong(endpoint, "pictures", f"{PIXELS} or {PILLOW}")
    if twice := mapping.fixed.keys() & (STANDARD | {*mapping.arguments.values()}):
        raise Misconfigured(
            f"{endpoint.id}: {', '.join(sorted(twice))} cannot be under `options.fixed`: it comes "
            "from the input."
        )
    return mapping


def check(endpoint: Endpoint, mapping: CallMapping, called: type) -> None:
    """``Misconfigured`` when it passes what ``called``, a pipeline class, does not take."""
    takes = parameters(called)
    passed = mapping.passed() - DISPENSABLE.get(mapping.task, frozenset())
    if unknown := sorted(passed - takes):
        raise Misconfigured(
            f"{endpoint.id}: {called.__name__} takes no {', '.join(unknown)}. Its arguments are "
            f"{', '.join(sorted(takes))}. Change `options.arguments`, `options.fixed` or "
            "`options.pipeline` of the endpoint in the catalogue."
        )


def parameters(called: type) -> frozenset[str]:
    """The names of the arguments of its calls."""
    known = inspect.signature(called.__call__).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return frozenset(each.name for each in known if each.kind in named) - {"self"}


def _names(endpoint: Endpoint, option: str) -> Mapping[str, str]:
    given = _typed(endpoint, option, Mapping) or {}
    if not all(isinstance(each, str) for pair in given.items() for each in pair):
        raise _wrong(endpoint, option, "a mapping from fields to arguments")
    return cast("Mapping[str, str]", given)


def _typed(endpoint: Endpoint, option: str, kind: type) -> Any:
    given = endpoint.options.get(option)
    if given is not None and not isinstance(given, kind):
        raise _wrong(endpoint, option, _KINDS[kind])
    return given


_KINDS = {Mapping: "a mapping", list: "a list", str: "a name", int: "a number of pixels"}


def _wrong(endpoint: Endpoint, option: str, wanted: str) -> Misconfigured:
    given = endpoint.options.get(option)
    return Misconfigured(
        f"{endpoint.id}: `options.{option}` is {given!r} in the catalogue; it has to be {wanted}."
    )
