"""The examples of the docs do what is said of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pydantic import TypeAdapter

from serve_app.cli.commands import environment
from serve_app.cli.serve.greeting import example_commands
from serve_app.settings import Config, PoolConfig
from tests.docs.pages import DOCS, ROOT, block, blocks
from tests.wire.entered import start_gateway, write_installation
from tests.wire.served import serve

Build = Callable[[dict[str, Any]], Any]


@pytest.mark.wire
@pytest.mark.parametrize("side", ["unchanged, in a prepared shell", "changed"])
def test_the_readme_s_call_gets_an_image(tmp_path: Path, side: str) -> None:
    lines = block(ROOT / "README.md", "diff").splitlines()
    changed = side == "changed"
    example = "\n".join(line[1:] for line in lines if changed or not line.startswith("+"))
    with serve() as here, start_gateway(here.url, tmp_path) as ways:
        example = example.replace("http://127.0.0.1:8000", here.url)
        mode = "plain" if changed else "proxy"
        shell = environment.variables(write_installation(here, ways, tmp_path), mode)
        ran = subprocess.run(
            [sys.executable, "-c", example],
            env={"PATH": os.defpath, **shell},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        image = httpx.get(ran.stdout.strip(), trust_env=False)  # as a browser would
    assert image.status_code == 200
    assert image.headers["content-type"] == "image/jpeg"


@pytest.mark.long
@pytest.mark.wire
def test_what_the_start_prints_gets_an_image_in_a_shell(tmp_path: Path) -> None:
    with serve() as here, start_gateway(here.url, tmp_path) as ways:
        lines = example_commands(write_installation(here, ways, tmp_path), here.url)
        assert len(lines) == 3
        ran = subprocess.run(
            ["sh", "-ec", "\n".join(lines)],
            env={"PATH": os.defpath, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr
    assert "/files/" in ran.stdout


def test_the_cluster_s_configuration_builds(build: Build) -> None:
    (application,) = yaml.safe_load(block(DOCS / "tutorials" / "cluster.md", "yaml"))[
        "applications"
    ]
    module, _, name = application["import_path"].partition(":")
    assert (module, name) == (build.__module__, build.__name__)
    build(application["args"])
    config = Config(**application["args"])
    pools = TypeAdapter(dict[str, PoolConfig]).validate_python(application["args"]["pools"])
    assert config.models.pools == pools
    assert not config.models.serves_demo


@pytest.mark.parametrize("page", ["keep-models-warm", "run-a-cluster", "use-several-devices"])
def test_the_pools_of_the_docs_are_pools(page: str) -> None:
    for pool_block in blocks(DOCS / "how-to" / f"{page}.md", "yaml"):
        written = yaml.safe_load(pool_block.text)["pools"]
        pools = Config(pools=written).models.pools
        assert pools is not None
        assert pools.keys() == written.keys()


def test_the_groups_of_the_docs_are_rights() -> None:
    (block,) = blocks(DOCS / "how-to" / "sign-people-in.md", "yaml")
    written = yaml.safe_load(block.text)["oidc_groups"]
    groups = Config(oidc_groups=written).sign_in.oidc_groups
    assert {name: group.tenant for name, group in groups.items()} == {
        name: group["tenant"] for name, group in written.items()
    }
