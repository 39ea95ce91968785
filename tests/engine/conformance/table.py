"""The page of the docs that a whole run writes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import diffusers
import torch

from serve_app.domain.media.draft_refusals import REFUSALS
from tests.engine.conformance.checks import TIMES, TOLERANCE, Finding
from tests.engine.conformance.defects import DEFECTS

_HEAD = """# Supported pipelines

Every pipeline class that diffusers exports, built tiny with random weights and run through the
[engine](../../../docs/explanation/engine.md) on a CPU in float32. `scripts/conformance` runs all of them and
generates this page. The tests run a different sample each time and print the `--conformance-seed`
that repeats it. [Media pipelines](../../../docs/reference/media-pipelines.md) lists the video and audio classes that a
catalogue entry serves.

Each class runs three generations with different prompts, seeds and step counts.

| check | passed if |
| --- | --- |
| alone | One generation in the engine gives bit for bit the result of the plain pipeline. |
| cancelled | One generation is cancelled after its first step. Another beside it gives the result that it gives alone, and a later plain call the same bits as before. |
| resumed | Another engine resumes a snapshot from after the second step, takes only the steps that are left, and gives bit for bit the result of the plain pipeline. The snapshot comes from the frames of the pipeline, or from the outputs of its denoiser where those cannot be read. |
| drafted | A generation of half of the steps ends as a [draft](../../../docs/explanation/engine.md#drafts). Another goes on from it, takes only the steps that are left, and gives bit for bit the result of the plain pipeline. |
| merged | All three at once: the number after the class is the largest difference to the plain calls, relative to the range of the output. The limit is {tolerance:g}, or {times:g} times the noise floor: the difference that a generation shows beside two copies of itself. |

Every class in the next table passed all five, resumed from its frames, and shared at least
{usual:.0%} of its denoiser calls. (The last step of the longest generation cannot be shared.)
"""  # noqa: E501  one line a row

USUAL_SHARE = 0.9
FROM_FRAMES = "from its frames"


def page(findings: Sequence[Finding], failed: Mapping[str, str], absent: Mapping[str, str]) -> str:
    """In Markdown. ``failed``: what a class raised by itself; ``absent``: why it was not run."""
    head = _HEAD.format(tolerance=TOLERANCE, times=TIMES, usual=USUAL_SHARE)
    wrong = sum(bool(finding.wrong) for finding in findings)
    total = len(findings) + len(failed) + len(absent)
    figures = (
        f"Run with diffusers {diffusers.__version__} and torch {torch.__version__}: {total} cases, "
        f"{len(findings)} run, {wrong} wrong, {len(failed)} failed outside the engine, "
        f"{len(absent)} absent."
    )
    usual: defaultdict[str, list[str]] = defaultdict(list)
    others: list[tuple[str, ...]] = []
    for finding in sorted(findings, key=lambda f: (f.case.family, f.case.title)):
        shown = f"{_name(finding)} {finding.together}"
        if remarks := _remarks(finding):
            others.append((finding.case.family, shown, " ".join(remarks)))
        else:
            usual[finding.case.family].append(shown)
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for name, why in {**absent, **failed}.items():
        reasons[why].append(f"`{name}`")
    ran = _table(
        ("family", "classes"), [(key, ", ".join(classes)) for key, classes in usual.items()]
    )
    notes = _table(("family", "class", "what differs"), others)
    missing = _table(
        ("why", "classes"), [(key, ", ".join(classes)) for key, classes in reasons.items()]
    )
    return (
        f"{head}\n{figures}\n\n{ran}\n\n## With a remark\n\nThey passed all five checks "
        f"as well, unless the remark says otherwise.\n\n{notes}\n\n## Absent\n\n{missing}\n"
    )


def _name(finding: Finding) -> str:
    variant = f", {finding.case.variant}" if finding.case.variant else ""
    return f"`{finding.case.name}`{variant}"


def _remarks(finding: Finding) -> list[str]:
    """What differs from the usual, a sentence each."""
    remarks = [] if finding.alone else ["**Alone, it differs from the plain pipeline.**"]
    if not finding.cancelled:
        remarks.append("It cannot be cancelled in the middle.")
    if finding.resumed != FROM_FRAMES:
        remarks.append(f"Resumed: {finding.resumed}.")
    if finding.shared < USUAL_SHARE:
        remarks.append(f"Shared {finding.shared:.0%}.")
    if (why := REFUSALS.get(finding.case.name)) is not None:
        remarks.append(f"No drafts: {why}.")
    known = DEFECTS.get(finding.case.title, "")
    return [*remarks, *finding.wrong, *finding.notes, *([known] if known else [])]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
