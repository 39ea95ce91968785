"""Every query of the alert rules and of the dashboard names what ``/metrics`` has."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.parser import text_string_to_metric_families

from scripts.docs_hooks import github_slug
from serve_app.domain.lease import ReplicaStage
from serve_app.domain.request import State
from serve_app.queue.transactions.end_attempt import EndReason
from serve_app.telemetry.metrics import Metrics
from tests.docs.pages import DOCS, ROOT
from tests.ingress.house import build_house

ALERTS = DOCS / "how-to" / "darkroom-alerts.yaml"
RUNBOOK = DOCS / "how-to" / "runbook.md"
DASHBOARD = DOCS / "how-to" / "darkroom-dashboard.json"
PROMTOOL = shutil.which("promtool")
VARIABLES = {"$pool": ".*", "$__rate_interval": "5m"}
"""Grafana's variables in queries, with a value for each."""
VALUES: Mapping[tuple[str, str], frozenset[str]] = {
    ("darkroom_requests_total", "state"): frozenset(State),
    ("darkroom_attempts_total", "end"): frozenset(EndReason),
    ("darkroom_node_failures_total", "end"): frozenset(EndReason),
    ("darkroom_replicas", "stage"): frozenset(ReplicaStage),
    ("darkroom_weights_replicas", "place"): frozenset({"device", "host"}),
    ("darkroom_weights_loads_total", "source"): frozenset({"disk", "host"}),
}
"""Values of labels that are enumerations."""

NAME = r"darkroom_\w+|ray_\w+|up\b"
Labels = Mapping[str, frozenset[str]]


def real_metrics() -> dict[str, frozenset[str]]:
    """Labels of each series by its name, also of the parts of a histogram."""
    metrics: dict[str, frozenset[str]] = {}
    for metric in Metrics(CollectorRegistry()).list_metrics():
        labels = frozenset(metric._labelnames)
        if isinstance(metric, Histogram):
            metrics |= {metric._name + part: labels for part in ("_sum", "_count")}
            metrics[metric._name + "_bucket"] = labels | {"le"}
        else:
            metrics[metric._name + ("_total" if isinstance(metric, Counter) else "")] = labels
    return metrics


REAL = real_metrics() | {
    "up": frozenset({"job", "instance"}),
    "ray_serve_controller_num_control_loops": frozenset({"SessionName"}),
}
"""Also the metric that Prometheus itself has of each target, and one of Ray's."""


@cache
def alert_rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text())


def graphs() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """Title and query of each panel, with values in place of the variables."""
    for panel in graphs():
        for target in panel["targets"]:
            query = target["expr"]
            for variable, value in VARIABLES.items():
                query = query.replace(variable, value)
            yield panel["title"], query


def problems(query: str) -> list[str]:
    """Names in a query that ``/metrics`` does not have."""
    faults: list[str] = []
    known = set[str]()
    series = re.findall(rf"\b({NAME})(?:\{{([^}}]*)\}})?", query)
    for metric, matchers in series:
        if metric not in REAL:
            faults.append(metric)
            continue
        known |= REAL[metric]
        for label, values in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', matchers):
            if label not in REAL[metric]:
                faults.append(f"{metric}: {label}")
            possible = VALUES.get((metric, label))
            if possible is not None and not set(values.split("|")) <= possible:
                faults.append(f"{metric}: {label}={values}")
    faults += [label for label in grouping_labels(query) if label not in known]
    if "histogram_quantile" in query and "le" not in grouping_labels(query):
        faults.append("le is missing")
    return faults if series else ["no metric"]


def grouping_labels(query: str) -> set[str]:
    """Labels by which a query groups or joins."""
    lists = re.findall(r"\b(?:by|on) \(([^)]*)\)", query)
    return {label.strip() for clause in lists for label in clause.split(",")}


