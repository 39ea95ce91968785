"""The data file with the types of fal's endpoints, and its reader."""

from __future__ import annotations

import gzip

import pytest

from scripts.fal_types.__main__ import INSTALLED, WIRE, version_of
from scripts.fal_types.data import changes, data_text
from scripts.fal_types.declarations import names_in, parse
from serve_app.catalog.fal_types import (
    FILE,
    Choice,
    FalField,
    FalFields,
    ListOf,
    ObjectOf,
    OneOf,
    Plain,
    fal_client,
    fal_ids,
    fal_input,
    fal_object,
    fal_output,
)
from tests.node import packages


def test_the_file_is_what_the_installed_client_declares() -> None:
    packages(WIRE)
    assert version_of(INSTALLED) == fal_client().version
    declarations = parse(INSTALLED.read_text(encoding="utf-8"))
    assert list(changes(declarations)) == []
    # Not the bytes of the file: releases of zlib compress differently.
    assert data_text(declarations, fal_client()).encode() == gzip.decompress(FILE.read_bytes())


def test_every_endpoint_has_its_fields_and_every_object_is_there() -> None:
    assert len(fal_ids()) > 1000

    def look_at(fields: FalFields, above: tuple[str, ...] = ()) -> None:
        for field in fields.values():
            for name in names_in(field.type):
                if name not in above:
                    look_at(fal_object(name), (*above, name))

    for endpoint_id in fal_ids():
        for fields in (fal_input(endpoint_id), fal_output(endpoint_id)):
            assert fields is not None
            look_at(fields)


def test_an_unknown_id_has_no_fields() -> None:
    assert fal_input("fal-ai/none") is None
    assert fal_output("fal-ai/none") is None
    with pytest.raises(KeyError):
        fal_object("None")


def test_fields_are_read_as_they_are_declared() -> None:
    fields = fal_input("fal-ai/flux-lora")
    assert fields is not None
    assert fields["prompt"] == FalField(Plain.TEXT, required=True)
    assert fields["seed"] == FalField(Plain.NUMBER, required=False)
    assert fields["guidance_scale"] == FalField(Plain.NUMBER, required=False, default=3.5)
    assert fields["loras"].type == ListOf(ObjectOf("LoraWeight"))
    size = fields["image_size"]
    assert size.default == "landscape_4_3"
    assert isinstance(size.type, OneOf)
    pixels, names = size.type.types
    assert pixels == ObjectOf("ImageSize")
    assert isinstance(names, Choice)
    assert "square_hd" in names.values
    assert list(fal_object("ImageSize")) == ["height", "width"]
    output = fal_output("fal-ai/flux-lora")
    assert output is not None
    assert output["has_nsfw_concepts"].type == ListOf(Plain.BOOLEAN)
