"""The software bill of materials, and the licences of what it lists."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest

from scripts.supply_chain import licences, sbom
from scripts.supply_chain.licences import REVIEWED, is_allowed, licence_of, problems
from scripts.supply_chain.packages import LOCK, ROOT, Package, parse_lock, shipped_packages


@pytest.fixture(scope="module")
def packages() -> tuple[Package, ...]:
    return shipped_packages()


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    return dict(json.loads(sbom.FILE.read_text()))


def test_the_sbom_is_up_to_date(packages: tuple[Package, ...]) -> None:
    assert sbom.FILE.read_text() == sbom.text_of(packages), "run scripts/sbom"


def test_the_page_of_licences_is_up_to_date(packages: tuple[Package, ...]) -> None:
    text = licences.page([*map(licence_of, packages)])
    assert licences.PAGE.read_text() == text, "run scripts/licences"


def test_every_package_may_be_shipped(packages: tuple[Package, ...]) -> None:
    assert problems(map(licence_of, packages)) == []


def test_the_sbom_has_every_locked_package_with_the_hashes_of_its_files(
    bill: dict[str, Any],
) -> None:
    rows = {name: hashes for name, _, hashes in parse_lock(LOCK.read_text())}
    by_name = {
        component["name"]: {
            digest["content"]
            for reference in component.get("externalReferences", ())
            for digest in reference["hashes"]
        }
        for component in bill["components"]
    }
    assert len(rows) > 100
    assert by_name == {name: set(hashes) for name, hashes in rows.items()} | {"torch": set()}


def test_the_dependencies_lead_from_darkroom_to_every_package(bill: dict[str, Any]) -> None:
    leads = {dependency["ref"]: dependency["dependsOn"] for dependency in bill["dependencies"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ahead = [f"pkg:pypi/{project['name']}@{project['version']}"]
    reached = set[str]()
    while ahead:
        if (ref := ahead.pop()) not in reached:
            reached.add(ref)
            ahead.extend(leads[ref])
    assert {component["bom-ref"] for component in bill["components"]} == reached - {
        bill["metadata"]["component"]["bom-ref"]
    }


def package(**metadata: str) -> Package:
    return Package("thing", "1.0", (), (), {key: [value] for key, value in metadata.items()})


@pytest.mark.parametrize(
    ("metadata", "spdx"),
    [
        ({"License-Expression": "MIT OR GPL-3.0-only"}, "MIT OR GPL-3.0-only"),
        ({"License": "Apache 2.0"}, "Apache-2.0"),
        ({"License": "GPL v3, perhaps"}, ""),
        (
            {"License": "Copyright\n(all of the text)", "Classifier": "License :: MIT License"},
            "MIT",
        ),
        ({"Classifier": "License :: OSI Approved :: BSD License"}, ""),
        ({}, ""),
    ],
)
def test_a_licence_is_what_the_package_states_if_that_is_clear(
    metadata: dict[str, str], spdx: str
) -> None:
    assert licence_of(package(**metadata)).spdx == spdx


@pytest.mark.parametrize(
    ("expression", "may"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("(MIT OR GPL-3.0-only) AND Apache-2.0", True),
        ("(MIT AND GPL-3.0-only) OR AGPL-3.0-only", False),
    ],
)
def test_each_part_of_an_expression_needs_an_allowed_choice(expression: str, may: bool) -> None:
    assert is_allowed(expression) is may


def test_a_licence_that_is_not_allowed_is_refused_with_what_to_do(
    packages: tuple[Package, ...],
) -> None:
    every = [*map(licence_of, packages)]
    copyleft = licence_of(package(**{"License-Expression": "AGPL-3.0-only"}))
    (sentence,) = problems([*every, copyleft])
    assert "thing 1.0 has the licence AGPL-3.0-only, which is not allowed." in sentence
    (sentence,) = problems([*every, licence_of(package())])
    assert "states no licence that is known" in sentence


def test_a_review_of_a_package_that_is_gone_is_found(packages: tuple[Package, ...]) -> None:
    (name, *_) = sorted(REVIEWED)
    left = [licence_of(dependency) for dependency in packages if dependency.name != name]
    (sentence,) = problems(left)
    assert f"has {name}, which the container does not have any more" in sentence
