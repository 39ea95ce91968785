"""Endpoints whose input is described by a JSON Schema of their own."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from serve_app.catalog.fields.pydantic_schema import invalid_input
from serve_app.catalog.schema.json_schema import JsonSchema
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import InvalidInput

OUTPUT: dict[str, Any] = {"type": "object"}
STRICT = {"type": "object", "additionalProperties": False}


def schema_of(schema: Any, output: Any = OUTPUT, **endpoint: Any) -> JsonSchema:
    options = {"input_schema": schema, "output_schema": output}
    return JsonSchema(
        Endpoint("apps/a", "python", Weights("a"), "json", options=options, **endpoint)
    )


def fields(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def refusal(schema: JsonSchema, body: dict[str, Any]) -> InvalidInput:
    with pytest.raises(InvalidInput) as raised:
        schema.validate(body)
    return raised.value


class Flat(BaseModel):
    steps: int = Field(ge=0, le=10, multiple_of=2)
    name: str = Field("a", min_length=1, max_length=3, pattern="^[a-z]+$")
    points: list[float] = Field([], max_length=2)
    mood: Literal["good", "bad"] = "good"
    loud: bool = False
    share: float = Field(0.5, gt=0, lt=1)


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(9, ge=1)


class Dog(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["dog"]
    friend: Animal | None = None


Animal = Annotated[Cat | Dog, Field(discriminator="kind")]


class Zoo(BaseModel):
    animals: list[Animal] = []
    seed: int | None = Field(None, ge=1)
    counts: dict[str, int] = {}
    pair: tuple[int, str] = (1, "a")
    best: Flat | None = None
    parts: dict[Annotated[str, Field(pattern="^x")], int] = {}


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    size: int | str = 1


MODELS: list[type[BaseModel]] = [Flat, Zoo, Closed, Dog]

SCALARS = some.one_of(
    some.none(),
    some.booleans(),
    some.integers(-3, 12),
    # JSON Schema takes a float without a fraction as an integer, and strict pydantic does not.
    some.sampled_from([-0.5, 0.25, 1.5]),
    some.sampled_from(["", "a", "cat", "dog", "good", "abcd", "A1"]),
)
KEYS = some.sampled_from(
    sorted({name for model in (*MODELS, Cat) for name in model.model_fields} | {"x1", "other"})
)
VALUES = some.recursive(
    SCALARS,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


def likely(model: type[BaseModel]) -> some.SearchStrategy[dict[str, Any]]:
    """Objects with fields of the model, most of which have what its schema gives as examples."""
    usual: dict[str, list[Any]] = {
        "steps": [0, 4, 3, 12],
        "name": ["a", "abc", ""],
        "points": [[], [0.5], [1.5, 2, 3]],
        "animals": [[{"kind": "cat"}], [{"kind": "dog", "friend": {"kind": "cat", "lives": 0}}]],
        "kind": ["dog", "cat"],
        "friend": [{"kind": "cat", "lives": 2}, {"kind": "dog", "friend": None}, {"kind": "cow"}],
        "pair": [[1, "a"], [1], ["a", 1]],
        "best": [{"steps": 2}, {"steps": 1}, {}],
        "counts": [{"a": 1}, {"a": "b"}],
        "parts": [{"x1": 1}, {"y": 1}, {"x1": "a"}],
        "size": [1, "a", 0.5],
    }
    values = {
        name: some.sampled_from(usual[name]) | VALUES if name in usual else VALUES
        for name in model.model_fields
    }
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    return some.one_of(
        some.fixed_dictionaries(
            {name: value for name, value in values.items() if name in required},
            optional={name: value for name, value in values.items() if name not in required},
        ),
        some.dictionaries(KEYS, VALUES, max_size=4),
    )


CASES = some.sampled_from(MODELS).flatmap(
    lambda model: some.tuples(some.just(model), likely(model))
)
SCHEMAS = {model: schema_of(model.model_json_schema()) for model in (Flat, Zoo, Closed)}
DOG = TypeAdapter(Dog).json_schema()
SCHEMAS[Dog] = schema_of({**DOG["$defs"]["Dog"], "$defs": DOG["$defs"]})


@pytest.mark.parametrize(("field", "most"), [("steps", "less_than_equal"), ("share", "less_than")])
def test_a_huge_number_is_refused_by_its_bound(field: str, most: str) -> None:
    (problem,) = refusal(SCHEMAS[Flat], {"steps": 2, field: 1e300}).problems
    assert (problem.loc, problem.type) == (("body", field), most)


@given(CASES)
def test_an_input_is_valid_if_and_only_if_pydantic_accepts_it(
    case: tuple[type[BaseModel], dict[str, Any]],
) -> None:
    model, body = case
    text = json.dumps(body)
    if model is Zoo and any(not str(key).startswith("x") for key in _names(body.get("parts"))):
        return  # other names are allowed by pydantic's schema, although its validator refuses them
    try:
        model.model_validate_json(text, strict=True)
        expected = None
    except ValidationError as error:
        expected = invalid_input(error)
    try:
        SCHEMAS[model].validate(json.loads(text))
        raised = None
    except InvalidInput as error:
        raised = error
    assert (raised is None) == (expected is None), (raised, expected)
    if raised is not None and expected is not None and model is Flat:
        # pydantic stops at a field's first problem.
        places = {(problem.loc, problem.type) for problem in raised.problems}
        wrong = {problem.loc[:2] for problem in expected.problems}
        assert {problem.loc[:2] for problem in raised.problems} == wrong
        assert places >= {(problem.loc, problem.type) for problem in expected.problems}


def _names(value: Any) -> list[Any]:
    return list(value) if isinstance(value, dict) else []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"steps": "4"},
        {"steps": -2},
        {"steps": 12},
        {"steps": 3},
        {"steps": 2, "name": ""},
        {"steps": 2, "name": "abcd"},
        {"steps": 2, "name": "A"},
        {"steps": 2, "mood": "so so"},
        {"steps": 2, "share": 0},
        {"steps": 2, "share": 1},
        {"steps": 2, "points": [0, 1, 2]},
        {"steps": 2, "points": [0, "a"]},
        {"steps": 2, "points": 3},
        {"steps": 2, "loud": 1},
        {"steps": True},
    ],
    ids=str,
)
def test_a_problem_is_the_one_that_pydantic_names(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as raised:
        Flat.model_validate(body, strict=True)
    (expected,) = invalid_input(raised.value).problems
    problem, *_ = refusal(SCHEMAS[Flat], body).problems  # pydantic stops at a field's first
    assert (problem.loc, problem.type, problem.value) == (
        expected.loc,
        expected.type,
        expected.value,
    )
    assert problem.context == expected.context
    assert problem.message == expected.message


def test_every_missing_field_is_named() -> None:
    error = refusal(schema_of({**fields(a={}, b={}), "required": ["a", "b"]}), {})
    assert [(problem.loc, problem.type) for problem in error.problems] == [
        (("body", "a"), "missing"),
        (("body", "b"), "missing"),
    ]
    assert str(error) == "a: Field required (and 1 more)"


def test_every_field_that_a_closed_object_lacks_is_named() -> None:
    error = refusal(SCHEMAS[Closed], {"name": "a", "x": 1, "y": 2})
    assert [(problem.loc, problem.type, problem.value) for problem in error.problems] == [
        (("body", "x"), "extra_forbidden", 1),
        (("body", "y"), "extra_forbidden", 2),
    ]


def test_a_problem_in_an_optional_field_is_that_of_its_type() -> None:
    (problem,) = refusal(SCHEMAS[Zoo], {"seed": 0}).problems
    assert (problem.loc, problem.type) == (("body", "seed"), "greater_than_equal")
    assert problem.context == {"ge": 1}


def test_a_problem_in_a_union_is_that_of_the_branch_that_is_meant() -> None:
    body = {"animals": [{"kind": "dog", "friend": {"kind": "cat", "lives": 0}}]}
    (problem,) = refusal(SCHEMAS[Zoo], body).problems
    assert problem.loc == ("body", "animals", 0, "friend", "lives")
    assert problem.type == "greater_than_equal"


def test_a_value_that_fits_no_branch_is_not_repeated_in_the_message() -> None:
    (problem,) = refusal(SCHEMAS[Closed], {"name": "a", "size": ["long"] * 1000}).problems
    assert problem.message == "Input has none of the forms that are possible here"


def test_at_most_twenty_problems_are_named() -> None:
    schema = schema_of(fields(points={"type": "array", "items": {"type": "integer"}}))
    assert len(refusal(schema, {"points": ["a"] * 1000}).problems) == 20


# Defaults, bounds and unknown fields.


def test_defaults_are_filled_in_and_unknown_fields_are_ignored_with_a_warning() -> None:
    schema = schema_of(fields(a={"default": [1]}, b={"type": "integer"}))
    checked, warnings = schema.validate({"b": 2, "c": 3, "d": 4})
    assert checked == {"a": [1], "b": 2}
    assert warnings == ("Ignored, because this endpoint has no such field: c, d.",)
    checked["a"].append(2)
    assert schema.validate({})[0] == {"a": [1]}


def test_an_open_object_keeps_what_it_does_not_know() -> None:
    schema = {**fields(a={}), "additionalProperties": {"type": "integer"}}
    assert schema_of(schema).validate({"b": 1}) == ({"b": 1}, ())
    assert refusal(schema_of(schema), {"b": "x"}).problems[0].loc == ("body", "b")


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
def test_fields_that_only_a_branch_describes_are_kept(keyword: str) -> None:
    schema = {"type": "object", keyword: [fields(b={"type": "integer"})]}
    assert schema_of(schema).validate({"b": 1}) == ({"b": 1}, ())


def test_a_default_that_is_not_valid_is_left_to_the_app() -> None:
    schema = schema_of(fields(seed={"type": "integer", "default": None}))
    assert schema.validate({}) == ({}, ())
    assert refusal(schema, {"seed": None}).problems[0].type == "int_type"


def test_the_entry_narrows_defaults_and_bounds() -> None:
    steps = {"type": "integer", "minimum": 1, "maximum": 50, "default": 20}
    schema = schema_of(
        {**fields(steps=steps, size={}), "required": ["size"]},
        defaults={"steps": 4, "size": "s"},
        bounds={"steps": (0.0, 8.0)},
    )
    assert schema.validate({})[0] == {"steps": 4, "size": "s"}
    assert refusal(schema, {"steps": 9}).problems[0].context == {"le": 8}
    assert refusal(schema, {"steps": 0}).problems[0].context == {"ge": 1}
    described = schema.json_schema()
    assert described["properties"]["steps"] == steps | {"maximum": 8, "default": 4}
    assert described["required"] == []


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"defaults": {"speed": 1}}, "the schema has no field speed"),
        ({"bounds": {"speed": (0, 1)}}, "the schema has no field speed"),
        (
            {"defaults": {"steps": "few"}},
            "the default of steps is not valid: Input should be a valid integer",
        ),
        ({"defaults": {"free": 1}}, "the field free has no schema that could have a default"),
    ],
)
def test_an_entry_that_does_not_fit_is_refused(entry: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        schema_of(fields(steps={"type": "integer"}, free=True), **entry)


# Schemas that are refused.

DEEP: dict[str, Any] = {"type": "object"}
for _ in range(60):
    DEEP = {"type": "object", "properties": {"a": DEEP}}
DEEPER: dict[str, Any] = {"type": "object"}
for _ in range(5000):
    DEEPER = {"type": "object", "properties": {"a": DEEPER}}
CHAIN = {f"A{number}": {"$ref": f"#/$defs/A{number + 1}"} for number in range(1000)}


def with_definitions(**definitions: Any) -> dict[str, Any]:
    return {"type": "object", "$defs": definitions}


@pytest.mark.variants(8)
@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        (None, "needs `options.input_schema`, a JSON Schema"),
        ({"type": "array"}, "must describe an object"),
        ({}, "must describe an object"),
        ({"type": 5}, "is no JSON Schema: type: "),
        (fields(a={"minimum": "1"}), "is no JSON Schema: properties.a.minimum: "),
        (
            fields(a={"$ref": "https://example.com/a"}),
            "refers to https://example.com/a; references",
        ),
        (fields(a={"$ref": "#/properties/a"}), "references must be `#/\\$defs/NAME`"),
        (fields(a={"$ref": "#/$defs/Gone"}), "refers to #/\\$defs/Gone, which is not there"),
        (fields(a={"$dynamicRef": "http://127.0.0.1:9/a"}), "has the keyword `\\$dynamicRef`"),
        (fields(a={"$id": "urn:a"}), "has the keyword `\\$id`, which is not supported"),
        ({"type": "object", "unevaluatedProperties": False}, "keyword `unevaluatedProperties`"),
        (fields(a={"pattern": "(?=a)b"}), "cannot be used: look-around"),
        (fields(a={"pattern": "(a{1000}){1000}"}), "cannot be used: "),
        (fields(a={"patternProperties": {"(": {}}}), "'\\(' is not a 'regex'"),
        (with_definitions(A={"$ref": "#/$defs/A"}), "A from within itself, without end"),
        (
            with_definitions(
                A={"anyOf": [{"$ref": "#/$defs/B"}]}, B={"not": {"$ref": "#/$defs/A"}}
            ),
            "from within itself, without end",
        ),
        (with_definitions(**CHAIN, A1000={}), "lead to others more than 64 times"),
        (DEEP, "is too large: a schema has at most 4000 parts and 100 levels"),
        (DEEPER, "is too large"),
        (fields(**{f"a{number}": {} for number in range(4000)}), "is too large"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_with_a_sentence(
    schema: Any, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        schema_of(schema)
    assert len(str(raised.value)) < 500


def test_a_field_may_have_the_name_of_a_keyword() -> None:
    names = {"$ref": {"type": "string"}, "$id": {"type": "string"}, "pattern": {"enum": ["("]}}
    body = {"$ref": "http://a", "$id": "b", "pattern": "("}
    assert schema_of(fields(**names)).validate(body) == (body, ())


# Values that would take long.


def test_a_pattern_with_nested_repetitions_takes_linear_time() -> None:
    schema = schema_of(fields(a={"type": "string", "pattern": "^(a+)+$"}))
    refusal(schema, {"a": "a" * 100_000 + "!"})
    schema = {"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}
    refusal(schema_of({"type": "object", **schema}), {"a" * 100_000 + "!": 1})


def test_items_that_cannot_be_sorted_are_compared_in_linear_time() -> None:
    schema = schema_of(fields(a={"type": "array", "uniqueItems": True}))
    mixed = [value for number in range(20_000) for value in (number, str(number), {"a": number})]
    assert schema.validate({"a": mixed})[0]["a"] is mixed
    for equal in ([1, 1.0], [{"a": 1, "b": 2}, {"b": 2.0, "a": 1}], [None, None]):
        assert refusal(schema, {"a": equal}).problems[0].loc == ("body", "a")
    assert schema.validate({"a": [1, True, "1", [1], None]})


EITHER = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]}},
    "$defs": {
        name: fields(next={"anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]})
        for name in "AB"
    },
}


def nested_value(depth: int) -> Any:
    value: Any = 1  # of the wrong type, so all branches are tried: 2 ** depth of them
    for _ in range(depth):
        value = {"next": value}
    return value


@pytest.mark.long
@pytest.mark.parametrize("depth", [40, 900])
def test_branches_that_multiply_with_depth_end_with_an_error(depth: int) -> None:
    error = refusal(schema_of(EITHER), nested_value(depth))
    assert "too many or too deeply nested parts" in str(error)


def test_a_value_with_too_many_parts_is_refused() -> None:
    schema = schema_of(fields(a={"type": "array", "items": {"type": "integer", "minimum": 0}}))
    schema.validate({"a": [1] * 10_000})
    assert "too many or too deeply" in str(refusal(schema, {"a": [1] * 200_000}))


def test_a_number_of_hundreds_of_digits_is_checked() -> None:
    schema = schema_of(fields(a={"multipleOf": 0.1}, b={"multipleOf": 3}, c={"maximum": 1.5}))
    schema.validate({"a": 0.3, "b": 3 * 10**400, "c": -(10**400)})
    assert len(refusal(schema, {"a": 10**400, "b": 10**400, "c": 10**400}).problems) == 3


def test_the_schema_of_the_output_is_checked_as_well() -> None:
    with pytest.raises(ValueError, match=r"`options.output_schema` refers to http://a; references"):
        schema_of(OUTPUT, fields(a={"$ref": "http://a"}))
