"""What ``darkroom serve-config`` prints for ``serve deploy``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from serve_app.cli.main import main
from serve_app.telemetry.version import code_version
from tests.docs.pages import ROOT

pytestmark = [
    # in Ray's own code
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def entries() -> list[dict[str, Any]]:
    ran = CliRunner().invoke(main, ["serve-config", str(ROOT / "darkroom.yaml")])
    assert ran.exit_code == 0, ran.output
    return list(yaml.safe_load(ran.output)["applications"])


def build_deployment(entry: dict[str, Any]) -> Any:
    module, _, name = entry["import_path"].partition(":")
    return getattr(import_module(module), name)(dict(entry["args"]))._bound_deployment


def test_another_version_is_another_configuration_of_every_application(
    entries: list[dict[str, Any]],
) -> None:
    assert len(entries) > 1
    assert {entry["args"]["version"] for entry in entries} == {code_version()}


@pytest.mark.parametrize("number", [0, 1], ids=["ingress", "pool"])
def test_the_version_changes_nothing_of_what_is_built(
    entries: list[dict[str, Any]], number: int
) -> None:
    entry = entries[number]
    before = {name: value for name, value in entry["args"].items() if name != "version"}
    ours, older = build_deployment(entry), build_deployment(entry | {"args": before})
    if number:  # the pool below the root
        ours, older = (app.init_args[0]._bound_deployment for app in (ours, older))
    assert repr(ours.init_args[:3]) == repr(older.init_args[:3])
