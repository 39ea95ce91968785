"""Results of runs: one file, replaced whole with each figure. A cut run keeps what it has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu.verdicts import verdicts

FILE = "results.json"
LOG = "log.txt"

SAME = ("card", "torch")
"""Facts of a machine without which figures of two runs are not compared."""


class OtherMachine(Exception):
    """Results in the folder are of another card or torch. The message says of which."""


class Results:
    """``results.json`` in a folder.

    Keys: ``machine``, ``sections`` (by name: ``status``, ``took_s``, ``figures``, ``commit``,
    ``error``) and ``verdicts`` (by switch: ``verdict``, ``figures``, ``reason``). One process at a
    time writes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE

    def read(self) -> dict[str, Any]:
        """All of it; empty before the first figure, and where the file is damaged."""
        try:
            content = json.loads(self._path.read_text())
        except (OSError, ValueError):
            content = None
        return content if isinstance(content, dict) else {"sections": {}}

    def section(self, name: str) -> dict[str, Any]:
        return self.read()["sections"].get(name, {})

    def describe(self, machine: Mapping[str, Any]) -> None:
        """Note the machine. Raises ``OtherMachine`` if there are figures of another one."""
        content = self.read()
        known = content.get("machine", machine)
        if [known.get(name) for name in SAME] != [machine.get(name) for name in SAME]:
            of, here = (
                ", ".join(str(facts.get(name)) for name in SAME) for facts in (known, machine)
            )
            raise OtherMachine(
                f"{self._path} has figures of {of}; this is {here}. Figures of two machines say "
                "nothing beside each other: use another --out."
            )
        self._write(content | {"machine": dict(machine)})

    def update(self, name: str, section: Mapping[str, Any]) -> None:
        content = self.read()
        content["sections"][name] = dict(section)
        self._write(content)

    def _write(self, content: dict[str, Any]) -> None:
        decided = verdicts(content["sections"])
        content["verdicts"] = {switch: asdict(verdict) for switch, verdict in decided.items()}
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(content, indent=1, default=str))
        part.replace(self._path)
