"""What ``cluster.yaml`` says is done on AWS, as far as that can be seen without AWS."""

from __future__ import annotations

import copy
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.cli.commands.watch_spot import watch_spot_command
from serve_app.settings.config_file import read
from tests.docs.pages import DOCS, ROOT, blocks

pytestmark = [
    # in Ray's own code, moto's and botocore's
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

CHECKOUT = "/home/ubuntu/darkroom"
MARKET = "ray.io/market-type"

SHOW = """#!/bin/sh
echo "$@"
env
"""


@pytest.fixture
def cluster() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "cluster.yaml").read_text()))


@pytest.mark.long
def test_rays_launcher_starts_a_node_of_each_group(
    cluster: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes the key for ssh there
    (tmp_path / ".ssh").mkdir()
    import boto3  # noqa: PLC0415
    from moto import mock_aws  # noqa: PLC0415
    from ray.autoscaler._private.aws.config import bootstrap_aws  # noqa: PLC0415
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider  # noqa: PLC0415
    from ray.autoscaler._private.util import prepare_config  # noqa: PLC0415

    with mock_aws():
        # Ray would make both, and wait 15 s for them.
        iam: Any = boto3.resource("iam", region_name="eu-central-1")
        iam.create_role(RoleName="head", AssumeRolePolicyDocument="{}")
        profile = iam.create_instance_profile(InstanceProfileName="ray-autoscaler-v1")
        profile.add_role(RoleName="head")
        ready = bootstrap_aws(prepare_config(cluster))
        provider = AWSNodeProvider(ready["provider"], cluster["cluster_name"])
        started: dict[str, Any] = {}
        for name, group in ready["available_node_types"].items():
            tags = {"ray-node-type": "worker", "ray-user-node-type": name, "ray-node-name": name}
            nodes = provider.create_node(copy.deepcopy(group["node_config"]), tags, 1)
            (started[name],) = (nodes or {}).values()
        for name, group in cluster["available_node_types"].items():
            instance = started[name]
            assert instance.instance_type == group["node_config"]["InstanceType"]
            assert "ubuntu-24.04" in instance.image_id
            spot = group["labels"][MARKET] == "spot"
            assert (instance.instance_lifecycle == "spot") is spot, name


def test_every_class_of_gpu_has_a_spot_and_an_on_demand_group(cluster: dict[str, Any]) -> None:
    markets: dict[str, set[str]] = {}
    for group in cluster["available_node_types"].values():
        for resource in group["resources"]:
            if resource.startswith("accelerator_type:"):
                markets.setdefault(resource, set()).add(group["labels"][MARKET])
    assert markets
    assert all(market == {"spot", "on-demand"} for market in markets.values())


def test_a_node_gets_the_data_directory_of_the_configuration(cluster: dict[str, Any]) -> None:
    (install_command,) = [
        line for line in cluster["setup_commands"] if "install -d -o ubuntu" in line
    ]
    assert read(ROOT / "darkroom.yaml").arguments["data_dir"] in install_command.split()


def test_commands_are_bash_and_name_the_environment_that_the_setup_makes(
    cluster: dict[str, Any],
) -> None:
    phases = ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    for command in [line for phase in phases for line in cluster[phase]]:
        subprocess.run(["bash", "-n"], input=command, text=True, check=True)
        assert "ray " not in command or "/opt/darkroom/venv/bin" in command


@pytest.mark.parametrize(
    ("phase", "file", "line", "starts"),
    [
        ("worker_start_ray_commands", "worker.env", "HF_TOKEN=hf_token", "--address=10.0.0.1:6379"),
        ("head_start_ray_commands", "darkroom.env", "DARKROOM_S3_BUCKET=mine", "--head"),
    ],
)
def test_ray_starts_with_the_environment_of_the_node(
    cluster: dict[str, Any], tmp_path: Path, phase: str, file: str, line: str, starts: str
) -> None:
    (tmp_path / "ray").write_text(SHOW)
    (tmp_path / "ray").chmod(0o755)
    (tmp_path / file).write_text(line + "\n")
    (command,) = [start_line for start_line in cluster[phase] if "ray start" in start_line]
    for folder in (CHECKOUT, "/etc", "/opt/darkroom/venv/bin"):
        command = command.replace(folder, str(tmp_path))
    environment = {"PATH": "/usr/bin:/bin", "RAY_HEAD_IP": "10.0.0.1", "HOME": str(tmp_path)}
    ran = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=True
    )
    started, *variables = ran.stdout.splitlines()
    assert started.startswith("start ")
    assert starts in started
    assert {line, "RAY_SERVE_ENABLE_HA_PROXY=1", "HF_HUB_DISABLE_TELEMETRY=1"} <= {*variables}
    assert "RAY_gcs_rpc_server_reconnect_timeout_s=600" in variables


def test_ray_does_not_start_without_the_secrets_of_a_file_that_cannot_be_read(
    cluster: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "ray").write_text(SHOW)
    (tmp_path / "ray").chmod(0o755)
    (tmp_path / "darkroom.env").write_text("return 1\n")  # as bash does without the permission
    (command,) = [line for line in cluster["head_start_ray_commands"] if "ray start" in line]
    for folder in ("/etc", "/opt/darkroom/venv/bin"):
        command = command.replace(folder, str(tmp_path))
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    ran = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "start" not in ran.stdout


@pytest.mark.parametrize(
    ("page", "command"),
    [
        ("tutorials/cluster.md", "doctor storage"),
        ("how-to/back-up-and-restore.md", "backup monday"),
    ],
)
def test_commands_that_open_the_storage_of_a_cluster_have_the_settings_of_its_head(
    tmp_path: Path, page: str, command: str
) -> None:
    beginning = f"{command} --config darkroom.yaml"
    (script,) = [block.text for block in blocks(DOCS / page, "sh") if beginning in block.text]
    for program in ("darkroom", "serve"):
        (tmp_path / program).write_text(SHOW)
        (tmp_path / program).chmod(0o755)
    (tmp_path / "darkroom.env").write_text("DARKROOM_S3_BUCKET=mine\n")
    ran = subprocess.run(
        ["bash", "-ec", script.replace("/etc", str(tmp_path))],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    started, _, rest = ran.stdout.partition("\n")
    assert started.startswith(beginning)
    assert "DARKROOM_S3_BUCKET=mine" in rest.splitlines()


def test_the_workers_watch_for_the_notice_of_their_cloud(cluster: dict[str, Any]) -> None:
    (command,) = [line for line in cluster["worker_start_ray_commands"] if "watch-spot" in line]
    words = shlex.split(command)
    options = words[words.index("watch-spot") + 1 : words.index(">")]
    context = watch_spot_command.make_context("watch-spot", options)
    assert context.params["cloud"] == "aws"
    assert words[-1] == "&"  # `ray up` goes on


def test_secrets_of_the_workers_are_not_committed() -> None:
    assert "/worker.env" in (ROOT / ".gitignore").read_text().splitlines()
