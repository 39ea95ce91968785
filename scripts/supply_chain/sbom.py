"""The software bill of materials (SBOM) of the container, in CycloneDX's format.

    scripts/sbom          write sbom.cdx.json
    scripts/sbom --check  check that it is up to date

The same packages give the same bytes: it has no time of its own, and its serial number follows from
its content.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tomllib
import uuid
from collections.abc import Sequence
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.supply_chain.licences import licence_of
from scripts.supply_chain.packages import ROOT, WITHOUT_HASH, Package, shipped_packages

FILE = ROOT / "sbom.cdx.json"


def document(packages: Sequence[Package]) -> dict[str, Any]:
    """The bill, as CycloneDX 1.6 has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    itself = f"pkg:pypi/{project['name']}@{project['version']}"
    purls = {package.name: package.purl for package in packages}
    needed = {name for package in packages for name in package.requires}
    roots = [package.purl for package in packages if package.name not in needed]
    bill: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "pre-build"}],
            "component": {
                "bom-ref": itself,
                "type": "application",
                "name": project["name"],
                "version": project["version"],
                "description": project["description"],
                "licenses": [{"license": {"id": project["license"]}}],
                "purl": itself,
            },
        },
        "components": [_component(package) for package in packages],
        "dependencies": [
            {"ref": itself, "dependsOn": sorted({*roots, *_direct(project, purls)})},
            *(
                {"ref": package.purl, "dependsOn": [purls[name] for name in package.requires]}
                for package in packages
            ),
        ],
        # What torch's wheel for a GPU asks for differs by machine, so it is not in the lock file.
        "compositions": [
            {"aggregate": "incomplete", "dependencies": [purls[name] for name in WITHOUT_HASH]}
        ],
    }
    digest = hashlib.sha256(json.dumps(bill, sort_keys=True).encode()).digest()
    return bill | {"serialNumber": uuid.UUID(bytes=digest[:16], version=4).urn}


def _direct(project: dict[str, Any], purls: dict[str, str]) -> list[str]:
    """What the project itself asks for."""
    lines = [*project["dependencies"], *project["optional-dependencies"]["c2pa"]]
    return [purls[canonicalize_name(Requirement(line).name)] for line in lines]


def _component(package: Package) -> dict[str, Any]:
    spdx = licence_of(package).spdx
    component: dict[str, Any] = {
        "bom-ref": package.purl,
        "type": "library",
        "name": package.name,
        "version": package.version,
        "licenses": _licences(spdx),
        "purl": package.purl,
    }
    if package.sha256:  # of several files, of which a machine installs one
        component["externalReferences"] = [
            {
                "type": "distribution",
                "url": package.purl,
                "hashes": [{"alg": "SHA-256", "content": digest} for digest in package.sha256],
            }
        ]
    return component


def _licences(spdx: str) -> list[dict[str, Any]]:
    if not spdx:
        return []
    if " " not in spdx:
        return [{"license": {"id": spdx}}]
    return [{"expression": spdx}]


def text_of(packages: Sequence[Package]) -> str:
    """Content of the file."""
    return json.dumps(document(packages), indent=1, ensure_ascii=False) + "\n"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/sbom")
    parser.add_argument("--check", action="store_true", help="write nothing")
    only_check = parser.parse_args(words).check
    packages = shipped_packages()
    text = text_of(packages)
    if not only_check:
        FILE.write_text(text, encoding="utf-8")
    elif not FILE.exists() or FILE.read_text(encoding="utf-8") != text:
        print("sbom.cdx.json is not up to date. Run scripts/sbom.", file=sys.stderr)
        return 1
    print(f"{len(packages)} packages in {FILE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
