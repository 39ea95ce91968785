"""Write the generated pages of the reference, and the names of settings that the Helm chart reads:
``python -m tests.docs.reference``."""

from __future__ import annotations

from pathlib import Path

from tests.docs.pages import DOCS, ROOT
from tests.docs.reference import api, chart, cli


def pages() -> dict[Path, str]:
    """The text of every generated file, by its path."""
    folder = DOCS / "reference"
    return {
        folder / "api.md": api.page(),
        folder / "cli.md": cli.page(),
        ROOT / "charts" / "darkroom" / "files" / "settings.json": chart.page(),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
