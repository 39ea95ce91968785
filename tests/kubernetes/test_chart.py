"""Values of the chart do what they say, and mistakes in them are refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from serve_app.telemetry.version import package_version
from tests.docs.pages import DOCS, block
from tests.kubernetes.helm import (
    EXAMPLES,
    INSTALLATION,
    Manifest,
    Refused,
    Values,
    example,
    manifests,
    merge_values,
    require,
)
from tests.kubernetes.schemas import problems

require()

ONE = merge_values(example("one-gpu-node"), INSTALLATION)


def render(change: Values, base: Values = ONE, release: str = "darkroom") -> dict[str, Manifest]:
    """Manifests by kind and name, each of which its schema allows."""
    documents = manifests(base, change, release=release)
    for document in documents:
        assert problems(document) == [], document["kind"]
    return {
        f"{manifest['kind']} {manifest['metadata']['name']}": manifest for manifest in documents
    }


def with_class(**change: Any) -> Values:
    (node_class,) = example("one-gpu-node")["nodeClasses"]
    return {"nodeClasses": [node_class | change]}


def applications(documents: dict[str, Manifest]) -> dict[str, dict[str, Any]]:
    text = documents["RayService darkroom"]["spec"]["serveConfigV2"]
    return {
        application["name"]: application for application in yaml.safe_load(text)["applications"]
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ingres": {"enabled": True}}, "ingres"),
        ({"head": {"memory": "eight"}}, "head.memory"),
        (
            {"workers": {"terminationGracePeriodSeconds": 5}},
            "workers.terminationGracePeriodSeconds",
        ),
        ({"httpRoute": {"enabled": True, "parentRefs": []}}, "httpRoute.parentRefs"),
        ({"image": {"repository": ""}}, "image.repository is empty"),
        ({"settings": {"public_url": ""}}, "settings.public_url is empty"),
        ({"settings": {"s3_bucket": ""}}, "settings.s3_bucket is empty"),
        ({"settings": {"leese_s": 30}}, "settings.leese_s is no setting of Darkroom"),
        ({"settings": {"pools": {}}}, "pools are in nodeClasses"),
        ({"nodeClasses": []}, "nodeClasses is empty"),
        (with_class(gpu=1), "gpu"),
        (with_class(pools=[{"name": "x", "slotz": 1}]), "The pool x has the key slotz"),
        (with_class(pools=[{"name": "x", "accelerator": "A10G"}]), "nodeClasses.0.pools.0"),
    ],
)
def test_a_mistake_is_refused_by_name(change: Values, message: str) -> None:
    with pytest.raises(Refused, match=message):
        manifests(ONE, change)


def test_the_values_of_the_docs_are_values() -> None:
    values = yaml.safe_load(block(DOCS / "how-to" / "run-on-kubernetes.md", "yaml"))
    resources = render(values, example("many-gpu-nodes"))
    assert {"HTTPRoute darkroom", "PodMonitor darkroom", "PrometheusRule darkroom"} <= {*resources}


def test_every_value_that_the_examples_do_not_set_can_be_left_out() -> None:
    own = {key: INSTALLATION[key] for key in ("image", "settings")}
    for name in EXAMPLES:
        resources = render({}, merge_values(example(name), own))
        assert {"RayService darkroom", "Service darkroom", "ConfigMap darkroom-config"} <= {
            *resources
        }
        assert not {"Ingress darkroom", "HTTPRoute darkroom", "PrometheusRule darkroom"} & {
            *resources
        }


def test_two_releases_of_one_namespace_share_no_object_and_no_pod() -> None:
    first, second = render({}, release="darkroom"), render({}, release="other")
    claims = {"PersistentVolumeClaim darkroom-weights"}  # a name of the values
    assert {*first} & {*second} == claims
    assert first["Service darkroom"]["spec"]["selector"]["app"] == "darkroom"
    assert second["Service other-darkroom"]["spec"]["selector"]["app"] == "other-darkroom"


def test_ingress_and_route_have_the_host_of_the_public_url() -> None:
    resources = render({})
    ingress = resources["Ingress darkroom"]["spec"]
    assert ingress["rules"][0]["host"] == "darkroom.example.org"
    assert ingress["tls"] == [{"hosts": ["darkroom.example.org"], "secretName": "darkroom-tls"}]
    assert resources["HTTPRoute darkroom"]["spec"]["hostnames"] == ["darkroom.example.org"]


def test_the_rules_are_those_of_the_docs() -> None:
    alerts = yaml.safe_load((DOCS / "how-to" / "darkroom-alerts.yaml").read_text())
    assert render({})["PrometheusRule darkroom"]["spec"] == alerts


def containers(documents: dict[str, Manifest]) -> list[Manifest]:
    """Containers of the pods of Ray, the head's first."""
    cluster = documents["RayService darkroom"]["spec"]["rayClusterConfig"]
    groups = cluster["headGroupSpec"], *cluster["workerGroupSpecs"]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def address(endpoint: Manifest, pod: str) -> str:
    """Address that Prometheus scrapes for one that it has found."""
    for rule in endpoint["relabelings"]:
        if rule.get("sourceLabels") == ["__address__"]:
            assert rule["targetLabel"] == "__address__"
            replacement = rule["replacement"].replace("$1", r"\1")
            return re.sub(f"^{rule['regex']}$", replacement, pod)
    return pod


