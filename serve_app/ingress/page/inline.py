"""Scripts and style sheets that are written into an HTML page.

Over a slow connection, each file without which a page cannot be drawn costs a round trip. Inside
the page they cost none. The Content-Security-Policy allows them by their hashes, and no others.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

_SHEET = re.compile(r'<link rel="stylesheet" href="(?:\.\./)*page/(?P<path>[^"]+)" />')
_SCRIPT = re.compile(r'<script src="(?:\.\./)*page/(?P<path>[^"]+)"></script>')


@dataclass(frozen=True, slots=True)
class Inlined:
    """Page with its styles and its scripts that are no modules. ``sources``: what the policy has to
    allow for them, by directive."""

    html: str
    sources: Mapping[str, str]


def inlined(html: str, files: Mapping[str, str]) -> Inlined:
    """Replace the links to ``files``, path → content. Raises ``ValueError`` for a file that would
    end its element."""
    hashes: dict[str, list[str]] = {"script-src": [], "style-src": []}

    def element(found: re.Match[str], tag: str, directive: str) -> str:
        content = files[found["path"]]
        if f"</{tag}" in content.lower():
            raise ValueError(f"{found['path']}: it contains </{tag}, so it cannot be in the page")
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes[directive].append(f"'sha256-{digest}'")
        return f"<{tag}>{content}</{tag}>"

    html = _SHEET.sub(lambda found: element(found, "style", "style-src"), html)
    html = _SCRIPT.sub(lambda found: element(found, "script", "script-src"), html)
    return Inlined(html, {name: " ".join(each) for name, each in hashes.items() if each})
