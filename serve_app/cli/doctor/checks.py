"""Checks of ``darkroom doctor``: the artifact storage, real weights, and the gateway's ports."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from serve_app.cli.commands.downloads import chosen_entries, downloads, pull_command, total_text
from serve_app.cli.connection.installation import Installation
from serve_app.cli.serve import ports
from serve_app.diagnosis.checks import Check, artifact_directory
from serve_app.domain.errors import DarkroomError, Misconfigured
from serve_app.gateway.certificate_authority import CertificateAuthority, expiry
from serve_app.preflight import this_machine
from serve_app.settings import Config, Secrets
from serve_app.storage import self_test
from serve_app.storage.locations import read_locations
from serve_app.storage.selection import s3_location, s3_storage, tenant_storage
from serve_app.storage.self_test import SelfTest, StepResult
from serve_app.telemetry.clock import SystemClock
from weights import eviction
from weights.hub import Hub
from weights.store import Store

if TYPE_CHECKING:
    from serve_app.storage.s3.storage import S3Storage

HUB_ANSWERS_S = 15.0

# Storage: the self-test of ``darkroom doctor storage``.


def storage_findings(config: Config) -> Iterator[StepResult]:
    """Run the steps of the self-test and yield each finding as soon as it is known."""
    findings = _storage_findings(config)

    async def following() -> StepResult | None:
        return await anext(findings, None)

    with asyncio.Runner() as runner:
        while (finding := runner.run(following())) is not None:
            yield finding


async def _storage_findings(config: Config) -> AsyncIterator[StepResult]:
    secrets = Secrets()
    try:
        location = s3_location(config, secrets)
        locations = read_locations(config, location)
    except DarkroomError as error:
        yield StepResult("settings", error.message, problem=True)
        return
    if location is None:
        trial = SelfTest(artifact_directory(config))
        async for finding in self_test.findings([*trial.steps(), *trial.last_steps()]):
            yield finding
    else:
        async for finding in _s3_findings(s3_storage(config, secrets, location)):
            yield finding
    for id_, bucket in locations.items():
        async for finding in _s3_findings(tenant_storage(config, secrets, bucket)):
            yield replace(finding, name=f"{id_}: {finding.name}")


async def _s3_findings(storage: S3Storage) -> AsyncIterator[StepResult]:
    from serve_app.storage.s3.self_test import S3SelfTest  # noqa: PLC0415

    try:
        await storage.start()
    except DarkroomError as error:
        yield StepResult("settings", error.message, problem=True)
        return
    try:
        s3_trial = S3SelfTest(storage)
        async for finding in self_test.findings([*s3_trial.steps(), *s3_trial.last_steps()]):
            yield finding
    finally:
        await storage.aclose()


# Real weights.


def weights_checks(config: Config) -> list[Check]:
    """Named checks of the store of weights and the hub."""
    store = Store(config.weights.store())
    if config.models.serves_demo:  # these ship with Darkroom, so nothing waits for the hub
        return [("weights", lambda: _weights_directory(store)), ("hub", lambda: _hub_if_any(store))]
    return [
        ("weights", lambda: _weights_directory(store)),
        ("hub", lambda: _hub(store)),
        ("downloads", lambda: _downloads(config, store)),
    ]


def real_models(config: Config) -> str:
    """How many of the real models fit this machine."""
    from serve_app.catalog.preflight import summary_of  # noqa: PLC0415 it imports all schemas

    return summary_of(chosen_entries(config, ()), this_machine(config))


def _weights_directory(store: Store) -> str:
    there = store.directory
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK | os.X_OK):
        raise Misconfigured(
            f"The weights directory {store.directory} cannot be written, so no weights can be "
            "downloaded. Change its owner, or set DARKROOM_WEIGHTS_DIR to another directory."
        )
    return f"{store.directory}, {eviction.gigabytes(eviction.free_bytes(there))} free"


def _hub(store: Store) -> str:
    if store.offline:
        return "not checked, because DARKROOM_OFFLINE or HF_HUB_OFFLINE is set"
    hub = Hub(tries=1)
    account = account_of(hub)
    if account is None:
        return f"{hub.endpoint} answers; HF_TOKEN is not set, but gated repositories need it"
    return f"{hub.endpoint} answers, and HF_TOKEN belongs to {account}"


def _hub_if_any(store: Store) -> str:
    try:
        return _hub(store)
    except DarkroomError as error:
        return f"not needed by the demo models; real ones cannot be downloaded now: {error.message}"


def account_of(hub: Hub, limit_s: float = HUB_ANSWERS_S) -> str | None:
    """Account of the hub, see ``Hub.account``, or ``Misconfigured`` after ``limit_s`` seconds.

    The library's own timeout leaves out the look-up of the name, which may take a minute where a
    name server does not answer.
    """
    answers: SimpleQueue[str | Exception | None] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(hub.account())
        except Exception as error:  # raised in the caller's thread
            answers.put(error)

    threading.Thread(target=ask, daemon=True, name="hub").start()
    try:
        answer = answers.get(timeout=limit_s)
    except Empty:
        raise Misconfigured(
            f"The hub {hub.endpoint} does not answer within {limit_s:g} s. Check the name server, "
            "the network, HTTPS_PROXY and HF_ENDPOINT, or set DARKROOM_OFFLINE=1."
        ) from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _downloads(config: Config, store: Store) -> str:
    repositories = downloads(config, store, chosen_entries(config, ()))
    if troubles := [
        repository.available.problem for repository in repositories if repository.available.problem
    ]:
        raise Misconfigured(" ".join(troubles))
    missing = sum(repository.missing_bytes or 0 for repository in repositories)
    eviction.check_room(store.directory, "All of it", missing)
    if not missing:
        return "all weights are downloaded"
    return (
        f"{total_text(repositories)} are not downloaded yet; "
        f"`{pull_command(config.server.data_dir)}` downloads them"
    )


# TLS port, its certificate, and the proxy port.

TIMEOUT_S = 5.0
# The installation renews its own certificates long before this limit.
EXPIRY_WARNING = timedelta(days=14)


def gateway_checks(installation: Installation, config: Config) -> list[Check]:
    """Named checks for a running Darkroom."""
    files = CertificateAuthority(installation.tls_dir, (), SystemClock())
    tls = installation.tls_url()
    checks = [("proxy port", lambda: _proxy(installation))]
    if tls is None:
        return [("tls port", lambda: "none"), *checks]
    shown = config.gateway.tls_certificate or files.server
    return [
        ("tls port", lambda: _handshake(tls, files.bundle)),
        ("certificate", lambda: certificate(shown)),
        *checks,
    ]


def gateway_ports(config: Config) -> str:
    """Ports that a start would open now.

    Raises ``Misconfigured`` if a port that a setting names is in use.
    """
    plan = ports.plan(config, config.server.host, config.server.port)
    tls = "none" if plan.tls is None else plan.tls[1]
    proxy = "none" if plan.proxy is None else plan.proxy[1]
    return f"TLS {tls}, proxy {proxy}"


def certificate(path: Path) -> str:
    """Path of the certificate and its expiry date.

    Raises ``Misconfigured`` if it cannot be read, has expired or expires within 14 days.
    """
    try:
        end = expiry(path)
    except (OSError, ValueError) as error:
        raise Misconfigured(
            f"The certificate {path} cannot be read: {error}. Check the file and its permissions."
        ) from None
    now = SystemClock().now()
    if end <= now + EXPIRY_WARNING:
        word = "expired" if end <= now else "expires"
        raise Misconfigured(
            f"The certificate {path} {word} on {end:%Y-%m-%d}. If it is your own, renew it. "
            "Otherwise delete it and restart Darkroom, which creates a new one."
        )
    return f"{path}, valid until {end:%Y-%m-%d}"


def _handshake(url: str, bundle: Path) -> str:
    """Handshake under one of fal's host names, as by a client behind the proxy port."""
    place = urlsplit(url)
    name = "fal.run"
    try:
        context = ssl.create_default_context(cafile=bundle)
        address = (str(place.hostname), place.port or 443)
        with (
            socket.create_connection(address, TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=name) as secure,
        ):
            return f"{url} uses {secure.version()} and is trusted as {name}"
    except ssl.SSLError as error:
        raise Misconfigured(
            f"The certificate bundle {bundle} does not trust {url}: {error.reason}. Clients that "
            "use the bundle cannot connect. Restart Darkroom, which renews its own certificates."
        ) from None
    except OSError as error:
        raise Misconfigured(f"{url} does not answer: {error}. Restart Darkroom.") from None


def _proxy(installation: Installation) -> str:
    url = installation.proxy_url()
    if url is None:
        return "none"
    place = urlsplit(url)
    try:
        socket.create_connection((str(place.hostname), place.port or 80), TIMEOUT_S).close()
    except OSError as error:
        raise Misconfigured(f"{url} does not answer: {error}. Restart Darkroom.") from None
    return url