def test_each_way_to_name_what_does_not_exist_is_found() -> None:
    assert problems("max by (pool) (darkroom_queued)") == []
    assert problems("darkroom_queue") == ["darkroom_queue"]
    assert problems('darkroom_queued{endpoint="a"}') == ["darkroom_queued: endpoint"]
    assert problems("sum by (tenant) (darkroom_queued)") == ["tenant"]
    assert problems('darkroom_requests_total{state=~"failed|done"}') != []
    assert problems("histogram_quantile(0.9, sum by (pool) (darkroom_wait_seconds_bucket))") != []
    assert problems('up{pool="a"}') == ["up: pool"]
    assert problems("time() > 0") == ["no metric"]


@pytest.mark.parametrize("rule", alert_rules(), ids=lambda rule: rule["alert"])
def test_an_alert_rule_names_real_metrics_and_labels(rule: dict[str, Any]) -> None:
    assert problems(rule["expr"]) == []
    assert rule["annotations"]["summary"]
    named = [REAL[name] for name in re.findall(rf"\b(?:{NAME})", rule["expr"])]
    shown = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    assert shown <= frozenset().union(*named)


@pytest.mark.parametrize("rule", alert_rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_urgent_it_is_and_leads_to_a_section_that_names_it(
    rule: dict[str, Any],
) -> None:
    assert rule["labels"] in ({"severity": "critical"}, {"severity": "warning"})
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page == RUNBOOK.name
    sections = re.split(r"^## (.+)$", RUNBOOK.read_text(), flags=re.M)[1:]
    by_anchor = {
        github_slug(title, "-"): text
        for title, text in zip(sections[::2], sections[1::2], strict=True)
    }
    assert f"`{rule['alert']}`" in by_anchor[anchor]


def test_alert_rules_differ_in_their_names() -> None:
    names = [rule["alert"] for rule in alert_rules()]
    assert len(set(names)) == len(names) >= 10


@pytest.mark.parametrize("panel", graphs(), ids=lambda panel: panel["title"])
def test_a_panel_names_real_metrics_and_labels(panel: dict[str, Any]) -> None:
    assert panel["description"]
    for target in panel["targets"]:
        assert problems(target["expr"]) == []
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        names = re.findall(r"\bdarkroom_\w+", target["expr"])
        # An aggregation drops the labels that it does not name.
        aggregates = re.search(r"\b(?:sum|max|min|count)\b", target["expr"])
        left = grouping_labels(target["expr"]) - {"le"} if aggregates else REAL[names[0]]
        assert shown <= left
        # Several series of a panel need a label to tell them apart.
        assert shown == left or not aggregates


def test_an_alert_on_an_increase_sees_the_first_one_that_a_process_counts() -> None:
    """``increase`` needs two samples: of a series that appears with 1 it is 0."""
    metrics = Metrics(CollectorRegistry())
    metrics.queue.pools({"studio": (0, 4)})
    metrics.queue.replica_info([("studio", "r1", "10.0.0.7", "")])
    metrics.queue.job_kinds(["notice"])
    metrics.database.of("queue")
    served = {
        (sample.name, value): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        for value in ("", *sample.labels.values())
    }
    missed: list[str] = []
    for rule in alert_rules():
        for name, ends in re.findall(r"increase\((\w+)(?:\{\w+=~\"(.*?)\"\})?", rule["expr"]):
            new_ones = f"({name} unless {name} offset 10m)" in rule["expr"]
            if not new_ones and any(served.get((name, end)) != 0 for end in ends.split("|")):
                missed.append(rule["alert"])
    assert missed == []


def promtool_test(folder: Path, *tests: Mapping[str, Any], every: str = "1m") -> None:
    """Run unit tests of the alert rules, which are evaluated ``every`` so often."""
    file = folder / "tests.yaml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": every, "tests": tests})
    )
    command = [str(PROMTOOL), "test", "rules", str(file)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def expected_alert(name: str, labels: Mapping[str, str], **shown: str) -> dict[str, Any]:
    """An alert as Prometheus shows it. ``shown``: its annotations with variables."""
    (rule,) = [candidate for candidate in alert_rules() if candidate["alert"] == name]
    return {
        "exp_labels": {**rule["labels"], **labels},
        "exp_annotations": {**rule["annotations"], **shown},
    }


needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)"
)


