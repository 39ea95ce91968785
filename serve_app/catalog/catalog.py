"""Catalogue of the endpoints that this installation serves."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from serve_app.catalog import suggestions
from serve_app.catalog.entries import CatalogEntry, EntryBuilder, EntryOrigin
from serve_app.catalog.fal_types import fal_ids
from serve_app.catalog.fallbacks import input_at, problem_of
from serve_app.catalog.known_keys import unknown_options
from serve_app.catalog.source import CatalogSource, EndpointSource, SourceFile
from serve_app.domain.errors import (
    EndpointNotFound,
    EndpointNotServed,
    FieldProblem,
    InvalidInput,
    Misconfigured,
)
from serve_app.domain.executors.hosted import EVERY
from serve_app.options.hosted import HostedEndpoint
from serve_app.options.mistakes import Place, mistakes_of

BUILT_IN = Path(__file__).with_name("models.yaml")


@dataclass(frozen=True, slots=True)
class ValidInput:
    """Validated input with its defaults, and warnings for its sender."""

    input: dict[str, Any]
    warnings: tuple[str, ...]


class Catalog:
    """Endpoints by id. Created by ``load``.

    Private endpoints are only in the catalogue ``of_tenant``, so a reader that names no tenant sees
    none.
    """

    def __init__(
        self,
        entries: Mapping[str, CatalogEntry],
        fal_ids: Container[str] = (),
        invalid: Mapping[str, str] | None = None,
        private: Sequence[CatalogEntry] = (),
    ) -> None:
        """``fal_ids``: the ids of fal's endpoints; most are not in this catalogue. ``invalid``:
        entries of the database that are left out, each with a sentence. ``private``: endpoints of
        tenants, and public workflows; one whose id a public entry has is left out."""
        self._given = dict(entries)
        self._entries = {k: entry for k, entry in entries.items() if not k.endswith(f"/{EVERY}")}
        self._several = {k: entry for k, entry in entries.items() if k not in self._entries}
        self._passed: dict[str, CatalogEntry] = {}
        self._fal_ids = fal_ids
        self.invalid: Mapping[str, str] = invalid or {}
        self._private = {
            entry.endpoint.id: entry for entry in private if entry.endpoint.id not in self._entries
        }
        self._views: dict[str, Catalog] = {}

    def of_tenant(self, tenant: str) -> Catalog:
        """Catalogue as a tenant sees it: with its private endpoints, after the public ones."""
        if not self._private:
            return self
        if (view := self._views.get(tenant)) is None:
            seen = (tenant, "")
            own = {k: entry for k, entry in self._private.items() if entry.tenant in seen}
            view = Catalog({**self._given, **own}, self._fal_ids) if own else self
            self._views[tenant] = view
        return view

    def with_private(self, private: Sequence[CatalogEntry]) -> Catalog:
        """This catalogue with these private endpoints in place of others."""
        return Catalog(self._given, self._fal_ids, self.invalid, private)

    def find_any(self, endpoint_id: str) -> CatalogEntry | None:
        """A listed entry, public or of any tenant. Only for requests that were accepted."""
        return self.find(endpoint_id) or self._private.get(endpoint_id)

    def every(self) -> Iterator[CatalogEntry]:
        """All listed entries, with those of tenants."""
        yield from self._entries.values()
        yield from self._private.values()

    @property
    def bases(self) -> Mapping[str, str]:
        """Private endpoints of all tenants, with the endpoints that they are like."""
        return {id_: entry.base for id_, entry in self._private.items()}

    def become(self, other: Catalog) -> None:
        """Take the entries of ``other``. All that hold this catalogue see them."""
        self._given, self._entries, self._several = other._given, other._entries, other._several
        self._fal_ids, self._passed = other._fal_ids, {}
        self.invalid = other.invalid
        self._private, self._views = other._private, {}

    def __iter__(self) -> Iterator[CatalogEntry]:
        """All listed entries, served or not."""
        return iter(self._entries.values())

    def find(self, endpoint_id: str) -> CatalogEntry | None:
        """A listed entry, served or not; or one that an entry for several endpoints stands for,
        also in place of a built-in one that is not served here. None if there is none."""
        own = self._entries.get(endpoint_id)
        return self._in_place_of(endpoint_id, own) if own is None or own.missing else own

    def _in_place_of(self, endpoint_id: str, own: CatalogEntry | None) -> CatalogEntry | None:
        """Entry for an id whose own entry is not served, or not there."""
        if own is not None and own.origin is not EntryOrigin.BUILT_IN:
            return own  # the operator has written it, and it says why it is not served
        passed = self._passed_through(endpoint_id)
        return own if passed is None or (own and passed.missing) else passed

    def _passed_through(self, endpoint_id: str) -> CatalogEntry | None:
        """Entry of an endpoint of fal's that is passed through. Only ids that fal's client knows:
        what counts by endpoint would grow with any others."""
        if not self._several or endpoint_id not in self._fal_ids:
            return None
        if (known := self._passed.get(endpoint_id)) is not None:
            return known
        names = [name for name in self._several if endpoint_id.startswith(name[: -len(EVERY)])]
        if not names:
            return None
        entry = self._several[max(names, key=len)]
        passed_entry = replace(entry, endpoint=HostedEndpoint.with_id(entry.endpoint, endpoint_id))
        self._passed[endpoint_id] = passed_entry
        return passed_entry

    def get_listed(self, endpoint_id: str) -> CatalogEntry:
        """The same as ``find``. ``EndpointNotFound`` names ids of the same kind."""
        entry = self.find(endpoint_id)
        if entry is None:
            served = {
                candidate.endpoint.id: candidate.endpoint.category
                for candidate in self._entries.values()
                if not candidate.missing
            }
            raise EndpointNotFound(suggestions.sentence(endpoint_id, served, self._fal_ids))
        return entry

    def get(self, endpoint_id: str) -> CatalogEntry:
        """An entry that is served. Raises ``EndpointNotFound``, or ``EndpointNotServed`` with the
        reason."""
        entry = self.get_listed(endpoint_id)
        if entry.missing:
            raise EndpointNotServed(f"{endpoint_id} is not served here. {entry.missing}")
        return entry

    def validate(
        self, endpoint_id: str, body: object, origin: Mapping[str, Any] | None = None
    ) -> ValidInput:
        """Validate an input. ``InvalidInput`` names every invalid field; unknown fields become
        warnings. ``origin``: see ``InputSchema.validate``."""
        entry = self.get(endpoint_id)
        if not isinstance(body, dict):
            raise InvalidInput("The body must be a JSON object with the input's fields.")
        checked, warnings = entry.schema.validate(cast("dict[str, Any]", body), origin)
        if entry.demo:
            real = entry.endpoint.display_name or endpoint_id
            warnings = (f"This is Darkroom's tiny demo model, not the real {real}.", *warnings)
            if unknown := entry.endpoint.unknown_words(checked.get("prompt")):
                warnings = (*warnings, unknown_sentence(unknown))
        return ValidInput(checked, warnings)

    def fallback_input(
        self, endpoint_id: str, fields: Mapping[str, str | None], input: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Input of a request that fell back to this endpoint. ``InvalidInput``: it was changed, and
        does not take it."""
        return input_at(self.get(endpoint_id), fields, input)

    def families(self) -> frozenset[str]:
        return frozenset(entry.endpoint.family for entry in self)


