"""Every setting has a name, a bound and a place in the docs."""

import errno
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from deployments.families.registry import FAMILIES
from serve_app.domain.errors import Misconfigured
from serve_app.settings import (
    FIELDS,
    PREFIX,
    SECRET_NAMES,
    Config,
    PoolConfig,
    Secrets,
    read_config,
    refuse_unknown,
    setting_names,
)
from serve_app.settings.pools import SLOTS
from tests.docs.pages import DOCS

SETTINGS = (DOCS / "reference" / "settings.md").read_text()
ROW = re.compile(r"^\| `(DARKROOM_\w+)` \| (.*?) \|", re.M)
MIB = " MiB"


def test_a_typo_in_a_setting_is_refused_and_named() -> None:
    with pytest.raises(Misconfigured, match="DARKROOM_DATADIR"):
        refuse_unknown({"DARKROOM_DATADIR": "/x", "PATH": "/bin"})


def test_a_home_directory_that_nobody_has_is_refused_in_a_sentence() -> None:
    with pytest.raises(Misconfigured, match=r"data_dir: ~nobody-here/x: this machine has no such"):
        read_config({"data_dir": "~nobody-here/x"})


def test_nodes_of_the_ingress_that_are_none_are_refused_in_a_sentence() -> None:
    assert read_config({"ingress_nodes": "ray.io/node-group=front"}).server.ingress_nodes
    with pytest.raises(Misconfigured, match=r"ingress_nodes.*head, any, or a label"):
        read_config({"ingress_nodes": "workers"})


def test_every_known_setting_is_accepted() -> None:
    refuse_unknown(dict.fromkeys(setting_names(), "x"))


def test_every_setting_is_documented_once_and_nothing_else_is() -> None:
    documented = [name for name, _ in ROW.findall(SETTINGS)]
    assert sorted(documented) == sorted(setting_names())


@pytest.mark.parametrize(("name", "documented"), ROW.findall(SETTINGS))
def test_a_default_that_is_documented_as_a_value_is_that_value(name: str, documented: str) -> None:
    field = FIELDS.get(name.removeprefix(PREFIX).lower())
    default = None if field is None or field.default_factory else field.default
    if documented.endswith(MIB):
        assert int(documented.removesuffix(MIB)) * 2**20 == default
    elif documented.startswith("`"):
        expected: Any = {} if field and field.default_factory else default
        assert documented.strip("`") == _shown(expected)
    else:  # in words: then there is no value, or it is looked up
        assert default is None


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_usual_data_directory_is_in_the_home() -> None:
    assert Config().server.data_dir == Path.home() / ".darkroom"


def test_the_data_directory_is_absolute_wherever_the_process_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Config(data_dir=Path("here")).server.data_dir == tmp_path / "here"


def test_a_machine_without_a_gpu_serves_the_demo_models() -> None:
    assert Config(gpus=0).models.serves_demo
    assert not Config(gpus=1).models.serves_demo
    assert Config(gpus=1, demo=True).models.serves_demo


def test_secrets_are_no_part_of_the_bound_configuration() -> None:
    assert not {f"DARKROOM_{name.upper()}" for name in FIELDS} & set(SECRET_NAMES)


