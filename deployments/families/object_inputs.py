"""Lists of objects in an input, such as images with a place in time, as arguments of a call.

Each object becomes one of the class that the pipeline's call names, with decoded files in the form
that the family gives them. Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from serve_app.domain.errors import InvalidInput
from serve_app.options.inputs import SCALES, DeclaredInput, Inputs

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
    arguments: dict[str, list[Any]] = {}
    for name, declared in _object_inputs(inputs, input):
        classes = _classes(called, declared.argument)
        _check_alone(name, classes, inputs, input)
        items = arguments.setdefault(declared.argument, [])
        for number, item in enumerate(input[name]):
            items.append(_object(declared, classes, item, f"{name}.{number}", form))
    return arguments


def object_values(
    inputs: Inputs, input: Mapping[str, Any]
) -> Iterator[tuple[str, DeclaredInput, Any]]:
    """Yield the place, the declaration and the value of each field of the objects."""
    for name, declared in _object_inputs(inputs, input):
        for number, item in enumerate(input[name]):
            for field, declaration in declared.fields.items():
                if (value := item.get(field)) is not None:
                    yield f"{name}.{number}.{field}", declaration, value


def part_values(inputs: Inputs, input: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fields of the endpoint by the objects that choose parts of it, and those objects left out.

    A part that no object chooses has a black image, and the scale 0. Without objects, the fields
    are as they are, but for images that the pipeline needs.
    """
    values: dict[str, Any] = {}
    for name, declared in inputs.items():
        if not declared.parts:
            continue
        items = [*(input.get(name) or ())]
        values |= {name: None}
        files = [field.argument for field in declared.fields.values() if field.is_file]
        given = next((file for file in files if input.get(file)), None)
        if items and given:
            message = f"{given} and {name} cannot both be set"
            raise InvalidInput.of_field(given, message)
        is_needed = any(not inputs[file].is_adapters for file in files)
        if items or (is_needed and not given):
            values |= _of_parts(inputs, name, items)
    return values


def _of_parts(
    inputs: Inputs, name: str, items: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, Any]]:
    """Field of the endpoint → its value for each part, as the objects of the field ``name`` say."""
    declared = inputs[name]
    by_part: dict[int, Mapping[str, Any]] = {}
    for number, item in enumerate(items):
        (part,) = declared.parts_named(item)
        if part in by_part:
            raise InvalidInput.of_field(f"{name}.{number}", "Another object names this part")
        by_part[part] = item
    for field, spec in declared.attributes.items():
        if not declared.gives(field):
            continue
        target = inputs[spec.argument]
        several = len(declared.parts) > 1
        default: Any = spec.default
        if default is None and not spec.is_file:
            default = target.default[0] if several else target.default
        absent = default
        if spec.is_file:
            absent = _black_image(item[field] for item in by_part.values())
        elif target.argument in SCALES:
            absent = 0.0
        chosen = [
            absent if (item := by_part.get(part)) is None else item.get(field, default)
            for part in range(len(declared.parts))
        ]
        yield spec.argument, chosen if several else chosen[0]


def _black_image(images: Iterator[Any]) -> Any:
    """Black image of the size of the first of ``images``."""
    from PIL import Image  # noqa: PLC0415

    first = next(images, None)
    return Image.new("RGB", (64, 64) if first is None else first.size)


def unknown_attributes(inputs: Inputs, called: type) -> Iterator[str]:
    """Yield attributes of declared objects that their class does not have."""
    for declared in inputs.values():
        if declared.parts or not declared.fields:
            continue
        if not (classes := _classes(called, declared.argument)):
            continue
        known = {attribute for kind in classes for attribute in _attributes(kind)}
        for field in declared.attributes.values():
            if field.argument not in known:
                yield f"{declared.argument}.{field.argument}"


def _object_inputs(inputs: Inputs, input: Mapping[str, Any]) -> Iterator[tuple[str, DeclaredInput]]:
    return (
        (name, declared) for name, declared in inputs.items() if declared.fields and input.get(name)
    )


def _classes(called: type, argument: str) -> Sequence[type]:
    from deployments.engine.interception.item_classes import item_classes  # noqa: PLC0415

    return item_classes(called, argument)


def _attributes(kind: Any) -> Mapping[str, bool]:
    """Attribute of a class → whether it must be given."""
    return {
        field.name: field.default is MISSING and field.default_factory is MISSING
        for field in fields(kind)
    }


def _check_alone(
    name: str, classes: Sequence[type], inputs: Inputs, input: Mapping[str, Any]
) -> None:
    """Refuse files of arguments that mean an object of their own: pipelines take one or the
    other."""
    attributes = {attribute for kind in classes for attribute in _attributes(kind)}
    for other, field in inputs.items():
        if field.is_file and field.argument in attributes and input.get(other) is not None:
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
    by_attribute: dict[str, str] = {}  # attribute → field
    for name, field in declared.attributes.items():
        if (value := item.get(name)) is None:
            continue
        by_attribute.setdefault(field.argument, name)
        values |= form(field, value, f"{at}.{name}") if field.is_file else {field.argument: value}
    if not classes:
        return {name: values[name] for name in by_attribute}
    for kind in classes:
        attributes = _attributes(kind)
        needed = {name for name, required in attributes.items() if required}
        if needed <= by_attribute.keys() <= attributes.keys():
            return kind(**{name: values[name] for name in attributes if name in values})
    names = " and ".join(by_attribute.values()) or "nothing"
    raise InvalidInput.of_field(at, f"The model takes no object that has {names}")