def jobs(monitor: Manifest) -> set[str]:
    rules = [
        rule
        for endpoint in monitor["spec"]["podMetricsEndpoints"]
        for rule in endpoint["relabelings"]
    ]
    return {rule["replacement"] for rule in rules if rule.get("targetLabel") == "job"}


@pytest.mark.parametrize("ingresses", [1, 3])
def test_prometheus_finds_every_ingress_of_a_head(ingresses: int) -> None:
    resources = render({"settings": {"metrics_port": 9200, "ingress_replicas": ingresses}})
    monitor, (head, *_) = resources["PodMonitor darkroom"], containers(resources)
    (port,) = [candidate for candidate in head["ports"] if candidate["name"] == "app-metrics"]
    *endpoints, haproxy = monitor["spec"]["podMetricsEndpoints"]
    assert address(haproxy, f"10.0.0.7:{port['containerPort']}") == "10.0.0.7:9101"
    assert {endpoint["port"] for endpoint in endpoints} == {port["name"]}
    addresses = [address(endpoint, f"[fd00::7]:{port['containerPort']}") for endpoint in endpoints]
    assert addresses == [f"[fd00::7]:{9200 + number}" for number in range(ingresses)]
    assert all(endpoint["honorLabels"] for endpoint in endpoints), (
        "or `endpoint` would be the port's name"
    )
    assert jobs(monitor) == {"darkroom", "haproxy"}
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    allowed = resources["NetworkPolicy darkroom-head"]["spec"]["ingress"]
    ports = {"port": 9200, "endPort": 9200 + ingresses - 1, "protocol": "TCP"}
    assert ports in [port for rule in allowed for port in rule["ports"]]


def test_another_number_of_ingresses_changes_no_pod() -> None:
    def cluster(ingresses: int) -> Manifest:
        resources = render({"settings": {"ingress_replicas": ingresses}})
        return dict(resources["RayService darkroom"]["spec"]["rayClusterConfig"])

    assert cluster(1) == cluster(3)


def test_prometheus_finds_ray_on_every_pod() -> None:
    resources = render({})
    monitor = resources["PodMonitor darkroom-ray"]
    assert [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]
    assert jobs(monitor) == {"ray"}
    # KubeRay names port 8080 so, unless a container has a port of that name.
    for container in containers(resources):
        assert "metrics" not in [port["name"] for port in container.get("ports", ())]
    allowed = resources["NetworkPolicy darkroom-pods"]["spec"]["ingress"]
    assert [{"port": 8080, "protocol": "TCP"}] in [rule.get("ports") for rule in allowed]


def test_the_head_may_use_a_redis_of_ones_own_ours_or_none() -> None:
    def redis(values: Values) -> tuple[str | None, bool]:
        resources = render({"headFaultTolerance": values})
        cluster = resources["RayService darkroom"]["spec"]["rayClusterConfig"]
        address = cluster.get("gcsFaultToleranceOptions", {}).get("redisAddress")
        return address, "StatefulSet darkroom-redis" in resources

    assert redis({"enabled": False}) == (None, False)
    assert redis({"enabled": True}) == ("darkroom-redis:6379", True)
    own = {"enabled": True, "redisAddress": "redis.example.org:6380"}
    assert redis(own) == ("redis.example.org:6380", False)


def test_policies_and_budgets_can_be_left_to_others() -> None:
    resources = render({"networkPolicies": {"enabled": False}, "disruptionBudgets": False})
    assert not [
        name for name in resources if name.split()[0] in {"NetworkPolicy", "PodDisruptionBudget"}
    ]