MOST_NAMED = 5  # unknown words in a sentence


def unknown_sentence(words: Sequence[str]) -> str:
    """Sentence about words that a demo model ignores."""
    more = f" and {len(words) - MOST_NAMED} more" if len(words) > MOST_NAMED else ""
    return f"The demo model does not know: {', '.join(words[:MOST_NAMED])}{more}."


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """Entry of the database, as it was written."""

    endpoint: str
    entry: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CatalogFile:
    """Catalogue file that was read."""

    file: SourceFile
    source: CatalogSource


def read_file(path: Path | None) -> CatalogFile | None:
    """Read the operator's own file. ``Misconfigured``, with file and line, if it is invalid."""
    if path is None:
        return None
    file = SourceFile(path)
    return CatalogFile(file, file.read())


def load(
    path: Path | None, *, demo: bool, demo_dir: Path, families: Container[str] | None = None
) -> Catalog:
    """Load the built-in catalogue and the file ``path``, without the entries of a database.

    The other arguments are those of ``EntryBuilder``. Every error is ``Misconfigured`` and names
    file and line.
    """
    return combine_entries(read_file(path), EntryBuilder(demo, demo_dir, families))


def combine_entries(
    own: CatalogFile | None, builder: EntryBuilder, stored: Sequence[StoredEntry] = ()
) -> Catalog:
    """Combine the built-in catalogue, the operator's ``own`` file, and entries of the database.

    A later one replaces an entry of the same id. An invalid entry of a file is ``Misconfigured``,
    with file and line. An invalid entry of the database is left out, with what it replaces.
    """
    entries: dict[str, CatalogEntry] = {}
    if own is None or own.source.built_in:
        for endpoint_id, definition in _built_in().endpoints.items():
            _add(
                entries,
                _build_entry(builder, _BUILT_IN_FILE, endpoint_id, definition),
                EntryOrigin.BUILT_IN,
            )
    if own is not None:
        for endpoint_id, definition in own.source.endpoints.items():
            _add(
                entries, _build_entry(builder, own.file, endpoint_id, definition), EntryOrigin.FILE
            )
        # Of the files only: an entry of the database may be removed at any time.
        _check_fallbacks(own, entries)
    invalid: dict[str, str] = {}
    for stored_entry in stored:
        try:
            built = build_stored(builder, stored_entry, strict=False)
        except InvalidInput as error:
            entries.pop(stored_entry.endpoint, None)
            invalid[stored_entry.endpoint] = error.message
        else:
            _add(entries, built, EntryOrigin.DATABASE)
    for endpoint_id, sentence in _unfit_fallbacks(Catalog(entries, fal_ids())).items():
        del entries[endpoint_id]
        invalid[endpoint_id] = sentence
    return Catalog(entries, fal_ids(), invalid)


