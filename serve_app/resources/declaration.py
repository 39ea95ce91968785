"""Declarations of resources: what users list, show, create, change and delete.

One declaration each says what a resource is, whose it is, and who may see it. From it come its
routes with their scopes and their description (``serve_app.ingress.resources``), its plain commands
(``serve_app.cli.connection.resources``), its tables on the page
(``serve_app/page/operator/resource_table.js``), and what of it the export and the deletion of a
tenant take along.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Generic, Literal, TypeVar, cast, get_args, get_type_hints

from pydantic import Field

Row = TypeVar("Row")
Format = Literal["text", "sentence", "code", "state", "number", "bytes", "time", "yes_no"]
_SENTENCES = frozenset({"description", "error", "problem", "problems", "reason", "text"})


class Owner(Enum):
    """Owner of the resources that a call is about."""

    CALLER = "caller"
    """The caller's tenant."""
    TENANT = "tenant"
    """The caller's tenant, or the one of ``?tenant=``, which only operators may name."""
    TENANT_OR_INSTALLATION = "tenant or installation"
    """As ``TENANT``; or with ``?installation=true`` those of the installation, for operators."""
    INSTALLATION = "installation"
    """The installation."""


@dataclass(frozen=True, slots=True)
class Column:
    """Column of the tables that show a resource, and line of what shows one."""

    field: Annotated[str, Field(description="Of a resource in the list.")]
    heading: str = ""  # if it is not the words of the field
    absent: Annotated[str, Field(description="Shown for null, and for what is empty.")] = "–"
    under: Annotated[
        str, Field(description="Field in whose cell the page has it, if it is set.")
    ] = ""
    format: Format = "text"  # of a resource's ``table_columns``: by the type of the field


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource(Generic[Row]):
    """A kind of thing that users keep."""

    name: str  # for people, such as "share link"
    plural: str = ""  # if it is not the name and an s
    parameter: str = ""  # of paths, and in names of calls; if it is not the name
    path: str  # of the list
    model: type[Row]  # a dataclass, as which each is shown
    key: str  # field of the model that names one
    key_description: str
    key_has_slashes: bool = False
    cursor: str = ""  # field that differs for all in a list, if the key does not
    scope: str = ""  # any key, if it is empty
    change_scope: str = ""  # of calls that change something, if it is another one
    owner: Owner = Owner.CALLER
    columns: Sequence[str | Column] = ()  # that tables show; a field alone says all of most
    about: str = ""  # what they are; if it is set, plain commands and a plain table show them
    listed: str = ""  # how plain calls list them, such as "by name"
    has_show: bool = False  # one is read by its key
    deletion: str = ""  # a sentence on what it does
    delete_verb: str = "delete"  # such as revoke
    force: str = ""  # what ``?force=true`` does, if a deletion without it can be refused
    restart: str = ""  # a sentence on what it does
    empty: str = ""  # a sentence on a list with none, if it does not have all that there are
    below: str = ""  # a sentence below a list, with fields of its answer in braces
    table: str = ""  # if ``PostgresTable`` keeps them
    owner_column: str = "tenant"
    max_per_owner: int = 0
    body: Any = None  # model of what plain calls set
    other_tables: Sequence[str] = ()  # whose rows are deleted with their ``tenant``
    tables_with_files: Sequence[str] = ()  # as these, and with each row the stored file ``key``

    def __post_init__(self) -> None:
        word = self.name.replace(" ", "_")
        for name, usual in (("plural", f"{self.name}s"), ("parameter", word), ("cursor", self.key)):
            object.__setattr__(self, name, getattr(self, name) or usual)
        object.__setattr__(self, "empty", self.empty or f"There are no {self.plural}.")

    @property
    def name_with_article(self) -> str:
        """The name with its article."""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"

    @property
    def items(self) -> str:
        """Field of a list that has the resources."""
        return self.plural.replace(" ", "_")

    @property
    def path_of_one(self) -> str:
        """Path with the parameter."""
        return f"{self.path}/{{{self.parameter}{':path' if self.key_has_slashes else ''}}}"

    @property
    def tables(self) -> Mapping[str, str]:
        """Tables whose rows are deleted with a tenant, each with the column that names it."""
        own = {self.table: self.owner_column} if self.table else {}
        return {**own, **dict.fromkeys(self.other_tables, "tenant")}

    @property
    def fields(self) -> Sequence[str]:
        """Fields of the model, in their order."""
        return [field.name for field in fields(cast("Any", self.model))]

    @property
    def table_columns(self) -> Sequence[Column]:
        """``columns``, each with its heading and its format."""
        return [self._column(column) for column in self.columns]

    @property
    def detail_columns(self) -> Sequence[Column]:
        """All fields, for what shows one: those of ``columns`` as there, and the others."""
        known = {column.field: column for column in self.table_columns}
        return [known.get(name) or self._column(name) for name in self.fields]

    def _column(self, written: str | Column) -> Column:
        column = Column(written) if isinstance(written, str) else written
        heading = column.heading or column.field.replace("_", " ").capitalize()
        return replace(column, heading=heading, format=self._format(column.field))

    def _format(self, name: str) -> Format:
        if name in (self.key, self.cursor, "id") or name.endswith("_id"):
            return "code"
        if name == "state":
            return "state"
        if name in _SENTENCES:
            return "sentence"
        if name == "size" or name.endswith("_bytes"):
            return "bytes"
        kind = _types(self.model)[name]
        kinds = {kind, *get_args(kind)}
        for types, column_format in _FORMATS:
            if kinds & types:
                return column_format
        return "text"


@functools.cache  # a millisecond for each column, at each start
def _types(model: type) -> Mapping[str, Any]:
    return get_type_hints(model)


_FORMATS: Sequence[tuple[Set[type], Format]] = (
    (frozenset({datetime}), "time"),
    (frozenset({bool}), "yes_no"),
    (frozenset({int, float}), "number"),
)


def plain(value: Any) -> Any:  # noqa: PLR0911 one for each kind
    """A model as JSON has it: times in ISO 8601, sets sorted."""
    match value:
        case datetime():
            return value.isoformat()
        case Enum():
            return value.value
        case str() | None:
            return value
        case Mapping():
            return {name: plain(item) for name, item in cast("Mapping[str, Any]", value).items()}
        case Set():
            return sorted(plain(item) for item in cast("Set[Any]", value))
        case Sequence():
            return [plain(item) for item in cast("Sequence[Any]", value)]
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        case _:
            return value
