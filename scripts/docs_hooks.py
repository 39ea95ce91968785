"""Hooks of MkDocs: anchors as on GitHub, links that leave docs/, and what the search leaves out."""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```$", re.M | re.S)


def github_slug(heading: str, separator: str) -> str:
    """The anchor that GitHub gives a heading, so that one link works in both places."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turn links to files outside docs/ into the file's name: they are not part of the site."""
    folder = posixpath.dirname(page.file.src_uri)

    def outside(link: re.Match[str]) -> str:
        image, text, target = link.groups()
        path = posixpath.normpath(posixpath.join(folder, target.partition("#")[0]))
        if image or "://" in target or not path.startswith("../"):
            return link[0]
        name = posixpath.normpath(f"docs/{path}")
        return f"`{name}`" if text.strip("`") == name else f"{text} (`{name}`)"

    parts: list[str] = []
    end = 0
    for fence in _FENCE.finditer(markdown):
        parts += [_LINK.sub(outside, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(outside, markdown[end:])])


def on_page_content(html: str, *, page: Any, **_: Any) -> str:
    """Leave decisions out of the search: they are for those who change Darkroom."""
    if page.file.src_uri.startswith("adr/"):
        page.meta["search"] = {"exclude": True}
    return html
