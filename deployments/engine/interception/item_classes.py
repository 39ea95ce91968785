"""Classes of the objects in a list that a pipeline's call takes, such as frames with a place in
time. The call's annotation names them, or what a block says about its input.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from functools import cache
from typing import Any, get_args

from deployments.engine.interception.modular import blocks_of, is_modular, nested_blocks

OF_LIBRARY = "diffusers."
_NAME = re.compile(r"\w+")


@cache
def item_classes(called: type, argument: str) -> Sequence[type]:
    """Data classes of diffusers whose objects the argument's list can have; empty if it takes none.
    In place of a base class there are those derived from it."""
    classes = _of_blocks(called, argument) if is_modular(called) else _of_call(called, argument)
    return tuple(dict.fromkeys(leaf for kind in classes for leaf in _leaves(kind)))


def _of_call(called: Any, argument: str) -> Iterator[type]:
    parameter = inspect.signature(called.__call__).parameters.get(argument)
    annotation = None if parameter is None else parameter.annotation
    if isinstance(annotation, str):  # some name types that are not there when the module runs
        annotation = _in_words(annotation, called)
    yield from _classes_in(annotation)


def _of_blocks(called: Any, argument: str) -> Iterator[type]:
    """Yield classes of the type that a block states for its input, or else of its description."""
    for block in nested_blocks(blocks_of(called)):
        for block_input in block.inputs if not getattr(block, "sub_blocks", None) else ():
            if block_input.name != argument:
                continue
            yield from _classes_in(block_input.type_hint)
            if block_input.type_hint in (list, None):
                yield from _classes_in(_in_words(block_input.description, type(block)))


def _in_words(text: str, kind: type) -> list[Any]:
    """What names in ``text`` stand for in the module of ``kind``."""
    names = vars(sys.modules[kind.__module__])
    return [names.get(name) for name in _NAME.findall(text)]


def _classes_in(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, list):
        for part in annotation:
            yield from _classes_in(part)
    elif inspect.isclass(annotation) and not get_args(annotation):
        if is_dataclass(annotation) and annotation.__module__.startswith(OF_LIBRARY):
            yield annotation
    else:
        for part in get_args(annotation):
            yield from _classes_in(part)


def _leaves(kind: type) -> Iterator[type]:
    derived = [child for child in kind.__subclasses__() if child.__module__.startswith(OF_LIBRARY)]
    if not derived:
        yield kind
    for subclass in derived:
        yield from _leaves(subclass)
