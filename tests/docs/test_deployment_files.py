"""The files for a cluster are what Ray, Serve and Darkroom take."""

import re
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deployments.families.registry import FAMILIES
from serve_app.settings import setting_names
from serve_app.settings.config_file import read
from tests.docs.pages import ROOT

CLUSTER = ROOT / "cluster.yaml"
PACKAGES = ROOT / "requirements-image.txt"
CONFIGURATION = ROOT / "darkroom.yaml"
COMPOSE = ROOT / "compose.yaml"
DOCKERFILE = ROOT / "Dockerfile"


pytestmark = [
    # in Ray's own code
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def load_yaml(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()))


def test_the_cluster_is_valid_for_rays_launcher() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config  # noqa: PLC0415

    validate_config(prepare_config(load_yaml(CLUSTER)))


def test_the_head_is_alone_and_every_group_of_workers_can_go_to_zero() -> None:
    cluster = load_yaml(CLUSTER)
    groups = dict(cluster["available_node_types"])
    assert groups.pop(cluster["head_node_type"])["max_workers"] == 0
    assert groups
    assert all(group["min_workers"] == 0 for group in groups.values())
    assert sum(group["max_workers"] for group in groups.values()) <= cluster["max_workers"]


def test_the_configuration_is_valid_for_serve_deploy() -> None:
    from ray.serve.schema import ServeDeploySchema  # noqa: PLC0415

    ServeDeploySchema.model_validate(load_yaml(CONFIGURATION))


def test_the_configuration_builds(build: Callable[[dict[str, Any]], Any]) -> None:
    file = read(CONFIGURATION)
    assert build(file.arguments)
    assert file.port == 8000


def test_every_family_has_a_pool_of_its_own() -> None:
    pools = read(CONFIGURATION).arguments["pools"].values()
    assert sorted(family for pool in pools for family in pool["families"]) == sorted(FAMILIES)
    assert all(len(pool["families"]) == 1 for pool in pools)


def test_every_pool_asks_for_a_class_of_gpu_that_the_cluster_has() -> None:
    groups = load_yaml(CLUSTER)["available_node_types"].values()
    there = {name for group in groups for name in group["resources"]}
    pools = read(CONFIGURATION).arguments["pools"].values()
    assert {f"accelerator_type:{pool['accelerator']}" for pool in pools} <= there


def test_compose_sets_only_what_darkroom_reads() -> None:
    environment = load_yaml(COMPOSE)["services"]["darkroom"]["environment"]
    settings = {name for name in environment if name.startswith("DARKROOM_")}
    assert settings
    assert settings <= setting_names()


def test_compose_names_nothing_that_it_does_not_have() -> None:
    compose = load_yaml(COMPOSE)
    services = compose["services"]
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= services.keys(), name
        volumes = {volume.partition(":")[0] for volume in service.get("volumes", ())}
        assert volumes <= compose["volumes"].keys(), name
        configs = {config["source"] for config in service.get("configs", ())}
        assert configs <= compose["configs"].keys(), name


def test_images_of_others_are_named_by_version_and_digest() -> None:
    base = re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(), re.MULTILINE)
    images = [
        service["image"]
        for service in load_yaml(COMPOSE)["services"].values()
        if "image" in service
    ]
    assert base
    assert images
    for image in [*base, *images]:
        assert re.search(r":\d[\w.-]*@sha256:[0-9a-f]{64}$", image), image


def test_volumes_of_compose_belong_to_the_user_of_the_image() -> None:
    """A named volume that is mounted where the image has no folder belongs to root."""
    dockerfile = DOCKERFILE.read_text().replace("\\\n", " ")
    (folders,) = re.findall(r"install -d -o darkroom -g darkroom ([^&\n]+)", dockerfile)
    mounts = load_yaml(COMPOSE)["services"]["darkroom"]["volumes"]
    assert mounts
    assert {mount.partition(":")[2] for mount in mounts} <= {*folders.split()}


def test_the_image_runs_as_a_user_that_kubernetes_knows_not_to_be_root() -> None:
    text = DOCKERFILE.read_text()
    (user,) = re.findall(r"^USER (\d+):\d+$", text, re.MULTILINE)
    assert f"--uid {user} " in text


def test_the_image_has_what_compiling_a_model_needs() -> None:
    """Triton builds its launchers with a C compiler and the headers of C, when a model is compiled:
    in an image without them, `compile` of a recipe would run as written, and only a log says so."""
    installed = re.search(r"apt-get install -y --no-install-recommends ([^\\\n&]+)", (
        DOCKERFILE.read_text()
    ))  # fmt: skip
    assert installed is not None
    assert {"gcc", "libc6-dev"} <= set(installed[1].split())
    assert DOCKERFILE.read_text().index("libc6-dev") < DOCKERFILE.read_text().index("USER 1000")


def test_a_database_that_is_away_does_not_make_the_container_unhealthy() -> None:
    (check,) = re.findall(r"^HEALTHCHECK .*\n.*$", DOCKERFILE.read_text(), re.MULTILINE)
    assert "/healthz" in check


def test_compose_waits_for_what_can_be_asked_whether_it_is_healthy() -> None:
    services = load_yaml(COMPOSE)["services"]
    assert services["darkroom"]["init"] is True
    waits = [
        name
        for service in services.values()
        for name, how in service.get("depends_on", {}).items()
        if how["condition"] == "service_healthy"
    ]
    assert sorted(waits) == ["database", "storage"]
    assert all("healthcheck" in services[name] for name in waits)


def pinned_versions(path: Path) -> dict[str, str]:
    lines = re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in lines}


def required_packages(
    name: str, extras: tuple[str, ...] = ()
) -> Iterator[tuple[str, tuple[str, ...]]]:
    for line in distribution(name).requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in (*extras, "")
        ):
            yield canonicalize_name(requirement.name), tuple(sorted(requirement.extras))


def test_the_image_takes_every_package_but_torch_by_its_hash_at_the_pinned_version() -> None:
    by_hash, versions = pinned_versions(PACKAGES), pinned_versions(ROOT / "constraints.txt")
    assert by_hash == {name: versions[name] for name in by_hash}
    text = PACKAGES.read_text()
    assert all(f"=={version} \\\n    --hash=sha256:" in text for version in by_hash.values())
    packages = set[tuple[str, tuple[str, ...]]]()
    ahead: list[tuple[str, tuple[str, ...]]] = [("darkroom-serve", ())]
    while ahead:
        package = ahead.pop()
        if package not in packages:
            packages.add(package)
            ahead.extend(() if package[0] == "torch" else required_packages(*package))
    assert {name for name, _ in packages} - {"darkroom-serve", "torch"} <= by_hash.keys()


def test_the_image_is_made_of_what_its_context_has() -> None:
    let_in = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        part
        for line in DOCKERFILE.read_text().splitlines()
        if line.startswith("COPY ")
        for part in line.split()[1:-1]
    }
    assert copied
    for part in copied:
        assert (ROOT / part).exists(), part
        assert part.split("/")[0] in let_in, part
    # Whole, after the layer of packages, which has only their names.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {
        name.removesuffix("*")
        for name in project["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    assert packages <= copied