def _check_fallbacks(own: CatalogFile, entries: Mapping[str, CatalogEntry]) -> None:
    catalog: Catalog | None = None
    for endpoint_id, definition in own.source.endpoints.items():
        if definition.fallback is not None or definition.shadow is not None:
            catalog = catalog or Catalog(entries, fal_ids())
            if (problem := problem_of(entries[endpoint_id], catalog.find)) is not None:
                place, what = problem
                raise own.file.error_at(("endpoints", endpoint_id, *place), what)


def _unfit_fallbacks(catalog: Catalog) -> Mapping[str, str]:
    """Entries of the database whose fallback or shadow cannot run their requests, with the reason.
    One whose fallback or shadow is gone is served without it."""
    return {
        entry.endpoint.id: f"{'.'.join(map(str, problem[0]))}: {problem[1]}."
        for entry in catalog
        if entry.origin is EntryOrigin.DATABASE
        and (problem := problem_of(entry, catalog.find, may_be_gone=True)) is not None
    }


def check_fallback(entry: CatalogEntry, catalog: Catalog) -> None:
    """Raise ``InvalidInput`` if the fallback or shadow of a new entry cannot run its requests."""

    def find(endpoint_id: str) -> CatalogEntry | None:
        return entry if endpoint_id == entry.endpoint.id else catalog.find(endpoint_id)

    if (problem := problem_of(entry, find)) is not None:
        raise _invalid([(("endpoints", entry.endpoint.id, *problem[0]), problem[1])])


_BUILT_IN_FILE = SourceFile(BUILT_IN)


@cache
def _built_in() -> CatalogSource:
    """Entries of the built-in file, which never changes. Parsing them takes half a second."""
    return _BUILT_IN_FILE.read()


def _build_entry(
    builder: EntryBuilder, file: SourceFile, endpoint_id: str, source: EndpointSource
) -> CatalogEntry:
    try:
        return builder.build(endpoint_id, source)
    except ValueError as error:
        raise file.error_at(("endpoints", endpoint_id), str(error)) from error


def _add(entries: dict[str, CatalogEntry], entry: CatalogEntry, origin: EntryOrigin) -> None:
    """Add an entry, at the place of the one that it replaces."""
    before = entries.get(entry.endpoint.id)
    replaces = () if before is None else (*before.replaces, before.origin)
    entries[entry.endpoint.id] = replace(entry, origin=origin, replaces=replaces)


def build_stored(builder: EntryBuilder, stored_entry: StoredEntry, *, strict: bool) -> CatalogEntry:
    """Build an entry of the database. ``InvalidInput`` names every mistake.

    ``strict``: options that the family does not read are mistakes.
    """
    try:
        source = CatalogSource.model_validate(
            {"endpoints": {stored_entry.endpoint: stored_entry.entry}}
        )
    except ValidationError as error:
        raise _invalid([*mistakes_of(CatalogSource, error)]) from None
    entry = source.endpoints[stored_entry.endpoint]
    if strict and (unknown := [*unknown_options(entry.family, entry.options)]):
        raise _invalid(
            [(("endpoints", stored_entry.endpoint, *place), what) for place, what in unknown]
        )
    try:
        return builder.build(stored_entry.endpoint, entry)
    except (ValueError, TypeError, AttributeError) as error:  # values of `options` have any type
        raise InvalidInput(f"{stored_entry.endpoint}: {error}.") from error


def _invalid(mistakes: Sequence[tuple[Place, str]]) -> InvalidInput:
    problems = tuple(
        FieldProblem(("body", *inside), what, "value_error")
        for place, what in mistakes
        for inside in ([part for part in place[2:] if part != "[key]"],)
    )
    return InvalidInput.of_problems(problems)


def mistakes_in_file(path: Path) -> Sequence[Misconfigured]:
    """All mistakes of a catalogue file, with their lines: also options that would be ignored.

    The file may belong to another installation, so families and pools are not compared.
    """
    file = SourceFile(path)
    try:
        source = file.parse()
    except Misconfigured as error:
        return [error]
    if not isinstance(source, CatalogSource):
        return source
    builder = EntryBuilder(demo=False, demo_dir=Path("/"))
    mistakes: list[Misconfigured] = []
    for endpoint_id, definition in source.endpoints.items():
        place = ("endpoints", endpoint_id)
        mistakes += [
            file.error_at((*place, *inner), what)
            for inner, what in unknown_options(definition.family, definition.options)
        ]
        try:
            builder.build(endpoint_id, definition)
        except ValueError as error:
            mistakes.append(file.error_at(place, str(error)))
    return mistakes
