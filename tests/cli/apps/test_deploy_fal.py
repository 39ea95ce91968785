"""``darkroom deploy`` of an app for fal, with the real package, against a running ingress."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.apps.test_deploy import Typist
from tests.deployments.executors.python.fal.house import CAMERA, environments_with_fal
from tests.ingress.house import MODELS
from tests.wire.served import Address, serve

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.long,
]

TEXT = CAMERA.read_text()


@pytest.fixture(scope="module")
def here() -> Iterator[Address]:
    with serve(models=MODELS, replica=False) as address:
        yield address


@pytest.fixture
def typist(tmp_path: Path, here: Address, monkeypatch: pytest.MonkeyPatch) -> Typist:
    environments = environments_with_fal()
    terminal = Typist(tmp_path, here)
    (terminal.data_dir / "apps").mkdir()
    (terminal.data_dir / "apps" / "environments").symlink_to(environments)
    monkeypatch.setenv("DARKROOM_DATA_DIR", str(terminal.data_dir))
    return terminal


def test_the_routes_of_an_app_for_fal_become_entries(typist: Typist) -> None:
    ran = typist.deploy(TEXT)
    assert ran.exit_code == 0, ran.output
    assert "apps/camera is served by the pool studio." in ran.output
    assert "Note: /health-check is not served: it is the health check" in ran.output
    stored = typist.entries()
    entry = stored["apps/camera/gray"]
    app = entry["options"]["app"]
    assert (app["kind"], app["class"], app["path"]) == ("fal", "greeter:Camera", "/gray")
    assert (app["requirements"], app["concurrency"]) == ([], 4)
    assert entry["category"] == "image-to-image"
    assert stored["apps/camera/realtime"]["options"]["app"]["session"]["only"]
    assert "apps/camera/health-check" not in stored


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"S"', '"GPU-H100"', "greeter:Camera asks for a GPU (H100). Name the pool whose"),
        ('"S"', '"GPU-Z"', "Camera has the unknown machine_type GPU-Z. Known are XS, S, M"),
        ("import fal\n", "import fal, gone_away\n", "No module named 'gone_away' (greeter.py, l"),
    ],
    ids=["gpu", "machine", "import"],
)
def test_what_is_wrong_with_an_app_for_fal_is_said_before_anything_is_stored(
    typist: Typist, old: str, new: str, sentence: str
) -> None:
    before = typist.entries()
    assert old in TEXT
    ran = typist.deploy(TEXT.replace(old, new, 1), "--name", "team/wrong")
    assert ran.exit_code != 0
    assert sentence in " ".join(ran.output.split())
    assert typist.entries() == before
