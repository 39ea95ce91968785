"""``darkroom doctor storage``: tries what Darkroom does with the storage that is configured."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from serve_app.cli.installation import Installation
from serve_app.domain.errors import DarkroomError
from serve_app.settings import Config, Secrets
from serve_app.storage import examination
from serve_app.storage.choice import s3_location, s3_storage
from serve_app.storage.directory import DirectoryStorage
from serve_app.storage.examination import Finding, Trial
from serve_app.telemetry.clock import SystemClock


def findings(installation: Installation) -> Iterator[Finding]:
    """Try one thing after the other; each as soon as it is known."""
    found = _findings(installation)

    async def following() -> Finding | None:
        return await anext(found, None)

    with asyncio.Runner() as runner:
        while (finding := runner.run(following())) is not None:
            yield finding


def check(installation: Installation) -> str:
    """One look for the whole examination: where the artifacts lie, or why they cannot."""
    return asyncio.run(_check(installation))


async def _findings(installation: Installation) -> AsyncIterator[Finding]:
    config, secrets = Config(data_dir=installation.data_dir), Secrets()
    try:
        location = s3_location(config, secrets)
        if location is None:
            trial = Trial(_directory(config))
            async for finding in examination.findings([*trial.steps(), *trial.last_steps()]):
                yield finding
            return
        storage = s3_storage(config, secrets, location)
        await storage.start()
    except DarkroomError as error:
        yield Finding("settings", error.message, problem=True)
        return
    from serve_app.storage.s3.examination import S3Trial  # noqa: PLC0415

    try:
        s3_trial = S3Trial(storage)
        async for finding in examination.findings([*s3_trial.steps(), *s3_trial.last_steps()]):
            yield finding
    finally:
        await storage.aclose()


async def _check(installation: Installation) -> str:
    config, secrets = Config(data_dir=installation.data_dir), Secrets()
    location = s3_location(config, secrets)
    if location is None:
        # That it can be written, the data directory's own check says. More would leave directories
        # of whoever asks, in which the server then cannot write.
        return str(_directory(config).root)
    s3 = s3_storage(config, secrets, location)
    await s3.start()
    try:
        await s3.check()
    finally:
        await s3.aclose()
    return location.there


def _directory(config: Config) -> DirectoryStorage:
    # No ticket is made, so nothing is signed.
    return DirectoryStorage(config.data_dir / "artifacts", b"", "", SystemClock())