@needs_promtool
def test_the_first_defect_of_a_route_is_an_alert_for_ten_minutes(tmp_path: Path) -> None:
    labels = {"route": "v1.models", "instance": "head:9108"}
    series = 'darkroom_unexpected_errors_total{route="v1.models",instance="head:9108"}'
    name = "UnexpectedErrors"
    summary = "A defect at v1.models; the log has its traceback."
    fires = [expected_alert(name, labels, summary=summary)]
    scraped = {
        "interval": "1m",
        "input_series": [{"series": series, "values": "_x20 1x20 2x20"}],
        "alert_rule_test": [
            {"eval_time": "19m", "alertname": name, "exp_alerts": []},
            {"eval_time": "20m", "alertname": name, "exp_alerts": fires},
            {"eval_time": "29m", "alertname": name, "exp_alerts": fires},
            {"eval_time": "35m", "alertname": name, "exp_alerts": []},
            {"eval_time": "43m", "alertname": name, "exp_alerts": fires},
        ],
    }
    promtool_test(tmp_path, scraped)


TARGET = 'up{job="darkroom",instance="head:9108"}'
INFO = 'darkroom_build_info{job="darkroom",instance="head:9108"}'
NODE = 'darkroom_node_failures_total{node="10.0.0.7",pool="studio",end="interrupted"}'
RAY = 'up{job="ray",instance="10.0.0.7:8085"}'
HAPROXY = 'up{job="haproxy",instance="10.0.0.7:9101"}'
LOOPS = 'ray_serve_controller_num_control_loops{SessionName="s",actor_id="%s"}'
TASK = 'darkroom_task_last_success_timestamp_seconds{task="end_dead_replicas"}'
AWAY = 'darkroom_database_unavailable_total{reason="away"}'
CALLS = "darkroom_storage_calls_total"
DONE = f'{CALLS}{{caller="replica",call="write",result="done"}}'
TIMEOUTS = f'{CALLS}{{caller="replica",call="write",result="timeout"}}'
SECONDS = 'darkroom_storage_seconds_total{call="write",result="done"}'
LAG = 'darkroom_database_standby_lag_bytes{standby="db2"}'
BACKUP = "darkroom_last_backup_timestamp_seconds"
FIRING: Mapping[str, tuple[str, Mapping[str, str], str, str, dict[str, Any] | None]] = {
    "an ingress that is away for a minute": (
        "TargetIsDown",
        {TARGET: "1x9 0x9"},
        "9m",
        "11m",
        expected_alert(
            "TargetIsDown",
            {"job": "darkroom", "instance": "head:9108"},
            summary="The ingress head:9108 does not answer Prometheus.",
        ),
    ),
    "a node that loses attempts": (
        "NodeLosesAttempts",
        {NODE: "0x9 2 4 6"},
        "9m",
        "12m",
        expected_alert(
            "NodeLosesAttempts",
            {"node": "10.0.0.7", "pool": "studio"},
            summary="The node 10.0.0.7 lost 6 attempts of pool studio in 15 minutes.",
        ),
    ),
    "the last ingress": (
        "DarkroomIsAbsent",
        {INFO: "1x9 stale"},
        "9m",
        "11m",
        expected_alert("DarkroomIsAbsent", {}),
    ),
    "a node of Ray": (
        "RayIsDown",
        {RAY: "1x9 0x9"},
        "9m",
        "11m",
        expected_alert(
            "RayIsDown",
            {"job": "ray", "instance": "10.0.0.7:8085"},
            summary="Ray has no metrics at 10.0.0.7:8085.",
        ),
    ),
    "all of Ray": (
        "RayIsDown",
        {RAY: "1x69 stale"},
        "69m",
        "71m",
        expected_alert("RayIsDown", {}, summary="Ray has no metrics at all."),
    ),
    "a HAProxy that stands still": (
        "HAProxyIsDown",
        {HAPROXY: "1x9 0x9"},
        "9m",
        "11m",
        expected_alert(
            "HAProxyIsDown",
            {"job": "haproxy", "instance": "10.0.0.7:9101"},
            summary="HAProxy at 10.0.0.7:9101 does not answer Prometheus.",
        ),
    ),
    "a controller that stands still": (
        "ServeControllerStands",
        {LOOPS % "a": "0+600x9 5400x9"},
        "9m",
        "12m",
        expected_alert("ServeControllerStands", {"SessionName": "s"}),
    ),
    "a controller that was replaced": (
        "ServeControllerStands",
        {LOOPS % "a": "0+600x9 5400x9", LOOPS % "b": "_x9 0+600x9"},
        "9m",
        "14m",
        None,
    ),
    "a control store that does not answer": (
        "RayControlStoreIsAway",
        {TASK: "0+60x9 540x9"},
        "9m",
        "12m",
        expected_alert(
            "RayControlStoreIsAway",
            {},
            summary="Ray's control store (GCS) has not answered an ingress for 3m 0s.",
        ),
    ),
    "a database that does not answer either": (
        "RayControlStoreIsAway",
        {TASK: "0+60x9 540x9", AWAY: "0x9 5+5x9"},
        "9m",
        "12m",
        None,
    ),
    "uploads of replicas that hang": (
        "StorageFails",
        {DONE: "0+10x9 90x9", TIMEOUTS: "0x9 5 10"},
        "9m",
        "11m",
        expected_alert(
            "StorageFails",
            {"caller": "replica", "call": "write"},
            summary="25% of the calls to write files fail, as each replica sees it.",
        ),
    ),
    "a single upload of a hundred that was tried again": (
        "StorageFails",
        {DONE: "0+10x19", TIMEOUTS: "0x9 1x9"},
        "9m",
        "12m",
        None,
    ),
    "uploads that take long": (
        "StorageIsSlow",
        {DONE: "0+2x30", SECONDS: "0+4x9 40+40x20"},
        "9m",
        "25m",
        expected_alert(
            "StorageIsSlow", {"call": "write"}, summary="A replica takes 20s to write a file."
        ),
    ),
    "a standby that falls behind": (
        "StandbyLags",
        {LAG: "0x9 209715200x20"},
        "9m",
        "20m",
        expected_alert(
            "StandbyLags",
            {"standby": "db2"},
            summary="The standby db2 lacks 200MiB: a failover to it would lose them.",
        ),
    ),
    "an ingress whose clock is an hour ahead": (
        "ClocksDiffer",
        {'darkroom_database_clock_ahead_seconds{instance="i"}': "0x9 -3600x20"},
        "9m",
        "12m",
        expected_alert(
            "ClocksDiffer",
            {"instance": "i"},
            summary="The clocks of an ingress and of the database differ by 1h 0m 0s.",
        ),
    ),
    "a background job that is given up": (
        "JobIsGivenUp",
        {'darkroom_jobs_total{kind="notice", result="given_up"}': "0x9 1x20"},
        "9m",
        "12m",
        expected_alert(
            "JobIsGivenUp",
            {"kind": "notice"},
            summary="A background job of the kind notice was given up.",
        ),
    ),
    "files that storage does not delete": (
        "JobsAreLate",
        {'darkroom_jobs_oldest_seconds{kind="file"}': "0x9 900+60x20"},
        "9m",
        "21m",
        expected_alert(
            "JobsAreLate",
            {"kind": "file"},
            summary="Background jobs of the kind file are 26m 0s late.",
        ),
    ),
    "a standby that is gone": (
        "StandbyIsGone",
        {"darkroom_database_standbys": "2x9 1x20"},
        "9m",
        "20m",
        expected_alert(
            "StandbyIsGone",
            {},
            summary="1 standbys replicate from the database, fewer than before.",
        ),
    ),
    "a backup of three days ago": (
        "BackupIsOld",
        {BACKUP: "1x80"},
        "47h",
        "72h",
        expected_alert("BackupIsOld", {}, summary="The last backup is 2d 23h 59m 59s old."),
    ),
}
"""Series by minute (by hour where the times are hours), the last time without the alert, a time
with it, and the alert; None: none."""


