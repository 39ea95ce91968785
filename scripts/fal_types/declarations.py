"""Parser of the TypeScript declarations of fal's endpoints.

It knows the forms that fal's generator writes. Any other one is an error with its line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from serve_app.catalog.fal_types import (
    Choice,
    Default,
    FalField,
    FalFields,
    FalType,
    ListOf,
    ObjectOf,
    OneOf,
    Plain,
)

ENDPOINTS = "EndpointTypeMap"
SCALARS = {"string", "number", "boolean", "unknown", "void"}
UPLOAD = [Plain.TEXT, ObjectOf("Blob"), ObjectOf("File")]

STATED = "Default value:"
DEFAULT = re.compile(STATED + r" `([^\n]+)`\s*\*/$")
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d+)?")
TOKEN = re.compile(
    r"""
    \s+
    | (?P<comment> /\*\* .*? \*/ )
    | (?P<text> "[^"\\\n]*" )
    | (?P<name> [A-Za-z_]\w* )
    | (?P<sign> [{}<>:;?=|,] )
    """,
    re.DOTALL | re.VERBOSE,
)


class NotUnderstoodError(Exception):
    """The declarations have a form that the parser does not know."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(f"line {line}: {what}")


@dataclass(frozen=True, slots=True)
class Declarations:
    """Endpoints, each with the names of its input and output, and all objects that they reach."""

    endpoints: Mapping[str, tuple[str, str]]
    objects: Mapping[str, FalFields]


def parse(text: str) -> Declarations:
    """Parse an ``endpoints.d.ts``. Raises ``NotUnderstoodError``."""
    parser = _Parser(text)
    parser.declarations()
    return parser.resolve()


class Token(NamedTuple):
    kind: str  # comment, text, name, sign or end
    value: str
    line: int


def _tokens(text: str) -> Iterator[Token]:
    position, line = 0, 1
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None:
            rest = text[position:].partition("\n")[0]
            raise NotUnderstoodError(line, f"`{rest[:80]}` begins with no known sign")
        if match.lastgroup:
            yield Token(match.lastgroup, match[0], line)
        line += match[0].count("\n")
        position = match.end()
    yield Token("end", "the end of the file", line)


