"""The generator of the page with public examples, on two made-up ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deployments.executors.examples import __main__ as command
from tests.deployments.executors.examples.cog_projects import parse_example
from tests.deployments.executors.examples.finding import SERVED, Finding, is_small, shorten
from tests.deployments.executors.examples.page import page
from tests.deployments.executors.python.fal.house import environments_with_fal

APP = """\
import fal
from pydantic import BaseModel

class Given(BaseModel):
    name: str

class Said(BaseModel):
    text: str

class Greeter(fal.App, max_concurrency=1):
    machine_type = "XS"

    @fal.endpoint("/")
    def greet(self, given: Given) -> Said:
        return Said(text=f"hello {given.name}")

    @fal.realtime("/live")
    def live(self, given: Given) -> Said:
        return Said(text=f"hello {given.name}")
"""

TEST = """\
cog predict $TEST_IMAGE -i count=2
stdout '^4$'
! cog predict $TEST_IMAGE -i count=many

-- cog.yaml --
build:
  system_packages: [ffmpeg]
predict: predict.py:Predictor
-- predict.py --
from cog import BasePredictor
"""


@pytest.mark.long
def test_an_app_is_served_and_a_project_is_refused_with_its_sentence(tmp_path: Path) -> None:
    kept = environments_with_fal()
    (tmp_path / "fal").mkdir()
    (tmp_path / "fal" / "greeter.py").write_text(APP)
    (tmp_path / "fal" / "client.py").write_text("import fal_client\n")
    (tmp_path / "cog").mkdir()
    (tmp_path / "cog" / "doubler.txtar").write_text(TEST)
    (tmp_path / "cog" / "login.txtar").write_text("cog login\n")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "environments").symlink_to(kept)
    out = tmp_path / "page.md"
    words = ["--fal", f"ours={tmp_path / 'fal'}", "--cog", str(tmp_path / "cog")]
    assert command.main([*words, "--kept", str(tmp_path / "kept"), "--out", str(out)]) == 0
    written = out.read_text("utf-8")
    assert "## ours\n\n1 examples: 1 served." in written
    uses, why = "`CPU`, `fal.endpoint`, `fal.realtime`", "answered `/`. Sessions at `/live`."
    assert f"| `greeter.py:Greeter` | {uses} | served | {why}" in written
    assert "Set elsewhere: `max_concurrency`." in written
    assert "1 examples: 1 refused. 1 tests without a `cog.yaml` are left out." in written
    assert "build.system_packages (ffmpeg) needs a Docker image" in written
    assert str(tmp_path) not in written


def test_predictions_of_a_test_are_read_with_what_they_expect() -> None:
    first, second = parse_example("doubler", TEST).calls
    assert (first.given, first.refused, first.expected) == ({"count": "2"}, False, ["^4$"])
    assert (second.given, second.refused) == ({"count": "many"}, True)


def test_only_small_requirements_are_installed() -> None:
    assert is_small(["numpy>=2", "Pillow==11"])
    assert is_small([["pydantic"], ["requests"]])
    assert not is_small(["numpy", "torch==2.6.0"])
    assert not is_small(["git+https://example.com/numpy"])


def test_a_cell_has_no_path_of_this_machine_and_no_end_of_a_column() -> None:
    cell = shorten(f"no {Path.cwd()}/a.py\nhere", [Path("/somewhere")])
    assert cell == "no a.py here"
    written = page({"ours": [Finding("x", ("a", "b c"), SERVED, "either | or")]}, {})
    assert "| `x` | `a`, b c | served | either \\| or |" in written
