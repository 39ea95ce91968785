"""What the chart renders from its examples is what Kubernetes, KubeRay, Ray and Darkroom take."""

from __future__ import annotations

import copy
import importlib.metadata
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.families.registry import FAMILIES
from serve_app.cli.main import main
from serve_app.settings import (
    HUB_SECRET_NAMES,
    PREFIX,
    SECRET_NAMES,
    PoolConfig,
    setting_names,
)
from serve_app.settings.parts import BOUNDS
from tests.docs.conftest import build
from tests.docs.pages import DOCS, ROOT
from tests.kubernetes.helm import (
    CHART,
    EXAMPLES,
    INSTALLATION,
    Manifest,
    example,
    manifests,
    require,
)
from tests.kubernetes.schemas import problems

__all__ = ["build"]

pytestmark = [
    # in Ray's own code
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

require()
ALL = [(name, manifest) for name in EXAMPLES for manifest in manifests(example(name), INSTALLATION)]
SERVICES = {name: manifest for name, manifest in ALL if manifest["kind"] == "RayService"}
SOURCES = {
    name: manifest["data"]["darkroom.yaml"]
    for name, manifest in ALL
    if manifest["kind"] == "ConfigMap" and "darkroom.yaml" in manifest["data"]
}


@pytest.fixture(params=SERVICES)
def name(request: pytest.FixtureRequest) -> str:
    """Name of each example."""
    return str(request.param)


@pytest.fixture
def ray_service(name: str) -> Manifest:
    """Its RayService, a copy of its own."""
    return copy.deepcopy(SERVICES[name])


@pytest.fixture
def source(name: str) -> dict[str, Any]:
    """The configuration from which its ``serveConfigV2`` is written."""
    return dict(yaml.safe_load(SOURCES[name]))


def identity(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def groups(ray_service: Manifest) -> list[dict[str, Any]]:
    """The head, and the groups of workers."""
    cluster = ray_service["spec"]["rayClusterConfig"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def pods() -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Labels, with those that KubeRay adds, and specification of each kind of pod."""
    for _, manifest in ALL:
        if manifest["kind"] == "RayService":
            for group in groups(manifest):
                role = "worker" if "groupName" in group else "head"
                added = {"ray.io/node-type": role, "ray.io/serve": "true"}
                yield group["template"]["metadata"]["labels"] | added, group["template"]["spec"]
        elif manifest["kind"] == "StatefulSet":
            template = manifest["spec"]["template"]
            yield template["metadata"]["labels"], template["spec"]


def configuration(ray_service: Manifest) -> dict[str, Any]:
    return dict(yaml.safe_load(ray_service["spec"]["serveConfigV2"]))


def arguments(source: dict[str, Any]) -> dict[str, Any]:
    (application,) = source["applications"]
    return dict(application["args"])


def write_applications(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Applications by name, as ``darkroom serve-config`` writes them."""
    from serve_app.app import applications  # noqa: PLC0415 imports Ray

    apps = applications(settings, Path("/etc/darkroom/darkroom.yaml"))
    return {
        name: application.entry | {"args": application.args} for name, application in apps.items()
    }


def read_pools(applications: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The applications, with pools as they are after they were read."""

    def pools(args: dict[str, Any]) -> dict[str, Any]:
        return {key: PoolConfig(**pool) for key, pool in args.get("pools", {}).items()}

    return {
        name: application | {"args": application["args"] | {"pools": pools(application["args"])}}
        for name, application in applications.items()
    }


@pytest.mark.parametrize("manifest", [manifest for _, manifest in ALL], ids=identity)
def test_a_manifest_has_the_fields_and_types_of_its_kind(manifest: Manifest) -> None:
    assert problems(manifest) == []


def test_there_is_an_example_for_one_gpu_node_and_one_for_many() -> None:
    single, many = SERVICES["one-gpu-node"], SERVICES["many-gpu-nodes"]
    assert [group["maxReplicas"] for group in groups(single)[1:]] == [1]
    assert sum(group["maxReplicas"] for group in groups(many)[1:]) > 8
    assert all(group["minReplicas"] == 0 for group in groups(many)[1:])
    assert many["spec"]["rayClusterConfig"]["enableInTreeAutoscaling"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.rayClusterConfig.headGroupSpec.rayStartParam", {}),
        ("spec.rayClusterConfig.headGroupSpec.template.spec.containers.0.portz", []),
        ("spec.rayClusterConfig.headGroupSpec.template.spec.containers.0.imagePullPolice", "x"),
        ("spec.rayClusterConfig.workerGroupSpecs.0.minReplicas", "none"),
        ("spec.rayClusterConfig.workerGroupSpecs.0.template.spec.nodeSelector", ["a"]),
        ("spec.serveConfigV3", ""),
    ],
)
def test_a_mistake_in_a_ray_service_is_found(ray_service: Manifest, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    place: Any = ray_service
    for key in parents:
        place = place[int(key) if key.isdigit() else key]
    place[last] = value
    assert problems(ray_service)


def test_a_mistake_in_a_built_in_kind_is_found() -> None:
    service, _ = [manifest for _, manifest in ALL if identity(manifest) == "Service darkroom"]
    wrong = copy.deepcopy(service)
    wrong["spec"]["ports"][0]["port"] = "eighty"
    assert problems(wrong)


def test_serve_takes_the_configuration_and_knows_each_of_its_keys(ray_service: Manifest) -> None:
    from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema  # noqa: PLC0415

    config = configuration(ray_service)
    ServeDeploySchema.model_validate(config)
    assert config.keys() <= ServeDeploySchema.model_fields.keys()
    for application in config["applications"]:
        assert application.keys() <= ServeApplicationSchema.model_fields.keys()


def test_serve_gets_what_serve_config_writes_from_the_config_map(
    ray_service: Manifest, source: dict[str, Any]
) -> None:
    rendered = {
        application["name"]: application
        for application in configuration(ray_service)["applications"]
    }
    assert read_pools(rendered) == read_pools(write_applications(arguments(source)))


def test_bounds_of_pools_are_only_in_the_config_map(ray_service: Manifest) -> None:
    """So a change of them restarts nothing."""
    for application in configuration(ray_service)["applications"]:
        for pool in application["args"].get("pools", {}).values():
            assert not BOUNDS & pool.keys()


def test_the_configuration_is_the_one_of_every_cluster_but_for_its_pools_and_addresses(
    source: dict[str, Any],
) -> None:
    usual = yaml.safe_load((ROOT / "darkroom.yaml").read_text())
    for config in (source, usual):
        del config["applications"][0]["args"]["pools"]
    for key in (*INSTALLATION["settings"], "metrics_host", "metrics_port"):
        del source["applications"][0]["args"][key]
    assert source == usual


def test_darkroom_builds_it_and_every_family_has_a_pool(
    source: dict[str, Any], build: Callable[[dict[str, Any]], Any]
) -> None:
    assert build(arguments(source))
    pools = arguments(source)["pools"].values()
    assert sorted(family for pool in pools for family in pool["families"]) == sorted(FAMILIES)


def test_the_autoscaler_knows_a_group_of_workers_for_each_pool(
    ray_service: Manifest, source: dict[str, Any]
) -> None:
    """A pool whose class of GPU no group has would wait for ever."""
    from ray.autoscaler._private.kuberay import autoscaling_config as ray_config  # noqa: PLC0415

    brought = [
        ray_config._get_ray_resources_from_group_spec(group, is_head="groupName" not in group)
        for group in groups(ray_service)
    ]
    for name, pool in arguments(source)["pools"].items():
        demand = {
            "CPU": pool["num_cpus"],
            "GPU": pool["num_gpus"],
            f"accelerator_type:{pool['accelerator']}": 1,
        }
        fits = [all(offer.get(key, 0) >= demand[key] for key in demand) for offer in brought]
        assert any(fits), name
        assert not fits[0], f"{name} fits on the head"


def test_ray_reserves_no_more_than_a_pod_has(ray_service: Manifest) -> None:
    for group in groups(ray_service)[1:]:
        (container,) = group["template"]["spec"]["containers"]
        requests = container["resources"]["requests"]
        assert group["resources"]["CPU"] == requests["cpu"]
        assert int(group["resources"]["GPU"]) == requests["nvidia.com/gpu"]


def test_pods_name_only_settings_claims_and_maps_that_there_are() -> None:
    there = {identity(manifest) for _, manifest in ALL}
    for labels, spec in pods():
        own = {"data"} if labels["app"] == "darkroom-redis" else set[str]()
        volumes = {entry["name"] for entry in spec.get("volumes", ())} | own
        for volume in spec.get("volumes", ()):
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert f"PersistentVolumeClaim {claim}" in there
            if "configMap" in volume:
                assert f"ConfigMap {volume['configMap']['name']}" in there
        for container in spec["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            variables = {variable["name"] for variable in container.get("env", ())}
            assert {
                variable for variable in variables if variable.startswith(PREFIX)
            } <= setting_names()


def test_only_the_head_gets_darkrooms_secrets() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    of_head = {values["secrets"]["head"], values["secrets"]["database"]["name"]}
    for labels, spec in pods():
        (container,) = spec["containers"]
        named = {reference["secretRef"]["name"] for reference in container.get("envFrom", ())}
        named |= {
            variable["valueFrom"]["secretKeyRef"]["name"]
            for variable in container.get("env", ())
            if "valueFrom" in variable
        }
        if labels.get("ray.io/node-type") == "head":
            assert named == of_head
        else:
            assert not named & of_head


def test_the_commands_of_the_docs_write_secrets_that_darkroom_reads() -> None:
    text = (DOCS / "how-to" / "run-on-kubernetes.md").read_text()
    keys = set(re.findall(r"--from-literal=([A-Z0-9_]+)=", text))
    assert "DARKROOM_DATABASE_URL" in keys
    assert keys <= {*SECRET_NAMES, *HUB_SECRET_NAMES}


def test_gpu_pods_are_drained_before_they_end(ray_service: Manifest) -> None:
    for group in groups(ray_service)[1:]:
        spec = group["template"]["spec"]
        (container,) = spec["containers"]
        program, command, *options = container["lifecycle"]["preStop"]["exec"]["command"]
        assert program == "darkroom"
        context = main.make_context(program, [command, *options])
        _, subcommand, words = main.resolve_command(context, [command, *options])
        assert subcommand is not None
        within = subcommand.make_context(command, words).params["within"]
        graceful = PoolConfig(families=("flux",)).shutdown_s
        assert graceful + 10 <= within < spec["terminationGracePeriodSeconds"]


def test_kubernetes_adds_no_settings_by_the_names_of_services() -> None:
    for labels, spec in pods():
        if labels["app"] == "darkroom":
            assert spec["enableServiceLinks"] is False


def test_pods_run_without_rights_and_say_how_they_are() -> None:
    for _, spec in pods():
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] >= 999
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {"readinessProbe", "livenessProbe"} <= container.keys()
            assert {"requests", "limits"} <= container["resources"].keys()
            image = container["image"]
            by_digest = "" if "/darkroom:" in image else r"@sha256:[0-9a-f]{64}"
            assert re.search(rf":\d+\.\d+\.\d+{by_digest}$", image), image


def test_ray_s_pods_ask_the_health_of_their_own_node() -> None:
    """Where KubeRay would ask: this path and port are Ray's dashboard agent."""
    from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT  # noqa: PLC0415

    for labels, spec in pods():
        if labels["app"] == "darkroom":
            (container,) = spec["containers"]
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                http_get = container[probe]["httpGet"]
                assert http_get == {
                    "path": "/api/healthz",
                    "port": DEFAULT_DASHBOARD_AGENT_LISTEN_PORT,
                }


def test_selectors_find_pods() -> None:
    selectors: list[tuple[str, dict[str, str]]] = []
    for _, manifest in ALL:
        spec = manifest.get("spec", {})
        if manifest["kind"] == "Service":
            selectors.append((identity(manifest), spec["selector"]))
        if manifest["kind"] in {"PodDisruptionBudget", "StatefulSet"}:
            selectors.append((identity(manifest), spec["selector"]["matchLabels"]))
        if manifest["kind"] == "NetworkPolicy":
            selectors.append((identity(manifest), spec["podSelector"]["matchLabels"]))
    assert len(selectors) >= 7
    for name, selector in selectors:
        assert any(selector.items() <= labels.items() for labels, _ in pods()), name


def test_the_version_of_ray_is_the_one_that_is_installed(ray_service: Manifest) -> None:
    cluster = ray_service["spec"]["rayClusterConfig"]
    assert cluster["rayVersion"] == importlib.metadata.version("ray")


def test_many_nodes_outlive_their_head() -> None:
    many = SERVICES["many-gpu-nodes"]
    cluster = many["spec"]["rayClusterConfig"]
    options = cluster["gcsFaultToleranceOptions"]
    name, _, port = options["redisAddress"].partition(":")
    (redis,) = [manifest for _, manifest in ALL if identity(manifest) == f"Service {name}"]
    assert redis["spec"]["ports"][0]["port"] == int(port)
    for group in groups(many):
        assert group["template"]["spec"]["restartPolicy"] == "Never"  # what autoscaler v2 asks for
        (container,) = group["template"]["spec"]["containers"]
        waits = [
            int(variable["value"])
            for variable in container["env"]
            if variable["name"] == "RAY_gcs_rpc_server_reconnect_timeout_s"
        ]
        assert waits
        assert waits[0] > 60  # Ray's own, too short for a pod that attaches a volume