class _Parser:
    """Recursive descent, with a method for each form."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._token = next(self._tokens)
        self._endpoints: dict[str, tuple[str, str]] = {}
        self._objects: dict[str, FalFields] = {}
        self._aliases: dict[str, str] = {}
        self._lines: dict[str, int] = {}
        """Where a name is referred to first."""

    def declarations(self) -> None:
        while self._token.kind != "end":
            self._expect("export", "type")
            name, line = self._take("name"), self._token.line
            if name in self._objects or name in self._aliases:
                raise NotUnderstoodError(line, f"`{name}` is declared twice")
            self._expect("=")
            if name == ENDPOINTS:
                self._read_endpoints()
            elif self._token.value == "{":
                self._objects[name] = self._fields()
            elif self._token.value == "Record":
                self._expect("Record", "<", "string", ",", "never", ">")
                self._objects[name] = {}
            else:
                self._aliases[name] = self._reference()
            self._expect(";")

    def resolve(self) -> Declarations:
        """The declarations without aliases, and without objects that no endpoint reaches."""
        objects: dict[str, FalFields] = {}
        waiting = [name for names in self._endpoints.values() for name in names]
        while waiting:
            if (name := self._object_name(waiting.pop())) not in objects:
                objects[name] = {
                    key: replace(field, type=self._without_aliases(field.type))
                    for key, field in self._objects[name].items()
                }
                waiting += (inner for f in objects[name].values() for inner in names_in(f.type))
        return Declarations(
            {
                endpoint_id: (self._object_name(names[0]), self._object_name(names[1]))
                for endpoint_id, names in self._endpoints.items()
            },
            objects,
        )

    def _without_aliases(self, type_: FalType) -> FalType:
        match type_:
            case ObjectOf(name):
                return ObjectOf(self._object_name(name))
            case ListOf(item):
                return ListOf(self._without_aliases(item))
            case OneOf(types):
                return OneOf(tuple(map(self._without_aliases, types)))
            case _:
                return type_

    def _object_name(self, name: str) -> str:
        while name in self._aliases:
            name = self._aliases[name]
        if name not in self._objects:
            raise NotUnderstoodError(self._lines[name], f"`{name}` is no object of the file")
        return name

    def _read_endpoints(self) -> None:
        self._expect("{")
        while not self._skip("}"):
            endpoint_id = self._take("text").strip('"')
            self._expect(":", "{", "input", ":")
            input_name = self._reference()
            self._expect(";", "output", ":")
            self._endpoints[endpoint_id] = input_name, self._reference()
            self._expect(";", "}", ";")

    def _fields(self) -> FalFields:
        fields: dict[str, FalField] = {}
        self._expect("{")
        while not self._skip("}"):
            comment = self._advance() if self._token.kind == "comment" else None
            name = self._take("name", "text").strip('"')
            required = not self._skip("?")
            self._expect(":")
            type_ = self._type()
            self._expect(";")
            fields[name] = FalField(type_, required, _default(comment, type_) if comment else None)
        return fields

    def _type(self) -> FalType:
        line = self._token.line
        members = [self._member()]
        while self._skip("|"):
            members.append(self._member())
        return _union(members, line)

    def _member(self) -> FalType:
        if self._token.kind == "text":
            return Choice((self._take("text").strip('"'),))
        if self._token.value == "Array":
            self._expect("Array", "<")
            item = self._type()
            self._expect(">")
            return ListOf(item)
        name = self._reference()
        return Plain(name) if name in SCALARS else ObjectOf(name)

    def _reference(self) -> str:
        line = self._token.line
        name = self._take("name")
        self._lines.setdefault(name, line)
        return name

    def _advance(self) -> Token:
        token = self._token
        self._token = next(self._tokens, token)
        return token

    def _take(self, *kinds: str) -> str:
        if self._token.kind not in kinds:
            raise self._unexpected(f"a {' or '.join(kinds)}")
        return self._advance().value

    def _expect(self, *values: str) -> None:
        for value in values:
            if not self._skip(value):
                raise self._unexpected(f"`{value}`")

    def _skip(self, value: str) -> bool:
        if self._token.value != value:
            return False
        self._advance()
        return True

    def _unexpected(self, wanted: str) -> NotUnderstoodError:
        return NotUnderstoodError(
            self._token.line, f"`{self._token.value[:80]}` stands where {wanted} was expected"
        )


def names_in(type_: FalType) -> Iterator[str]:
    """Names of the objects that a type refers to."""
    match type_:
        case ObjectOf(name):
            yield name
        case ListOf(item):
            yield from names_in(item)
        case OneOf(types):
            for member in types:
                yield from names_in(member)
        case _:
            pass


def _union(members: list[FalType], line: int) -> FalType:
    """One type of its members: the three of an upload are a file, literals are one choice."""
    if ObjectOf("Blob") in members:
        at = members.index(ObjectOf("Blob")) - 1
        if members[at : at + 3] != UPLOAD:
            raise NotUnderstoodError(line, "`Blob` stands outside of `string | Blob | File`")
        members[at : at + 3] = [Plain.FILE]
    literals = [
        value for member in members if isinstance(member, Choice) for value in member.values
    ]
    choice = Choice(tuple(dict.fromkeys(literals)))
    types = dict.fromkeys(choice if isinstance(member, Choice) else member for member in members)
    return next(iter(types)) if len(types) == 1 else OneOf(tuple(types))


def _default(comment: Token, type_: FalType) -> Default | None:
    """Default that a comment states for a field of this type."""
    if STATED not in comment.value:
        return None
    line = comment.line + comment.value.count("\n")
    if (match := DEFAULT.search(comment.value)) is None:
        raise NotUnderstoodError(line, f"the comment does not end with {STATED} `…`")
    types = type_.types if isinstance(type_, OneOf) else (type_,)
    if not any(_may_be(match[1], kind) for kind in types):
        raise NotUnderstoodError(line, f"the default `{match[1]}` is not of the field's type")
    return _value(match[1])


def _may_be(default: str, type_: FalType) -> bool:
    value = _value(default)
    if isinstance(value, bool):
        return type_ is Plain.BOOLEAN
    if isinstance(value, int | float):
        return type_ is Plain.NUMBER
    if isinstance(type_, Choice):
        # fal has one quoted default that is none of its field's choices.
        return value != default or value in type_.values
    return type_ in (Plain.TEXT, Plain.FILE)


def _value(default: str) -> Default:
    if default in ("true", "false") or NUMBER.fullmatch(default):
        return json.loads(default)
    # Texts are quoted, but not where the field may also be an object or a number.
    return default[1:-1] if re.fullmatch('".*"', default) else default
