"""Resources as text: tables, and one with all of its fields."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from serve_app.cli.connection.resources import details, table
from serve_app.resources.declaration import Column, Resource


@dataclass(frozen=True, slots=True)
class Thing:
    thing_id: str
    title: str
    state: str
    made_at: datetime
    uploads_bytes: int | None
    count: int
    public: bool
    reason: str | None
    parts: tuple[str, ...]
    limits: dict[str, Any]


THINGS = Resource(
    name="thing",
    path="/v1/things",
    model=Thing,
    key="title",
    key_description="Title.",
    columns=(
        *("title", "made_at", "uploads_bytes", "public", "parts"),
        Column("reason", "Why", "no reason"),
    ),
)
ROW: dict[str, Any] = {
    "thing_id": "t-1",
    "title": "two\nlines",
    "state": "new",
    "made_at": "2026-11-28T09:30:00.123+00:00",
    "uploads_bytes": 2_500_000,
    "count": 3,
    "public": True,
    "reason": None,
    "parts": ["a", "b"],
    "limits": {"max_running": {"value": None, "source": "file"}},
}


def test_a_table_shows_values_by_their_fields_and_types() -> None:
    assert table(THINGS.table_columns, [ROW]) == [
        "TITLE      MADE AT              UPLOADS BYTES  PUBLIC  PARTS  WHY",
        "two lines  2026-11-28 09:30:00  2.5 MB         yes     a, b   no reason",
    ]


def test_formats_are_those_of_fields_and_types() -> None:
    formats = {column.field: column.format for column in THINGS.detail_columns}
    assert formats == {
        "thing_id": "code",
        "title": "code",
        "state": "state",
        "made_at": "time",
        "uploads_bytes": "bytes",
        "count": "number",
        "public": "yes_no",
        "reason": "sentence",
        "parts": "text",
        "limits": "text",
    }


def test_one_is_shown_with_all_of_its_fields_and_tables_of_those_that_have_several() -> None:
    lines = [*details(THINGS.detail_columns, ROW)]
    assert lines[0] == "Thing id       t-1"
    assert "Why            no reason" in lines
    assert lines[-3:] == [
        "Limits",
        "    NAME         VALUE  SOURCE",
        "    max_running  –      file",
    ]
