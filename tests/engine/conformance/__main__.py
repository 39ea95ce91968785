"""Runs every case, each in the same process, and writes the page of the docs.

python -m tests.engine.conformance [--out tests/engine/conformance/README.md] [CLASS …]
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

import diffusers
import torch
import transformers

from tests.engine.conformance import classes, table, zoo
from tests.engine.conformance.checks import Finding, examine
from tests.engine.conformance.defects import DEFECTS


def main() -> int:
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__)
    parser.add_argument("classes", nargs="*", metavar="CLASS", help="only these")
    parser.add_argument("--out", type=Path, help="where to write the page, in Markdown")
    options = parser.parse_args()
    be_quiet()
    cases = zoo.cases()
    findings: list[Finding] = []
    failed: dict[str, str] = {}
    for name in options.classes or cases:
        began = time.monotonic()
        try:
            finding = examine(cases[name])
        except Exception as error:  # one class's failure is no reason to leave the others out
            failed[name] = f"failed by itself: {type(error).__name__}: {error}".splitlines()[0]
            _print(f"{name}: {failed[name]}")
            continue
        findings.append(finding)
        alike = f"ok, merged {finding.together}, shared {finding.shared:.2f}"
        verdict = " ".join(finding.wrong or [alike, *finding.notes])
        _print(f"{name}: {verdict} ({time.monotonic() - began:.1f} s)")
    if options.out:
        built = {case.name for case in cases.values()}
        absent = {
            name: classes.why_absent(name)
            for name in classes.pipeline_classes()
            if name not in built
        }
        options.out.write_text(table.page(findings, failed, absent))
    surprises = [
        examined
        for examined in findings
        if bool(examined.wrong) != (examined.case.title in DEFECTS)
    ]
    return 1 if failed or surprises else 0


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def be_quiet() -> None:
    """Tiny pipelines without weights make diffusers and transformers warn about what is meant."""
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main())
