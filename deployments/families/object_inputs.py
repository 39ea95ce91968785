"""Lists of objects in an input, such as images with a place in time, as arguments of a call.

Each object becomes one of the class that the pipeline's call names, with decoded files in the form
that the family gives them. Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from serve_app.domain.errors import InvalidInput
from serve_app.options.inputs import DeclaredInput, Inputs

FileForm = Callable[[DeclaredInput, Any, str], Mapping[str, Any]]
"""Attributes of an object from a decoded file: that of the declaration, and what else classes may
want to know about the file, such as its frame rate. The text is its place, for errors."""


def _plain_form(declared: DeclaredInput, file: Any, _: str) -> Mapping[str, Any]:
    """Form of files that the pipeline takes as they are decoded."""
    return {declared.argument: file}


def object_arguments(
    inputs: Inputs, input: Mapping[str, Any], called: type, form: FileForm = _plain_form
) -> dict[str, Any]:
    """Arguments that take lists of objects. Fields with the same argument share its list.

    ``InvalidInput`` names a field that does not go with the objects.
    """
    found: dict[str, list[Any]] = {}
    for name, declared in _given(inputs, input):
        classes = _classes(called, declared.argument)
        _check_alone(name, classes, inputs, input)
        items = found.setdefault(declared.argument, [])
        for number, item in enumerate(input[name]):
            items.append(_object(declared, classes, item, f"{name}.{number}", form))
    return found


def object_values(
    inputs: Inputs, input: Mapping[str, Any]
) -> Iterator[tuple[str, DeclaredInput, Any]]:
    """Yield the place, the declaration and the value of each field of the objects."""
    for name, declared in _given(inputs, input):
        for number, item in enumerate(input[name]):
            for field, each in declared.fields.items():
                if (value := item.get(field)) is not None:
                    yield f"{name}.{number}.{field}", each, value


def unknown_attributes(inputs: Inputs, called: type) -> Iterator[str]:
    """Yield attributes of declared objects that their class does not have."""
    for declared in inputs.values():
        if not declared.fields or not (classes := _classes(called, declared.argument)):
            continue
        known = {attribute for each in classes for attribute in _attributes(each)}
        for each in declared.fields.values():
            if each.argument not in known:
                yield f"{declared.argument}.{each.argument}"


def _given(inputs: Inputs, input: Mapping[str, Any]) -> Iterator[tuple[str, DeclaredInput]]:
    return ((name, each) for name, each in inputs.items() if each.fields and input.get(name))


def _classes(called: type, argument: str) -> Sequence[type]:
    from deployments.engine.interception.item_classes import item_classes  # noqa: PLC0415

    return item_classes(called, argument)


def _attributes(kind: Any) -> Mapping[str, bool]:
    """Attribute of a class → whether it must be given."""
    return {
        each.name: each.default is MISSING and each.default_factory is MISSING
        for each in fields(kind)
    }


def _check_alone(
    name: str, classes: Sequence[type], inputs: Inputs, input: Mapping[str, Any]
) -> None:
    """Refuse files of arguments that mean an object of their own: pipelines take one or the
    other."""
    attributes = {attribute for each in classes for attribute in _attributes(each)}
    for other, each in inputs.items():
        if each.is_file and each.argument in attributes and input.get(other) is not None:
            message = f"{other} and {name} cannot both be set: put the file into {name}"
            raise InvalidInput.of_field(other, message)


def _object(
    declared: DeclaredInput,
    classes: Sequence[type],
    item: Mapping[str, Any],
    at: str,
    form: FileForm,
) -> Any:
    values: dict[str, Any] = {}
    given: dict[str, str] = {}  # attribute → field
    for name, each in declared.fields.items():
        if (value := item.get(name)) is None:
            continue
        given.setdefault(each.argument, name)
        values |= form(each, value, f"{at}.{name}") if each.is_file else {each.argument: value}
    if not classes:
        return {name: values[name] for name in given}
    for kind in classes:
        attributes = _attributes(kind)
        needed = {name for name, required in attributes.items() if required}
        if needed <= given.keys() <= attributes.keys():
            return kind(**{name: values[name] for name in attributes if name in values})
    names = " and ".join(given.values()) or "nothing"
    raise InvalidInput.of_field(at, f"The model takes no object that has {names}")