@pytest.mark.variants(5)
@needs_promtool
@pytest.mark.parametrize("case", FIRING)
def test_an_alert_fires_for(case: str, tmp_path: Path) -> None:
    name, series, before, at, fires = FIRING[case]
    every = "1h" if at.endswith("h") else "1m"
    scraped = {
        "interval": every,
        "input_series": [
            {"series": selector, "values": values} for selector, values in series.items()
        ],
        "alert_rule_test": [
            {"eval_time": before, "alertname": name, "exp_alerts": []},
            {"eval_time": at, "alertname": name, "exp_alerts": [fires] if fires else []},
        ],
    }
    promtool_test(tmp_path, scraped, every=every)


def periods() -> dict[str, float]:
    """Periods in seconds of the modules that report the rounds of periodic tasks, by name."""
    constants: dict[str, float] = {}
    for file in (ROOT / "serve_app").rglob("*.py"):
        text = file.read_text()
        if "PeriodicTask(" not in text:
            continue
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        # The third argument is the meter. A task without one reports nothing.
        if not any(ast.unparse(call.func) == "PeriodicTask" and call.args[2:] for call in calls):
            continue
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for constant, value in vars(importlib.import_module(name)).items():
            if re.search(r"(EVERY|INTERVAL)_S$", constant):
                constants[f"{name}.{constant}"] = value
    return constants


