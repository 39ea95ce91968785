"""Places of files in the inputs of executors."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as some

from deployments.executors.places import file_places, replace_at

FILE = {"type": "string", "format": "uri", "x-darkroom-file": "image"}
TEXT = {"type": "string"}

Case = tuple[dict[str, Any], Any, list[tuple[str | int, ...]]]


def _within(key: str | int, places: list[tuple[str | int, ...]]) -> list[tuple[str | int, ...]]:
    return [(key, *place) for place in places]


@some.composite
def objects(draw: Any, inner: some.SearchStrategy[Case]) -> Case:
    cases = draw(some.dictionaries(some.sampled_from("abcd"), inner, max_size=3))
    there = {name: case for name, case in cases.items() if draw(some.booleans())}
    value = {name: case[1] for name, case in there.items()}
    places = [place for name in there for place in _within(name, there[name][2])]
    if draw(some.booleans()):
        return (
            {
                "type": "object",
                "properties": {name: case[0] for name, case in cases.items()},
            },
            value,
            places,
        )
    schema, more, nested = draw(inner)
    keyword = draw(some.sampled_from(["additionalProperties", "patternProperties"]))
    described = {"^z": schema} if keyword == "patternProperties" else schema
    return (
        {
            "type": "object",
            "properties": {name: case[0] for name, case in cases.items()},
            keyword: described,
        },
        {**value, "z": more},
        places + _within("z", nested),
    )


@some.composite
def lists(draw: Any, inner: some.SearchStrategy[Case]) -> Case:
    first = draw(some.lists(inner, max_size=2))
    schema, value, places = draw(inner)
    count = draw(some.integers(0, 2))
    located = [place for n, case in enumerate(first) for place in _within(n, case[2])]
    located += [place for n in range(count) for place in _within(len(first) + n, places)]
    described: dict[str, Any] = {"type": "array", "items": schema}
    described |= {"prefixItems": [case[0] for case in first]} if first else {}
    return described, [*(case[1] for case in first), *[value] * count], located


@some.composite
def unions(draw: Any, inner: some.SearchStrategy[Case]) -> Case:
    """Two branches that a constant tells apart, and null."""
    branches = [draw(inner), draw(inner)]
    chosen = draw(some.integers(0, 2))
    keyword = draw(some.sampled_from(["anyOf", "oneOf"]))
    described = [
        {
            "type": "object",
            "properties": {"kind": {"const": name}, "value": branch[0]},
            "required": ["kind", "value"],
        }
        for name, branch in zip("xy", branches, strict=True)
    ]
    schema = {keyword: [*described, {"type": "null"}]}
    if chosen == 2:
        return schema, None, []
    _, value, places = branches[chosen]
    return schema, {"kind": "xy"[chosen], "value": value}, _within("value", places)


LEAVES: some.SearchStrategy[Case] = some.sampled_from(
    [
        (FILE, "https://host/a.png", [()]),
        (TEXT, "https://host/not-a-file", []),
        ({"type": "integer"}, 3, []),
        ({}, {"any": "https://host/thing"}, []),
        ({"$ref": "#/$defs/File"}, "https://host/b.png", [()]),
        ({"$ref": "#/$defs/Far", "description": "d"}, {"in": ["https://host/c.png"]}, [("in", 0)]),
        ({"anyOf": [FILE, {"type": "null"}]}, None, []),
        ({"anyOf": [FILE, {"type": "null"}]}, "https://host/d.png", [()]),
        ({"allOf": [TEXT, FILE]}, "https://host/e.png", [()]),
    ]
)
CASES = some.recursive(
    LEAVES, lambda inner: objects(inner) | lists(inner) | unions(inner), max_leaves=8
)
DEFINITIONS = {
    "File": FILE,
    "List": {"type": "array", "items": {"$ref": "#/$defs/File"}},
    "Far": {"type": "object", "properties": {"in": {"$ref": "#/$defs/List"}}},
}


@given(CASES)
def test_files_are_found_where_the_schema_has_them_and_nowhere_else(case: Case) -> None:
    schema, value, places = case
    whole = {"type": "object", "properties": {"x": schema}, "$defs": DEFINITIONS}
    located = list(file_places({"x": value}, whole))
    assert sorted(map(str, located)) == sorted(map(str, _within("x", places)))
    for place in located:
        changed = replace_at({"x": value}, place, "new")
        assert replace_at(changed, place, _at({"x": value}, place)) == {"x": value}


def _at(value: Any, place: tuple[str | int, ...]) -> Any:
    for part in place:
        value = value[part]
    return value


def test_a_model_that_contains_itself_ends() -> None:
    node = {
        "type": "object",
        "properties": {"image": FILE, "next": {"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]}},
    }
    value = {"image": "a", "next": {"image": "b", "next": None}}
    assert list(file_places(value, {**node, "$defs": {"N": node}})) == [
        ("image",),
        ("next", "image"),
    ]
