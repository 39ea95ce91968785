"""Validation of values from clients by a JSON Schema of an operator, in bounded time.

The keywords of ``jsonschema`` that take more than linear time are replaced: ``pattern`` by an
engine without backtracking, ``uniqueItems`` by digests. All others together get ``MAX_STEPS``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache
from itertools import islice
from typing import Annotated, Any, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError as SchemaViolation
from jsonschema.validators import extend
from pydantic import StringConstraints, TypeAdapter
from pydantic import ValidationError as PydanticViolation
from pydantic_core import SchemaError as PatternError
from referencing import Registry

MAX_STEPS = 50_000
"""Keywords that are looked at for one value: about half a second."""

MAX_DEPTH = 100  # objects and lists in each other
MAX_PARTS = 4000  # objects and lists
MAX_HEIGHT = 64  # schemas that look at one value, each from within another

_ONE = "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then"
_LISTS = "allOf", "anyOf", "oneOf", "prefixItems"
_MAPS = "$defs", "dependentSchemas", "patternProperties", "properties"
_IN_PLACE = frozenset({"allOf", "anyOf", "dependentSchemas", "else", "if", "not", "oneOf", "then"})
"""Keywords whose schemas look at the same value, not at a part of it."""

_REFUSED = (
    "$anchor",
    "$dynamicAnchor",
    "$dynamicRef",
    "$id",
    "unevaluatedItems",
    "unevaluatedProperties",
)

Schema = Mapping[str, Any]


class TooManySteps(Exception):
    """A value takes more work than ``MAX_STEPS``."""


class BoundedValidator:
    """Validator of one schema, which ``check_size`` and ``check_keywords`` accept."""

    def __init__(self, schema: Schema) -> None:
        # Without its own retrieval, a registry fetches nothing.
        self._validator: Any = _Validator(schema, registry=Registry())

    def violations(self, value: Any, most: int, schema: Schema | None = None) -> list[Any]:
        """At most ``most`` violations of the schema, or of ``schema``, which is a part of it.
        ``TooManySteps`` if it takes too long to find them."""
        validator = self._validator if schema is None else self._validator.evolve(schema=schema)
        token = _LEFT.set([MAX_STEPS])
        try:
            return list(islice(validator.iter_errors(value), most))
        except RecursionError:
            raise TooManySteps from None
        finally:
            _LEFT.reset(token)


_LEFT: ContextVar[list[int] | None] = ContextVar("json_schema_steps", default=None)


def _spend(steps: int) -> None:
    left = _LEFT.get()
    if left is not None:
        left[0] -= steps
        if left[0] < 0:
            raise TooManySteps


# Limits of schemas.


def check_size(schema: Any) -> None:
    """Raise ``ValueError`` for a schema that takes long to read. It may be any JSON."""
    waiting: list[tuple[Any, int]] = [(schema, 1)]
    count = 0
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, Mapping):
            inner = list(cast("Schema", value).values())
        elif isinstance(value, list):
            inner = cast("list[Any]", value)
        else:
            continue
        count += 1
        if depth > MAX_DEPTH or count > MAX_PARTS:
            raise ValueError(
                f"is too large: a schema has at most {MAX_PARTS} parts and {MAX_DEPTH} levels"
            )
        waiting += [(child, depth + 1) for child in inner]


def check_keywords(schema: Schema) -> None:
    """Raise ``ValueError`` for keywords that are not supported, and for references that lead
    nowhere or have no end."""
    waiting: list[Any] = [schema]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, Mapping):  # others are true or false
            _check_keywords(cast("Schema", inner), schema)
            waiting += [part for _, part in parts(cast("Schema", inner))]
    _Heights(schema).check()


def parts(schema: Schema) -> Iterator[tuple[str, Any]]:
    """Keyword and schema of each schema directly in ``schema``."""
    for name in _ONE:
        if name in schema:
            yield name, schema[name]
    for name in _LISTS:
        yield from ((name, subschema) for subschema in schema.get(name, ()))
    for name in _MAPS:
        yield from ((name, subschema) for subschema in schema.get(name, {}).values())


def _check_keywords(schema: Schema, root: Schema) -> None:
    for name in _REFUSED:
        if name in schema:
            raise ValueError(f"has the keyword `{name}`, which is not supported")
    reference = schema.get("$ref")
    if reference is not None:
        name = str(reference).removeprefix("#/$defs/")
        if name == reference or "/" in name:
            raise ValueError(f"refers to {reference}; references must be `#/$defs/NAME`")
        if name not in root.get("$defs", {}) or {"%", "~"} & set(name):
            raise ValueError(f"refers to {reference}, which is not there")
    for pattern in (*schema.get("patternProperties", ()), schema.get("pattern", "")):
        try:
            _matcher(pattern)
        except PatternError as error:
            why = str(error).strip().splitlines()[-1].removeprefix("error: ").strip()
            raise ValueError(f"has the pattern {pattern!r}, which cannot be used: {why}") from None


class _Heights:
    """Number of schemas that look at one value, each from within another."""

    def __init__(self, root: Schema) -> None:
        self._definitions = cast("Mapping[str, Any]", root.get("$defs", {}))
        self._root = root
        self._known: dict[str, int | None] = {}  # None: it is being computed

    def check(self) -> None:
        try:
            most = max(map(self._height, (self._root, *self._definitions.values())))
        except RecursionError:
            most = MAX_HEIGHT + 1
        if most > MAX_HEIGHT:
            raise ValueError(f"has references that lead to others more than {MAX_HEIGHT} times")

    def _height(self, schema: Any) -> int:
        if not isinstance(schema, Mapping):
            return 0
        fields = cast("Schema", schema)
        below = [self._height(part) for name, part in parts(fields) if name in _IN_PLACE]
        if "$ref" in fields:
            below.append(self._of_name(str(fields["$ref"]).removeprefix("#/$defs/")))
        return 1 + max(below, default=0)

    def _of_name(self, name: str) -> int:
        known = self._known.setdefault(name, -1)
        if known is None:
            raise ValueError(f"refers to #/$defs/{name} from within itself, without end")
        if known < 0:
            self._known[name] = None
            self._known[name] = known = self._height(self._definitions[name])
        return known


# Keywords.


@lru_cache(maxsize=1024)
def _matcher(pattern: str) -> TypeAdapter[str]:
    """Rust's engine, which takes linear time, and which the models of apps use as well."""
    return TypeAdapter(Annotated[str, StringConstraints(pattern=pattern)])