def test_secrets_come_from_the_environment_or_else_from_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "DARKROOM_DATABASE_URL").write_text("postgresql://in-a-file\n")
    (tmp_path / "DARKROOM_API_KEY").write_text("file:secret")
    monkeypatch.setenv("DARKROOM_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("DARKROOM_API_KEY", "environment:secret")
    monkeypatch.setenv("DARKROOM_DATABASE_URL", "")
    assert Secrets().by_name() == {
        "DARKROOM_DATABASE_URL": "postgresql://in-a-file",
        "DARKROOM_API_KEY": "environment:secret",
    }
    assert "in-a-file" not in repr(Secrets())


def test_a_directory_of_secrets_that_is_not_there_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARKROOM_SECRETS_DIR", str(tmp_path / "none"))
    with pytest.raises(Misconfigured, match=r"DARKROOM_SECRETS_DIR is .*none"):
        Secrets()


def test_a_file_of_a_secret_that_cannot_be_read_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARKROOM_SECRETS_DIR", str(tmp_path))
    (tmp_path / "DARKROOM_API_KEY").write_bytes(b"id:\xff")
    with pytest.raises(Misconfigured, match=r"DARKROOM_SECRETS_DIR is .* not UTF-8 text"):
        Secrets()

    def refused(path: Path, *_: object, **__: object) -> str:  # root may read everything
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(Misconfigured, match=r"/DARKROOM_API_KEY cannot be read: Permission denied"):
        Secrets()


def test_an_argument_overrides_the_environment_in_every_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DARKROOM_LEASE_S", "40")
    monkeypatch.setenv("DARKROOM_PORT", "8001")
    monkeypatch.setenv("DARKROOM_TENANT_LIMITS", '{"ann": {"weight": 2}}')
    config = read_config({"port": 8002, "s3_bucket": "images"})
    assert (config.server.port, config.queue.lease_s) == (8002, 40)
    assert config.queue.tenant_limits["ann"].weight == 2
    assert config.storage.s3_bucket == "images"


def test_arguments_of_serve_run_are_strings_and_mean_the_same() -> None:
    strings = read_config({"gpus": "0", "data_dir": "/data", "lease_s": "9.5", "demo": "true"})
    assert strings == read_config(
        {"gpus": 0, "data_dir": Path("/data"), "lease_s": 9.5, "demo": True}
    )


def test_every_wrong_argument_is_named_without_its_group() -> None:
    with pytest.raises(Misconfigured) as refused:
        read_config({"lease_s": 0, "port": "x", "queue": {"lease_s": 1}, "prot": 1})
    for problem in (
        "lease_s: Input should be greater than 0",
        "port: Input should be a valid integer",
        "queue: unknown key `queue`",
        "prot: unknown key `prot`; did you mean `port`?",
    ):
        assert problem in refused.value.message


@pytest.mark.parametrize(
    "arguments",
    [
        {"lease_s": "inf"},
        {"webhook_give_up_s": "inf"},
        {"pools": {"studio": {"families": ["flux"], "keep_alive_s": float("inf")}}},
    ],
)
def test_a_duration_without_an_end_is_refused(arguments: dict[str, Any]) -> None:
    """PostgreSQL has no such interval, and no timer waits for it."""
    with pytest.raises(Misconfigured, match="finite number"):
        read_config(arguments)


def test_a_variable_that_is_not_json_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_TENANT_LIMITS", "ann")
    with pytest.raises(Misconfigured, match="DARKROOM_TENANT_LIMITS is no JSON"):
        read_config({})


def test_the_configuration_reaches_other_processes_whole() -> None:
    config = Config(gpus=0, lease_s=60).with_pools({"studio": PoolConfig(families=("flux",))})
    there = pickle.loads(pickle.dumps(config))  # noqa: S301 our own
    assert there == config
    assert (there.queue.lease_s, list(there.models.pools)) == (60, ["studio"])


@pytest.mark.parametrize(
    ("families", "accelerator", "slots"),
    [
        (["sdxl"], "L4", 8),
        (["sdxl"], "H100", 16),
        (["video"], "L40S", 2),
        (["video"], "H200", 4),
        (["video", "flux"], "H100", 8),  # the family that needs the most
        (["flux"], None, 4),  # as the smallest class
        (["my-own"], "H100", 8),
    ],
)
def test_slots_of_a_gpu_follow_from_its_memory_and_the_families_of_its_pool(
    families: list[str], accelerator: str | None, slots: int
) -> None:
    pool = {"families": families, "accelerator": accelerator, "num_gpus": 1}
    assert PoolConfig.model_validate(pool).max_slots == slots
    assert PoolConfig.model_validate({**pool, "slots": 5}).max_slots == 5
    assert not PoolConfig.model_validate({**pool, "slots": 5}).slots_by_memory
    assert PoolConfig.model_validate({**pool, "num_gpus": 0}).max_slots == 2


def test_slots_are_known_for_each_built_in_family() -> None:
    assert {*SLOTS} == {*FAMILIES}
    documented = (DOCS / "how-to" / "run-a-cluster.md").read_text()
    for family, ((_, small), (least, large)) in (
        (name, [*it.items()]) for name, it in SLOTS.items()
    ):
        assert f"| `{family}` | {small} | {least:g} GB: {large} |" in documented
    for table in SLOTS.values():
        assert list(table.items()) == sorted(table.items())
        assert list(table.values()) == sorted(table.values())
        assert 0 in table
