"""Every setting has a name, a bound and a place in the docs."""

from pathlib import Path

import pytest

from serve_app.domain.errors import Misconfigured
from serve_app.settings import SECRET_NAMES, Config, refuse_unknown, setting_names

ROOT = Path(__file__).parent.parent


def test_a_typo_in_a_setting_is_refused_and_named() -> None:
    with pytest.raises(Misconfigured, match="DARKROOM_DATADIR"):
        refuse_unknown({"DARKROOM_DATADIR": "/x", "PATH": "/bin"})


def test_every_known_setting_is_accepted() -> None:
    refuse_unknown(dict.fromkeys(setting_names(), "x"))


@pytest.mark.parametrize("name", sorted(setting_names()))
def test_every_setting_is_documented(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs" / "settings.md").read_text()


def test_the_data_directory_is_absolute_wherever_the_process_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Config(data_dir=Path("here")).data_dir == tmp_path / "here"


def test_a_machine_without_a_gpu_serves_the_demo_models() -> None:
    assert Config(gpus=0).serves_demo
    assert not Config(gpus=1).serves_demo
    assert Config(gpus=1, demo=True).serves_demo


def test_secrets_are_no_part_of_the_bound_configuration() -> None:
    assert not {f"DARKROOM_{name.upper()}" for name in Config.model_fields} & set(SECRET_NAMES)
