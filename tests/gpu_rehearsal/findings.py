"""Checks of a run: its results, and the limits of what comes back from the GPU machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.gpu_rehearsal.running import Ran
from tests.gpu_rehearsal.travel import MIB

FILES = 8
FILE_BYTES = 16 * MIB
FOLDERS = 2
"""Depth of folders below that of the results."""

NAME = re.compile(r"[\w.-]+", re.ASCII)

PRINTED = 12_000
"""Characters of stdout and stderr together; earlier ones are lost."""

RESULTS = "results.json"

Sections = Mapping[str, Mapping[str, Any]]
"""Results by the name of their section."""

LEFT_OUT = re.compile(r"left out: .* is missing")


def problems(ran: Ran) -> Iterator[str]:
    """What is wrong with a run itself."""
    if ran.status is None:
        yield "It was ended at its limit of time."
    elif ran.status:
        yield f"Its exit status is {ran.status}."
    for line in ran.printed.splitlines():
        if LEFT_OUT.search(line):
            yield f"A section lacks a package: {line}"
    if len(ran.printed) > PRINTED:
        yield f"It printed {len(ran.printed):,} characters, and the last {PRINTED:,} come back."


def sections_of(out: Path) -> Sections:
    """Results by section. Raises ValueError if there are none."""
    try:
        return dict(json.loads((out / RESULTS).read_text(encoding="utf-8"))["sections"])
    except FileNotFoundError:
        raise ValueError(f"there is no {RESULTS}") from None
    except (KeyError, TypeError) as error:
        raise ValueError(f"they have another format ({error!r})") from error


def failed_sections(sections: Sections) -> Iterator[str]:
    if not sections:
        yield "There is no result of a section."
    for name, content in sections.items():
        if content.get("status") in {"failed", "running"} or content.get("error"):
            yield f"Section {name}: {content.get('error') or 'it ended the process.'}"


def cut_sections(sections: Sections) -> list[str]:
    """Names of those that reached their limit of time, as on a CPU a compilation may."""
    return [name for name, content in sections.items() if content.get("status") == "cut"]


def left_behind(out: Path) -> Iterator[str]:
    """What does not come back of a folder of results."""
    files = [path for path in sorted(out.rglob("*")) if not path.is_dir()]
    if len(files) > FILES:
        yield f"There are {len(files)} files of results, and {FILES} come back."
    for path in files:
        parts = path.relative_to(out).parts
        if path.is_symlink() or not path.is_file():
            yield f"{path} is not a plain file."
        elif path.stat().st_size > FILE_BYTES:
            yield f"{path} has {path.stat().st_size:,} bytes; at most {FILE_BYTES:,} come back."
        elif len(parts) > FOLDERS + 1:
            yield f"{path} is more than {FOLDERS} folders down."
        elif not all(map(NAME.fullmatch, parts)):
            yield f"{path} has characters beside letters, digits, '.', '_' and '-' in its name."