def test_the_database_s_url_may_be_in_another_secret() -> None:
    resources = render({"secrets": {"database": {"name": "postgres-app", "key": "uri"}}})
    head = resources["RayService darkroom"]["spec"]["rayClusterConfig"]["headGroupSpec"]
    (container,) = head["template"]["spec"]["containers"]
    (url,) = [
        variable for variable in container["env"] if variable["name"] == "DARKROOM_DATABASE_URL"
    ]
    assert url["valueFrom"]["secretKeyRef"] == {"name": "postgres-app", "key": "uri"}


def test_an_overflow_pool_has_the_families_of_the_pool_before_it() -> None:
    spot = {"name": "flux", "families": ["flux"], "resources": {"spot": 0.001}}
    other = {"name": "second", "overflow_of": "flux", "overflow_after_s": 300}
    third = {"name": "third", "overflow_of": "second"}
    apps = applications(render(with_class(pools=[third, other, spot])))
    for name in ("flux", "second", "third"):
        pool = apps[f"darkroom-{name}"]["args"]["pools"][name]
        assert pool["families"] == ["flux"]
        assert not {"overflow_of", "overflow_after_s"} & pool.keys()


def test_a_canary_has_the_keys_of_its_pool_and_runs_its_own_code() -> None:
    flux = {"name": "flux", "families": ["flux"], "slots": 3, "max_replicas": 4, "threads": 2}
    canary = {"name": "next", "canary_of": "flux", "code": "local:///opt/next", "slots": 1}
    application = applications(render(with_class(pools=[canary, flux])))["darkroom-next"]
    assert application["runtime_env"] == {"py_modules": ["local:///opt/next"]}
    own = application["args"]["pools"]["next"]
    assert own.pop("accelerator")
    assert own.pop("num_gpus") == 1
    assert own == {"families": ["flux"], "slots": 1, "threads": 2, "code": "local:///opt/next"}


def test_pools_are_in_darkroom_yaml_in_the_order_of_the_values() -> None:
    pools = [{"name": name, "families": ["flux"]} for name in ("zeta", "alpha", "mid")]
    resources = render(with_class(pools=pools))
    text = resources["ConfigMap darkroom-config"]["data"]["darkroom.yaml"]
    (application,) = yaml.safe_load(text)["applications"]
    assert [*application["args"]["pools"]] == ["zeta", "alpha", "mid"]


def test_a_family_of_ones_own_reaches_only_the_pools_that_host_it() -> None:
    pools = [{"name": "mine", "families": ["mine"]}, {"name": "flux", "families": ["flux"]}]
    change = with_class(pools=pools) | {"settings": {"families": {"mine": "package:Family"}}}
    apps = applications(render(change))
    assert apps["darkroom-mine"]["args"]["families"] == {"mine": "package:Family"}
    assert apps["darkroom-flux"]["args"]["families"] == {}
    assert "families" not in apps["darkroom"]["args"]


def test_a_limit_changes_only_the_file_that_the_ingress_watches() -> None:
    before, after = render({}), render({"settings": {"max_waiting": 5_000_000}})
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"ConfigMap darkroom-config"}
    assert "max_waiting: 5000000" in after["ConfigMap darkroom-config"]["data"]["darkroom.yaml"]


def test_nodes_without_a_gpu_can_have_pools() -> None:
    pool = {"name": "hosted", "families": ["openai"], "num_cpus": 1}
    groups = [{"name": "cpu", "min": 1, "max": 3}]
    plain = {"cpu": 4, "memory": "16Gi", "groups": groups, "pools": [pool]}
    resources = render({"nodeClasses": [plain]})
    (group,) = resources["RayService darkroom"]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert group["resources"] == {"CPU": "4"}
    assert not {"accelerator", "num_gpus"} & {
        *applications(resources)["darkroom-hosted"]["args"]["pools"]["hosted"]
    }


def test_the_image_is_of_the_package_s_version_unless_the_values_name_another() -> None:
    def image(change: Values) -> str:
        head = render({"image": change})["RayService darkroom"]["spec"]["rayClusterConfig"]
        (container,) = head["headGroupSpec"]["template"]["spec"]["containers"]
        return str(container["image"])

    name = "registry.example.org/darkroom"
    assert image({}) == f"{name}:{package_version()}"
    assert image({"tag": "0.2.0"}) == f"{name}:0.2.0"
    digest = f"sha256:{'a' * 64}"
    assert image({"tag": "0.2.0", "digest": digest}) == f"{name}@{digest}"
