"""The table that a run prints last: one screen, in place of a log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.section import Section
from benchmarks.gpu.verdicts import figures_of

LONGEST = 8000
"""Characters of the table. A lent machine gives back 12,000 of all that is printed."""

WIDTH = 118


@dataclass(frozen=True, slots=True)
class Comparison:
    """A figure of ours, beside what others state and what arithmetic for an H200 expects."""

    name: str
    section: str
    case: Mapping[str, Any]
    published: float | None = None  # seconds, on another machine
    source: str = ""
    aim: float | None = None  # seconds at most


DEV, SCHNELL = "FLUX.1 [dev], 28 steps, 1024²", "FLUX.1 [schnell], 4 steps, 1024²"
SDXL = "SDXL, 30 steps, 1024²"

COMPARISONS = (
    Comparison(
        f"{DEV}, compiled",
        "compiled",
        {"image": "dev", "by": "compiled"},
        published=4.30,
        source="flux-fast, H100",
        aim=3.3,
    ),
    Comparison(
        f"{SCHNELL}, compiled", "compiled", {"image": "schnell", "by": "compiled"}, aim=0.52
    ),
    Comparison(f"{DEV}, float8", "eight_bits", {"image": "dev", "by": "float8, compiled"}, aim=2.1),
    Comparison(
        f"{DEV}, float8, FirstBlockCache",
        "eight_bits",
        {"image": "dev, FirstBlockCache", "by": "float8, compiled"},
        aim=1.4,
    ),
    Comparison(
        f"{SCHNELL}, float8",
        "eight_bits",
        {"image": "schnell", "by": "float8, compiled"},
        published=0.72,
        source="H100, with text encoders",
        aim=0.38,
    ),
    Comparison(
        f"{SDXL}",
        "graphs",
        {"side": 1024, "images": 1, "by": "as written"},
        published=1.47,
        source="TensorRT, H100",
        aim=1.0,
    ),
)


def table(results: Mapping[str, Any], chosen: Sequence[Section]) -> str:
    """Machine, verdicts, published figures beside ours, and the figures of the chosen sections."""
    lines = [*_lines(results, chosen)]
    text, left_out = "", 0
    for number, line in enumerate(lines):
        if len(text) + len(line) + 100 > LONGEST:
            left_out = len(lines) - number
            break
        text += line + "\n"
    return text + (f"{left_out} more lines: see results.json\n" if left_out else "")


def _lines(results: Mapping[str, Any], chosen: Sequence[Section]) -> Iterator[str]:
    machine, sections = results.get("machine", {}), results["sections"]
    yield ""
    yield ", ".join(f"{name} {value}" for name, value in machine.items() if value is not None)
    yield ""
    yield "Verdicts"
    for switch, verdict in results.get("verdicts", {}).items():
        yield f"  {switch:<24} {verdict['verdict']:<10} {verdict['reason']}"[:WIDTH]
        if verdict["figures"]:
            figures = ", ".join(f"{name} {value}" for name, value in verdict["figures"].items())
            yield f"  {'':<35} {figures}"[:WIDTH]
    yield ""
    yield "Seconds an image      ours, aim on an H200, published by others (on their machines)"
    for row in COMPARISONS:
        ours = figures_of(sections, row.section, **row.case).get("s")
        theirs = "" if row.published is None else f"{row.published:5.2f} ({row.source})"
        yield f"  {row.name:<52} {_seconds(ours)} {_seconds(row.aim)} {theirs}".rstrip()
    for section in chosen:
        yield from _section(section.name, sections.get(section.name, {}))


def _section(name: str, content: Mapping[str, Any]) -> Iterator[str]:
    status = content.get("status", "not run")
    took = f", {content['took_s']:.0f} s" if "took_s" in content else ""
    yield ""
    yield f"{name}: {status}{took} {content.get('error', '')}"[:WIDTH]
    for figure in content.get("figures", ()):
        if not figure.get("so_far"):
            text = ", ".join(f"{key} {_short(value)}" for key, value in figure.items())
            yield f"  {text}"[:WIDTH]


def _seconds(value: float | None) -> str:
    return "    -" if value is None else f"{value:5.2f}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
