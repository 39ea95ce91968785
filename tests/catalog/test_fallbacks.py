"""Fallbacks of entries: mistakes are sentences that name their line, and inputs are translated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.catalog.catalog import StoredEntry, combine_entries, load
from serve_app.catalog.entries import EntryBuilder
from serve_app.catalog.fallbacks import input_at, unfit_field
from serve_app.domain.errors import Misconfigured

OWN = {"family": "probe", "schema": "json", "options": {}}
HOSTED = {"secrets": ["FAL_KEY"], "hosted": {"endpoint": "fal-ai/veo3"}}


def schema(*required: str, **properties: Any) -> dict[str, Any]:
    fields = {"type": "object", "properties": properties, "required": [*required]}
    return {"input_schema": fields, "output_schema": {"type": "object", "properties": {}}}


PROMPT = schema("prompt", prompt={"type": "string"}, steps={"type": "integer", "default": 4})
TEXT = schema("text", text={"type": "string"}, seed={"type": "integer"})


def file(tmp_path: Path, **entries: Any) -> Path:
    path = tmp_path / "models.yaml"
    named = {name.replace("__", "/"): entry for name, entry in entries.items()}
    path.write_text(yaml.safe_dump({"built_in": False, "endpoints": named}))
    return path


def own_entry(fallback: Any = None, options: Any = PROMPT) -> dict[str, Any]:
    fields = {**OWN, "options": options}
    return fields if fallback is None else fields | {"fallback": fallback}


def allow_more_fields(options: dict[str, Any]) -> dict[str, Any]:
    """``options`` for an input that may have more fields than it names."""
    return options | {"input_schema": options["input_schema"] | {"additionalProperties": True}}


OTHERS = {
    "a__text": own_entry(options=TEXT),
    "a__open": own_entry(options=allow_more_fields(schema(prompt={"type": "string"}))),
    "a__needy": own_entry(options=allow_more_fields(schema("text", text={"type": "string"}))),
}


@pytest.mark.parametrize(
    ("fallback", "words"),
    [
        ({"endpoint": "no/such"}, "fallback.endpoint: there is no endpoint no/such"),
        ({"endpoint": "a/own"}, "in a circle: a/own → a/own"),
        ({"endpoint": "z/circle"}, "in a circle: a/own → z/circle → a/own"),
        ({"endpoint": "a/text"}, "a/text needs `text`, which a/own does not have: name the field"),
        ({"endpoint": "a/text", "fields": {"prompt": "txt"}}, "a/text has no field `txt`"),
        ({"endpoint": "a/text", "fields": {"promt": "text"}}, "a/own has no field `promt`"),
        ({"endpoint": "a/text", "errors": ["oom"]}, "there is no error `oom`; known are app_not"),
        ({"endpoint": "a/text", "errors": ["cancelled"]}, "`cancelled` cannot be among the errors"),
        ({"endpoint": "a/text", "budget": "20 a day"}, "should be an amount, a currency and a per"),
        ({"endpoint": "a/text", "max_wait_s": 0}, "greater than 0"),
        ({"endpoint": "a/text", "after": 3}, "unknown key `after`"),
        ({"endpoint": "a/text", "fields": {"prompt": "text"}, "budget": "20 EUR/day"}, ""),
        ({"endpoint": "a/text", "fields": {"prompt": "text"}, "errors": ["unavailable"]}, ""),
        ({"endpoint": "a/text", "fields": {"prompt": "text"}, "errors": ["misconfigured"]}, ""),
        ({"endpoint": "a/open", "fields": {"prompt": "words"}}, ""),
        ({"endpoint": "a/open", "fields": {"prompt": None}}, ""),
        ({"endpoint": "a/needy"}, "a/needy needs `text`, which a/own does not have"),
        ({"endpoint": "a/needy", "fields": {"prompt": "text"}}, ""),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, fallback: Any, words: str) -> None:
    path = file(
        tmp_path,
        z__circle=own_entry({"endpoint": "a/own"}),
        a__own=own_entry(fallback),
        **OTHERS,
    )
    if not words:
        fine = file(tmp_path, a__own=own_entry(fallback), **OTHERS)
        catalog = load(fine, demo=False, demo_dir=tmp_path)
        assert catalog.get("a/own").source.fallback is not None
        return
    with pytest.raises(Misconfigured) as raised:
        load(path, demo=False, demo_dir=tmp_path)
    assert words in str(raised.value)
    assert raised.value.message.startswith(f"{path}:")


@pytest.mark.parametrize(
    ("shadow", "words"),
    [
        ({"endpoint": "no/such", "share": 0.1}, "shadow.endpoint: there is no endpoint no/such"),
        ({"endpoint": "a/own", "share": 0.1}, "cannot be compared with itself: name another one"),
        ({"endpoint": "a/text", "share": 0.1}, "a/text needs `text`, which a/own does not have"),
        ({"endpoint": "a/text", "share": 0.1, "fields": {"prompt": "txt"}}, "has no field `txt`"),
        ({"endpoint": "a/text"}, "shadow.share"),
        ({"endpoint": "a/text", "share": 0}, "greater than 0"),
        ({"endpoint": "a/text", "share": 1.5}, "less than or equal to 1"),
        ({"endpoint": "a/text", "share": 1, "budget": "much"}, "should be an amount, a currency"),
    ],
)
def test_a_mistake_in_a_shadow_is_named_with_its_line(
    tmp_path: Path, shadow: Any, words: str
) -> None:
    path = file(tmp_path, a__own=own_entry() | {"shadow": shadow}, a__text=own_entry(options=TEXT))
    with pytest.raises(Misconfigured) as raised:
        load(path, demo=False, demo_dir=tmp_path)
    assert words in str(raised.value)
    assert raised.value.message.startswith(f"{path}:")


def test_shadows_may_be_of_each_other_and_both_hosted(tmp_path: Path) -> None:
    hosted = {"family": "fal", "schema": "open", "options": HOSTED}
    first = hosted | {"shadow": {"endpoint": "a/two", "share": 0.1}}
    two = hosted | {"shadow": {"endpoint": "a/one", "share": 0.1}}
    catalog = load(file(tmp_path, a__one=first, a__two=two), demo=False, demo_dir=tmp_path)
    assert catalog.get("a/one").source.shadow is not None


def test_an_entry_of_the_database_outlives_its_shadow(tmp_path: Path) -> None:
    shadow = {"endpoint": "a/text", "share": 1, "fields": {"prompt": "text"}}
    builder = EntryBuilder(demo=False, demo_dir=tmp_path)
    kept = StoredEntry("a/own", own_entry() | {"shadow": shadow})
    assert combine_entries(None, builder, [kept]).invalid == {}
    other = StoredEntry("a/text", own_entry(options=PROMPT))
    both = combine_entries(None, builder, [kept, other])
    assert "a/text has no field `text`" in both.invalid["a/own"]


def test_two_providers_are_not_called_for_one_request(tmp_path: Path) -> None:
    hosted = {"family": "fal", "schema": "open", "options": HOSTED}
    path = file(tmp_path, a__one=hosted | {"fallback": {"endpoint": "a/two"}}, a__two=hosted)
    with pytest.raises(Misconfigured, match="a request calls one provider at most"):
        load(path, demo=False, demo_dir=tmp_path)


def test_an_entry_of_the_database_outlives_its_fallback(tmp_path: Path) -> None:
    fallback = {"endpoint": "a/text", "fields": {"prompt": "text"}}
    builder = EntryBuilder(demo=False, demo_dir=tmp_path)
    kept = StoredEntry("a/own", own_entry(fallback))
    there = combine_entries(None, builder, [kept, StoredEntry("a/text", own_entry(options=TEXT))])
    assert there.invalid == {}
    gone = combine_entries(None, builder, [kept])
    assert (gone.find("a/own") is not None, gone.invalid) == (True, {})
    circle = [kept, StoredEntry("a/text", own_entry({"endpoint": "a/own"}, TEXT))]
    both = combine_entries(None, builder, circle)
    assert "in a circle" in both.invalid["a/own"]


def test_an_input_has_the_names_of_the_other_endpoint(tmp_path: Path) -> None:
    path = file(tmp_path, a__own=own_entry(), a__text=own_entry(options=TEXT))
    catalog = load(path, demo=False, demo_dir=tmp_path)
    first, other = catalog.get("a/own"), catalog.get("a/text")
    fields = {"prompt": "text"}
    assert unfit_field(first, other, fields, {"prompt": "a fox", "steps": 4}) == ""
    assert unfit_field(first, other, fields, {"prompt": "a fox", "steps": 5}) == "steps"
    assert unfit_field(first, other, {**fields, "steps": None}, {"steps": 5}) == ""
    assert input_at(other, fields, {"prompt": "a fox", "steps": 4}) == {"text": "a fox"}


def test_an_open_schema_takes_every_field(tmp_path: Path) -> None:
    path = file(tmp_path, a__own=own_entry({"endpoint": "a/open"}), **OTHERS)
    catalog = load(path, demo=False, demo_dir=tmp_path)
    first, other = catalog.get("a/own"), catalog.get("a/open")
    body = {"prompt": "a fox", "steps": 5}
    assert unfit_field(first, other, {}, body) == ""
    assert input_at(other, {}, body) == body
    assert input_at(other, {"prompt": None}, body) == {"steps": 5}
