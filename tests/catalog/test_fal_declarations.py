"""Declarations of fal's client: each form is understood, and any other one is an error."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scripts.fal_types.data import changes, data_text
from scripts.fal_types.declarations import Declarations, NotUnderstoodError, parse
from serve_app.catalog.fal_types import (
    Choice,
    Default,
    FalClient,
    FalField,
    FalType,
    ListOf,
    ObjectOf,
    OneOf,
    Plain,
)

REST = """
export type Size = {
    width?: number;
};
export type Nothing = Record<string, never>;
export type Alias = Other;
export type Other = Size;
export type Unreached = { field: string; };
export type EndpointTypeMap = {
    "fal-ai/a/b.1": {
        input: Input;
        output: Nothing;
    };
    "fal-ai/c": {
        input: Nothing;
        output: Alias;
    };
};
"""


def parse_field(field: str) -> Declarations:
    return parse(f"export type Input = {{\n{field}\n}};\n{REST}")


def field_of(text: str) -> FalField:
    (field,) = parse_field(text).objects["Input"].values()
    return field


SIZE, SQUARE = ObjectOf("Size"), Choice(("square", "wide, 16:9"))


@pytest.mark.parametrize(
    ("text", "type_"),
    [
        ("string", Plain.TEXT),
        ("number", Plain.NUMBER),
        ("boolean", Plain.BOOLEAN),
        ("unknown", Plain.UNKNOWN),
        ("void", Plain.VOID),
        ("string | Blob | File", Plain.FILE),
        ('"square" | "wide, 16:9"', SQUARE),
        ('"square"', Choice(("square",))),
        ("Size", SIZE),
        ("Alias", SIZE),
        ("Array<string>", ListOf(Plain.TEXT)),
        ("Array<Array<Alias>>", ListOf(ListOf(SIZE))),
        ('Array<"square" | "wide, 16:9">', ListOf(SQUARE)),
        ('Size | "square" | "wide, 16:9"', OneOf((SIZE, SQUARE))),
        ('"square" | "wide, 16:9" | string', OneOf((SQUARE, Plain.TEXT))),
        ("string | number", OneOf((Plain.TEXT, Plain.NUMBER))),
        ("number | number", Plain.NUMBER),
        ("Alias | string | unknown", OneOf((SIZE, Plain.TEXT, Plain.UNKNOWN))),
        (
            "Array<string | Blob | File> | string | Blob | File",
            OneOf((ListOf(Plain.FILE), Plain.FILE)),
        ),
        ("Array<Size | Array<number>>", ListOf(OneOf((SIZE, ListOf(Plain.NUMBER))))),
    ],
)
def test_a_type_is_understood(text: str, type_: FalType) -> None:
    assert field_of(f"name: {text};") == FalField(type_, required=True)
    assert field_of(f"name?: {text};") == FalField(type_, required=False)


@pytest.mark.parametrize(
    ("stated", "type_", "default"),
    [
        ("30", "number", 30),
        ("-0.5", "string | number", -0.5),
        ("1e-05", "number", 1e-05),
        ("true", "boolean", True),
        ('"start"', '"start" | "end"', "start"),
        ('"4"', '"4" | "8"', "4"),
        ('""', "string", ""),
        ('"Turn this into "gold""', "string", 'Turn this into "gold"'),
        ('"https://example.org/a.png"', "string | Blob | File", "https://example.org/a.png"),
        ("square", 'Size | "square"', "square"),
        ("auto", "string | number", "auto"),
        ('"none of them"', '"start" | "end"', "none of them"),
    ],
)
def test_a_default_is_understood(stated: str, type_: str, default: Default) -> None:
    field = field_of(f"/**\n * The `x`. Default value: `{stated}`\n */\nname?: {type_};")
    assert field.default == default
    assert type(field.default) is type(default)
    assert field_of(f"/** Text. */ name?: {type_};").default is None


def test_fields_keep_their_order() -> None:
    declarations = parse_field('zoom: number;\nacceleration?: string;\n"a b": string;')
    assert list(declarations.objects["Input"]) == ["zoom", "acceleration", "a b"]


def test_endpoints_share_objects_and_aliases_are_followed() -> None:
    declarations = parse_field("size: Alias;")
    assert declarations.endpoints == {
        "fal-ai/a/b.1": ("Input", "Nothing"),
        "fal-ai/c": ("Nothing", "Size"),
    }
    assert declarations.objects.keys() == {"Input", "Nothing", "Size"}
    assert declarations.objects["Nothing"] == {}


@pytest.mark.parametrize(
    ("field", "line", "words"),
    [
        ("name: Size & Other;", 2, "`& Other;` begins with no known sign"),
        ("name: 5;", 2, "`5;` begins with no known sign"),
        ("name: 'a';", 2, "no known sign"),
        (r'name: "a\"b";', 2, "no known sign"),
        ("name: [number, number];", 2, "no known sign"),
        ("a: string;\nname: { inner: string; };", 3, "`{` stands where a name was expected"),
        ("name: Map<string, string>;", 2, "`<` stands where `;` was expected"),
        ("name: Size[];", 2, "no known sign"),
        ("a: string;\n\nname: any;", 4, "`any` is no object of the file"),
        ("name: null;", 2, "`null` is no object of the file"),
        ("name: string | Blob;", 2, "`Blob` stands outside of"),
        ("name: Blob | File | string;", 2, "`Blob` stands outside of"),
        ("readonly name: string;", 2, "`name` stands where `:` was expected"),
        ("/** Default value: 5. */ name: number;", 2, "does not end with Default value"),
        ("/**\n * Default value: `1`. Or 2.\n */ name: number;", 4, "does not end with"),
        ("/** Default value: `true` */ name: number;", 2, "`true` is not of the field's type"),
        ("/** Default value: `1` */ name: string;", 2, "`1` is not of the field's type"),
        ('/** Default value: `oval` */ name: Size | "square";', 2, "`oval` is not of"),
        ("/** Default value: `[]` */ name: Array<string>;", 2, "`[]` is not of the field's type"),
        ("name: string", 3, "`}` stands where `;` was expected"),
    ],
)
def test_any_other_form_is_an_error_with_its_line(field: str, line: int, words: str) -> None:
    with pytest.raises(NotUnderstoodError) as caught:
        parse_field(field)
    assert str(caught.value).startswith(f"line {line}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("interface A { a: string; }", "line 1: `interface` stands where `export`"),
        ("export type A = {};\nexport type A = {};", "line 2: `A` is declared twice"),
        ("export type A = {", "line 1: `the end of the file` stands where"),
        (
            'export type EndpointTypeMap = {\n"a/b": {\ninput: A;\noutput: A;\n};\n};',
            "line 3: `A` is no object of the file",
        ),
    ],
)
def test_a_mistake_outside_of_a_field_is_an_error(text: str, words: str) -> None:
    with pytest.raises(NotUnderstoodError) as caught:
        parse(text)
    assert words in str(caught.value)


def test_changes_are_ids_and_fields() -> None:
    declarations = parse_field("size: Size;\nprompt: string;")
    flux = "fal-ai/flux/dev"
    assert f"- {flux}" in list(changes(declarations))
    assert "+ fal-ai/c" in list(changes(declarations))
    as_flux = replace(declarations, endpoints={flux: ("Input", "Nothing")})
    (line,) = (change for change in changes(as_flux) if change.startswith(f"  {flux}, input: "))
    words = line.split()
    assert "+size" in words
    assert "+size.width" in words
    assert "-image_size.width" in words
    assert not {"+prompt", "-prompt"} & set(words)


def test_the_text_of_the_data_is_the_same_for_the_same_declarations() -> None:
    client = FalClient("1.0.0", "2026-01-01")
    declarations = parse_field("size: Size;")
    turned = Declarations(
        dict(reversed(declarations.endpoints.items())), dict(reversed(declarations.objects.items()))
    )
    assert data_text(declarations, client) == data_text(turned, client)