def _matches(pattern: str, text: str) -> bool:
    try:
        _matcher(pattern).validate_python(text)
    except PydanticViolation:
        return False
    return True


def _pattern(validator: Any, pattern: str, value: Any, schema: Schema) -> Iterator[Any]:
    del schema
    if validator.is_type(value, "string") and not _matches(pattern, value):
        yield SchemaViolation(f"String should match pattern '{pattern}'")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], value: Any, schema: Schema
) -> Iterator[Any]:
    del schema
    if validator.is_type(value, "object"):
        for pattern, under in patterns.items():
            for name, inner in value.items():
                _spend(1)
                if _matches(pattern, name):
                    yield from validator.descend(inner, under, path=name, schema_path=pattern)


def _additional_properties(validator: Any, under: Any, value: Any, schema: Schema) -> Iterator[Any]:
    if not validator.is_type(value, "object"):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", ())
    for name, inner in value.items():
        _spend(1 + len(patterns))
        if name in known or any(_matches(pattern, name) for pattern in patterns):
            continue
        if under is False:
            yield SchemaViolation("Extra inputs are not permitted", path=(name,), instance=inner)
        else:
            yield from validator.descend(inner, under, path=name)


def _required(validator: Any, names: Sequence[str], value: Any, schema: Schema) -> Iterator[Any]:
    del schema
    if validator.is_type(value, "object"):
        missing = (name for name in names if name not in value)
        yield from (SchemaViolation("Field required", path=(name,)) for name in missing)


def _unique_items(validator: Any, unique: Any, value: Any, schema: Schema) -> Iterator[Any]:
    del schema
    if unique and validator.is_type(value, "array"):
        _spend(len(value) // 8)
        digests = {json.dumps(_canonical(item), sort_keys=True) for item in value}
        if len(digests) < len(value):
            yield SchemaViolation("Items should be different from one another")


def _canonical(value: Any) -> Any:
    """``value`` with equal numbers written alike."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _canonical(inner) for name, inner in cast("Schema", value).items()}
    if isinstance(value, list):
        return [_canonical(item) for item in cast("list[Any]", value)]
    return value


def _multiple_of(validator: Any, step: float, value: Any, schema: Schema) -> Iterator[Any]:
    del schema
    if validator.is_type(value, "number") and not _is_multiple(value, step):
        yield SchemaViolation(f"Input should be a multiple of {step}")


def _is_multiple(value: float, step: float) -> bool:
    if isinstance(value, int) and isinstance(step, int):
        return value % step == 0
    try:
        rest, margin = abs(value % step), abs(value / 1e9)  # as pydantic: 0.3 is three times 0.1
    except OverflowError:  # a number with hundreds of digits
        return False
    return rest <= margin or abs(rest - step) <= margin


def _within_budget(keyword: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    def run(validator: Any, keyword_value: Any, value: Any, schema: Schema) -> Iterator[Any]:
        _spend(
            1 + len(cast("Sequence[Any]", keyword_value)) // 8
            if isinstance(keyword_value, (list, dict))
            else 1
        )
        yield from keyword(validator, keyword_value, value, schema) or ()

    return run


_KEYWORDS: dict[str, Callable[..., Any]] = {
    **Draft202012Validator.VALIDATORS,
    "additionalProperties": _additional_properties,
    "multipleOf": _multiple_of,
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "required": _required,
    "uniqueItems": _unique_items,
}
_Validator: Any = extend(
    Draft202012Validator, {name: _within_budget(keyword) for name, keyword in _KEYWORDS.items()}
)
