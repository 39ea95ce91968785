"""The page of the docs that a whole run writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import diffusers
import torch

from tests.engine.conformance.checks import TIMES, TOLERANCE, Finding
from tests.engine.conformance.defects import DEFECTS

_HEAD = """# Conformance

Every pipeline class that diffusers exports, made tiny with random weights, through the engine on a
CPU in float32. `scripts/conformance` runs all of them and writes this page; the tests run a sample
that differs each time, and tell the `--conformance-seed` that repeats it.

For each class, three generations with prompts, seeds and numbers of steps of their own:

- **alone**: in the engine, one gives bit for bit what the plain call of the pipeline gives.
- **cancelled**: one is cancelled after its first step. Another beside it gives what it gives alone,
  and a plain call afterwards gives the same bits as before.
- **resumed**: of one, a snapshot is taken after its second step. What goes on from it, on another
  engine, gives bit for bit what the plain call gives, and takes the steps that are left and no
  more. From its frames, or where those cannot be read from the outputs of its denoiser.
- **merged**: all three at once; the largest difference to the plain calls, relative to the
  output's range. It may be {tolerance:g}, or {times:g} times the pipeline's own noise floor:
  how far a generation moves that shares its forwards with two copies of itself, and so with nobody
  else; the farthest of the three. Only rounding by the kernels of the larger batch does that.
- **shared**: of the denoiser calls of these three, the part that shared a forward. The last step of
  the longest cannot.
"""


def page(findings: Sequence[Finding], failed: Mapping[str, str], absent: Mapping[str, str]) -> str:
    """In Markdown. ``failed``: what a class raised by itself; ``absent``: why it was not run."""
    head = _HEAD.format(tolerance=TOLERANCE, times=TIMES)
    wrong = sum(bool(finding.wrong) for finding in findings)
    total = len(findings) + len(failed) + len(absent)
    figures = (
        f"Run with diffusers {diffusers.__version__} and torch {torch.__version__}: of {total} "
        f"cases, {len(findings)} ran and {wrong} of them were wrong; {len(failed)} failed by "
        f"themselves and {len(absent)} are absent."
    )
    rows = [_row(each) for each in sorted(findings, key=lambda f: (f.case.family, f.case.title))]
    ran = _table(
        ("class", "family", "alone", "cancelled", "resumed", "merged", "shared", "note"), rows
    )
    reasons = [(f"`{name}`", why) for name, why in {**absent, **failed}.items()]
    missing = _table(("absent class", "why"), reasons)
    return f"{head}\n{figures}\n\n{ran}\n\n## Absent\n\n{missing}\n"


def _row(finding: Finding) -> tuple[str, ...]:
    variant = f", {finding.case.variant}" if finding.case.variant else ""
    alone = "the same bits" if finding.alone else "**differs**"
    cancelled = "at a step" if finding.cancelled else "not in the middle"
    return (
        f"`{finding.case.name}`{variant}",
        finding.case.family,
        alone,
        cancelled,
        finding.resumed,
        finding.together,
        f"{finding.shared:.2f}",
        " ".join([*finding.wrong, *finding.notes, DEFECTS.get(finding.case.title, "")]).strip(),
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
