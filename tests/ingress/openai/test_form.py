"""Fields of an endpoint in a form, as OpenAI's clients write them."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._qs import Querystring

from serve_app.catalog.catalog import CatalogEntry
from serve_app.catalog.schema.registry import SCHEMAS
from serve_app.catalog.source import EndpointSource
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import InvalidInput
from serve_app.ingress.openai.form import MAX_DEPTH, convert_types, unfold
from serve_app.ingress.openai.image_parameters import ImageParameters
from serve_app.ingress.submission.model_lookup import EndpointFields


def encode_form(body: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and texts, in the order in which OpenAI's Python client sends them."""
    items = Querystring().stringify_items(body, array_format="brackets")
    names = dict.fromkeys(name for name, _ in items)
    return [(name, text) for field in names for name, text in items if name == field]


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": "a fox", "seed": "5"},
        {"image_size": {"width": "512", "height": "256"}},
        {"names": ["a", "b"], "one": ["c"]},
        {"loras": [{"path": "a", "scale": "1"}, {"path": "b", "scale": "2"}]},
        {"a": {"b": {"c": [{"d": {"e": "1"}}, {"d": {"e": "2"}}]}}},
    ],
)
def test_what_openais_client_folds_is_unfolded(given: dict[str, Any]) -> None:
    assert unfold(encode_form(given)) == given


def test_items_come_field_by_field_or_item_by_item() -> None:
    """OpenAI's Python client sends the first, and its JavaScript client the second."""
    names = ("loras[][path]", "loras[][path]", "loras[][scale]", "loras[][scale]")
    by_field = [*zip(names, ("a", "b", "1", "2"), strict=True)]
    by_item = [by_field[number] for number in (0, 2, 1, 3)]
    items = [{"path": "a", "scale": "1"}, {"path": "b", "scale": "2"}]
    assert unfold(by_field) == unfold(by_item) == {"loras": items}


@pytest.mark.parametrize(
    ("names", "field", "message"),
    [
        (["a["], "a[", "not well formed"),
        (["[a]"], "[a]", "not well formed"),
        (["a]b[c]"], "a]b[c]", "not well formed"),
        (["a[]b"], "a[]b", "not well formed"),
        (["a" + "[b]" * (MAX_DEPTH + 1)], "a" + "[b]" * (MAX_DEPTH + 1), "nest less deeply"),
        (["a" + "[b]" * 100_000], ("a" + "[b]" * 100)[:100], "nest less deeply"),
        (["a[][]"], "a[][]", "list in a list"),
        (["a[][b][]"], "a[][b][]", "list in a list"),
        (["a", "a[b]"], "a[b]", "two ways"),
        (["a[b]", "a"], "a", "two ways"),
        (["a[]", "a[b]"], "a", "two ways"),
        (["a[]", "a[][b]"], "a[][b]", "two ways"),
        (["a[][b]", "a[][b]", "a[][c]"], "a", "send all of them in each item"),
    ],
)
def test_names_that_say_no_value_are_refused_with_their_field(
    names: list[str], field: str, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        unfold([(name, "x") for name in names])
    assert caught.value.problems[0].loc == ("body", field)


@given(st.lists(st.tuples(st.text("ab[]", min_size=1, max_size=12), st.just("x")), max_size=6))
def test_any_names_are_unfolded_or_refused(texts: list[tuple[str, str]]) -> None:
    with contextlib.suppress(InvalidInput):
        unfold(texts)


FIELDS = {
    "count": {"type": "integer"},
    "share": {"anyOf": [{"type": "number"}, {"type": "null"}]},
    "fast": {"type": ["boolean", "null"]},
    "name": {"type": "string"},
    "shape": {"anyOf": [{"type": "string", "enum": ["square"]}, {"type": "integer"}]},
    "label": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
    "steps": {"allOf": [{"$ref": "#/$defs/steps"}], "default": 4},
    "seeds": {"type": "array", "items": {"type": "integer"}},
    "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}},
    "rates": {"type": "object", "additionalProperties": {"type": "number"}},
}
DEFINITIONS = {
    "steps": {"enum": [2, 4]},
    "part": {
        "type": "object",
        "properties": {"weight": {"type": "number"}, "path": {"type": "string"}},
    },
}


@pytest.fixture(scope="module")
def fields() -> EndpointFields:
    schema = {"type": "object", "properties": FIELDS, "$defs": DEFINITIONS}
    options = {"input_schema": schema, "output_schema": {"type": "object"}}
    endpoint = Endpoint("apps/model", "cog", Weights(""), "json", options=options)
    source = EndpointSource(family="cog", schema="json")
    return EndpointFields(CatalogEntry(endpoint, SCHEMAS["json"](endpoint), source))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "5", 5),
        ("count", "-5", -5),
        ("count", "5.5", 5.5),
        ("count", "five", "five"),
        ("count", "9" * 5000, "9" * 5000),
        ("count", "٣", "٣"),
        ("share", "0.25", 0.25),
        ("share", "1e-07", 1e-07),
        ("share", "1e999", "1e999"),
        ("share", "nan", "nan"),
        ("fast", "true", True),
        ("fast", "false", False),
        ("fast", "1", "1"),
        ("name", "5", "5"),
        ("shape", "square", "square"),
        ("shape", "512", 512),
        ("label", "5", "5"),
        ("steps", "4", 4),
        ("seeds", ["1", "2"], [1, 2]),
        ("parts", [{"weight": "0.5", "path": "7"}], [{"weight": 0.5, "path": "7"}]),
        ("rates", {"a": "1"}, {"a": 1}),
        ("unknown", "5", "5"),
    ],
)
def test_texts_get_the_types_of_the_endpoints_schema(
    fields: EndpointFields, name: str, text: Any, value: Any
) -> None:
    parameters = ImageParameters.read({"prompt": "x", name: text})
    typed_value = (convert_types(parameters, fields).model_extra or {})[name]
    assert (typed_value, type(typed_value)) == (value, type(value))
