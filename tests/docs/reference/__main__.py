"""Write the generated pages of the reference: ``python -m tests.docs.reference``."""

from __future__ import annotations

from pathlib import Path

from tests.docs.pages import DOCS
from tests.docs.reference import api, cli


def pages() -> dict[Path, str]:
    """The text of every generated page, by its path."""
    folder = DOCS / "reference"
    return {folder / "api.md": api.page(), folder / "cli.md": cli.page()}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
