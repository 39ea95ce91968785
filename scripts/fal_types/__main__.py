"""Renew the types of fal's endpoints, ``serve_app/catalog/fal_types.json.gz``.

    python -m scripts.fal_types                   from the client that the tests have installed
    python -m scripts.fal_types PATH              from an endpoints.d.ts in a package of the client
    python -m scripts.fal_types --version 1.10.1  from that version, by npm

Prints what changed: ids, and fields of inputs and outputs that are new (+) or gone (-).
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.fal_types.data import changes, data_text
from scripts.fal_types.declarations import NotUnderstoodError, parse
from serve_app.catalog.fal_types import FILE, FalClient, fal_client

PACKAGE = "@fal-ai/client"
DECLARATIONS = Path("src/types/endpoints.d.ts")
WIRE = Path(__file__).parents[2] / "tests" / "wire" / "javascript"
INSTALLED = WIRE / "node_modules" / PACKAGE / DECLARATIONS
NPM_S = 120


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.fal_types",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, nargs="?", default=INSTALLED)
    parser.add_argument("--version")
    arguments = parser.parse_args()
    try:
        if arguments.version:
            with tempfile.TemporaryDirectory() as folder:
                renew(_download(arguments.version, Path(folder)))
        else:
            renew(arguments.path)
    except OSError as error:
        sys.exit(f"{error}. For the default, run `npm ci --ignore-scripts` in {WIRE}.")
    except subprocess.CalledProcessError as error:
        sys.exit(f"npm failed:\n{error.stderr}")


def renew(path: Path) -> None:
    """Write the data file from declarations, if it differs."""
    version = version_of(path)
    client = fal_client() if fal_client().version == version else FalClient(version, _date(version))
    try:
        declarations = parse(path.read_text(encoding="utf-8"))
    except NotUnderstoodError as error:
        sys.exit(f"{path}, {error}. Teach scripts/fal_types/declarations.py this form.")
    text = data_text(declarations, client).encode()
    if text == gzip.decompress(FILE.read_bytes()):
        print(f"{FILE.name} is up to date: {PACKAGE} {client.version}")
        return
    for line in changes(declarations):
        print(line)
    FILE.write_bytes(gzip.compress(text, mtime=0))
    print(f"{FILE.name}: {len(declarations.endpoints)} endpoints of {PACKAGE} {client.version}")


def version_of(path: Path) -> str:
    """Version of the package that declarations are in."""
    package = path.resolve().parents[len(DECLARATIONS.parts) - 1] / "package.json"
    return json.loads(package.read_text(encoding="utf-8"))["version"]


def _date(version: str) -> str:
    """Date on which a version was published."""
    return json.loads(_npm("view", PACKAGE, "time", "--json"))[version][:10]


def _download(version: str, folder: Path) -> Path:
    """Declarations of a version, unpacked into ``folder``."""
    _npm(
        *("install", "--ignore-scripts", "--no-save", "--prefix", str(folder)),
        f"{PACKAGE}@{version}",
    )
    return folder / "node_modules" / PACKAGE / DECLARATIONS


def _npm(*arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - our own words
        ["npm", *arguments],  # noqa: S607 - the one of the developer
        capture_output=True,
        text=True,
        timeout=NPM_S,
        check=True,
    )
    return done.stdout


if __name__ == "__main__":
    main()