def test_a_task_that_reports_its_rounds_may_miss_two_before_the_alert_takes_it_for_dead() -> None:
    (rule,) = [
        candidate for candidate in alert_rules() if candidate["alert"] == "PeriodicTaskStands"
    ]
    limit_s = float(rule["expr"].rpartition("> ")[2])
    known = periods()
    assert len(known) > 10
    assert {name: period_s for name, period_s in known.items() if period_s * 3 > limit_s} == {}


def test_the_dashboard_can_be_imported_whatever_the_data_source_is_called() -> None:
    board = dashboard()
    variables = {variable["name"] for variable in board["templating"]["list"]}
    assert variables == {"datasource", "pool"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(board)))
    assert used == variables | {"__rate_interval"}
    sources = [part["datasource"] for panel in graphs() for part in (panel, *panel["targets"])]
    assert all(source["uid"] == "${datasource}" for source in sources)


def test_panels_have_ids_of_their_own_and_lie_beside_each_other() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (place["x"] + column, place["y"] + row)
        for place in (panel["gridPos"] for panel in panels)
        for column in range(place["w"])
        for row in range(place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(column for column, _ in cells) < 24


async def test_each_metric_of_a_query_is_in_the_metrics_that_an_ingress_serves() -> None:
    async with build_house(replica=False) as house, house.client() as client:
        answer = await client.get("/metrics")
    assert answer.status_code == httpx.codes.OK
    served: set[str] = set()
    for family in text_string_to_metric_families(answer.text):
        parts = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
        served |= {family.name + part for part in parts.get(family.type, ("",))}
    texts = ALERTS.read_text(), DASHBOARD.read_text()
    named = {name for text in texts for name in re.findall(r"\bdarkroom_\w+", text)}
    assert len(named) > 30
    assert named <= served


@needs_promtool
def test_prometheus_parses_every_query(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel_{number}", "expr": query, "labels": {"title": title}}
        for number, (title, query) in enumerate(queries())
    ]
    of_panels = tmp_path / "panels.yaml"
    of_panels.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    command = [str(PROMTOOL), "check", "rules", str(ALERTS), str(of_panels)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout
