"""Media types of files, and their suffixes."""

from __future__ import annotations

import mimetypes

from darkroom.media_types import suffix_of_type, type_of_name


def test_webp_is_known_where_the_machine_has_no_list_of_types() -> None:
    mimetypes.init([])
    try:
        assert (type_of_name("a cat.webp"), suffix_of_type("image/webp")) == ("image/webp", ".webp")
        assert (type_of_name("a cat"), suffix_of_type("x/y")) == ("", "")
    finally:
        mimetypes.init()
