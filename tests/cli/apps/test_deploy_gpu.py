"""``darkroom deploy`` of what needs a GPU, in an installation whose pools for apps have none; and
``darkroom undeploy`` of what is no Python app."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from serve_app.cli.main import main
from serve_app.domain.executors.gpus import PoolGpus, cpu_problem, gpu_problem
from serve_app.settings import PoolConfig
from tests.cli.apps.test_deploy import GREETER, ON_GPU, Typist
from tests.cli.apps.test_deploy_comfyui import COMFYUI, GRAPH
from tests.ingress.house import MODELS
from tests.wire.served import Address, serve

# Warnings of Ray, if it is imported first.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

EXECUTORS = ("python", "cog", "comfyui")
POOLS = {
    "studio": PoolConfig(families=("probe",), num_gpus=1),
    "apps": PoolConfig(families=EXECUTORS, min_replicas=0),
    "large": PoolConfig(families=("python",), num_gpus=1, accelerator="H100"),
    "small": PoolConfig(families=("python", "comfyui"), num_gpus=1, accelerator="L4"),
}


@pytest.fixture(scope="module")
def here() -> Iterator[Address]:
    with serve(models=MODELS, pools=POOLS, replica=False) as address:
        yield address


@pytest.fixture
def typist(tmp_path: Path, here: Address) -> Typist:
    return Typist(tmp_path, here)


@pytest.mark.long
def test_an_app_for_a_gpu_is_refused_by_a_pool_that_has_not_that_gpu(typist: Typist) -> None:
    before = typist.entries()
    none = typist.deploy(ON_GPU, "--pool", "apps")
    assert none.exit_code == 1
    assert (
        "apps/greeter/draw was not stored. It needs a GPU (L4), and the replicas of the pool "
        "`apps` have none. Name a pool with GPUs by --pool: large, small."
    ) in " ".join(none.output.split())
    other = typist.deploy(ON_GPU, "--pool", "large")
    assert "the pool `large` have another one (H100)" in " ".join(other.output.split())
    assert typist.entries() == before
    right = typist.deploy(ON_GPU, "--pool", "small", "--dry-run")
    assert right.exit_code == 0, right.output
    assert "apps/greeter would be served by the pool small." in right.output
    plain = typist.deploy(GREETER, "--dry-run")
    assert "apps/greeter would be served by the pool apps." in plain.output


@pytest.mark.long
def test_a_workflow_of_comfyui_is_not_left_to_a_cpu_unless_its_pool_is_named(
    typist: Typist, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARKROOM_COMFYUI", json.dumps(COMFYUI))
    file = typist.file.with_name("cat.json")
    file.write_text(json.dumps(GRAPH))
    arguments = ["deploy", str(file), "--data-dir", str(typist.data_dir)]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 1
    output = " ".join(shown.output.split())
    assert "have no GPU, so ComfyUI would compute on their CPUs. Name a pool with GPUs" in output
    assert "by --pool: small. To let it compute on CPUs, name apps." in output
    for pool in ("small", "apps"):
        named = CliRunner().invoke(main, [*arguments, "--pool", pool])
        assert named.exit_code == 0, named.output
        assert f"apps/cat is served by the pool {pool}." in named.output
    removed = typist.undeploy("cat")
    assert removed.output == "apps/cat is deleted.\n"


def test_a_cog_model_is_removed_with_its_training(typist: Typist) -> None:
    headers = {"Authorization": f"Key {typist.address.key}"}
    schemas = {
        "input_schema": {"type": "object", "properties": {}},
        "output_schema": {"type": "object"},
    }
    for mode, path in (("predict", ""), ("train", "/train"), ("predict", "/other")):
        cog = {"mode": mode, "url": "http://127.0.0.1:9"}
        entry = {"family": "cog", "schema": "json", "options": {"cog": cog, **schemas}}
        url = f"{typist.address.url}/v1/models/entries/team/model{path}"
        answer = httpx.put(url, json=entry, headers=headers, trust_env=False)
        assert answer.status_code == 200, answer.text
    removed = typist.undeploy("team/model")
    assert sorted(removed.output.splitlines()) == [
        "team/model is deleted.",
        "team/model/train is deleted.",
    ]
    assert "team/model/other" in typist.entries()


def gpus(number: float, accelerator: str | None = None) -> PoolGpus:
    return PoolGpus(number, accelerator, frozenset({"python"}))


@pytest.mark.parametrize(
    ("wanted", "has", "words"),
    [
        ("any", gpus(1), ""),
        ("any", gpus(0.5, "L4"), ""),
        ("L4", gpus(1), ""),  # of a class that is not known
        ("A100 or H100", gpus(1, "H100"), ""),
        ("A100", gpus(1, "A100-40G"), ""),
        ("L4", gpus(1, "L40S"), "have another one (L40S)"),
        ("2 × H100", gpus(1, "H100"), "Set num_gpus: 2 of the pool."),
        ("2 × H100", gpus(2, "H100"), ""),
        ("any", gpus(0), "No pool with GPUs hosts the family `python`: add one in DARKROOM_POOLS"),
    ],
)
def test_a_pools_gpus_are_compared_with_what_is_asked_for(
    wanted: str, has: PoolGpus, words: str
) -> None:
    problem = gpu_problem(wanted, "python", "pool", {"pool": has})
    assert (words in problem) if words else not problem


def test_without_any_gpu_comfyui_computes_on_the_cpu() -> None:
    comfyui = ("ComfyUI", "comfyui", "apps")
    assert cpu_problem(*comfyui, {"apps": gpus(0)}) == ""
    assert cpu_problem(*comfyui, {"apps": gpus(1)}) == ""
    assert "no GPU" in cpu_problem(*comfyui, {"apps": gpus(0), "studio": gpus(1)})
