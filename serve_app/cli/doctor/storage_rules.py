"""``darkroom storage``: rules of the buckets that artifacts go to.

What it uses imports boto3, which other commands do not need, so it is imported when it runs.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from serve_app.cli.connection import options
from serve_app.cli.connection.command_group import CommandGroup
from serve_app.cli.connection.text import echo
from serve_app.domain.errors import Misconfigured
from serve_app.settings import Config, Secrets

if TYPE_CHECKING:
    from serve_app.storage.s3.storage import S3Storage


@click.group("storage", cls=CommandGroup)
def storage_group() -> None:
    """Set up the buckets in which generated files are stored."""


@storage_group.command("lifecycle")
@options.installation_settings
@click.option("--install", is_flag=True, help="Put the rules into the buckets.")
@click.option(
    "--expire-days",
    type=click.IntRange(min=1),
    metavar="DAYS",
    help="Also delete files of requests after this many days, more than the retention of any "
    "tenant.",
)
def lifecycle_command(config: Config, *, install: bool, expire_days: int | None) -> None:
    """Print the lifecycle rules of each bucket as JSON, or install them.

    They are a backstop: they abort uploads that were left in parts and delete leftovers of checks.
    Rules that are not Darkroom's stay. Installing needs s3:GetLifecycleConfiguration and
    s3:PutLifecycleConfiguration.
    """
    secrets = Secrets()
    if expire_days is not None:
        check_days(config, expire_days)
    buckets = _buckets(config, secrets)
    if not buckets:
        raise Misconfigured(
            "Artifacts go to the data directory, which has no lifecycle rules: Darkroom itself "
            "deletes them. Set DARKROOM_S3_BUCKET to use a bucket."
        )
    asyncio.run(_each(buckets, expire_days, install=install))


def check_days(config: Config, days: int) -> None:
    """Raise ``Misconfigured`` if files would be deleted that Darkroom still keeps."""
    queue = config.queue
    kept = [
        queue.retention_days,
        *(limits.retention_days for limits in queue.tenant_limits.values()),
    ]
    longest = max((retention for retention in kept if retention is not None), default=0.0)
    if queue.retention_days is None:
        raise Misconfigured(
            "--expire-days would delete files that are kept for ever, because "
            "DARKROOM_RETENTION_DAYS is not set. Set it, or leave out --expire-days."
        )
    if days <= longest:
        raise Misconfigured(
            f"--expire-days is {days}, but files are kept for {longest:g} days. Name more days, so "
            "that the bucket deletes only what Darkroom has left."
        )


def _buckets(config: Config, secrets: Secrets) -> Mapping[str, S3Storage]:
    from serve_app.storage.locations import read_locations  # noqa: PLC0415
    from serve_app.storage.selection import (  # noqa: PLC0415
        s3_location,
        s3_storage,
        tenant_storage,
    )

    own = s3_location(config, secrets)
    buckets = {} if own is None else {"": s3_storage(config, secrets, own)}
    for id_, location in read_locations(config, own).items():
        buckets[id_] = tenant_storage(config, secrets, location)
    return buckets


async def _each(
    buckets: Mapping[str, S3Storage], expire_days: int | None, *, install: bool
) -> None:
    from serve_app.storage.s3.lifecycle import install_rules, wanted_rules  # noqa: PLC0415

    for id_, storage in buckets.items():
        rules = wanted_rules(storage.location, expire_days)
        if not install:
            echo(json.dumps({"bucket": storage.location.bucket, "Rules": rules}))
            continue
        await storage.start()
        try:
            changed = await install_rules(storage, rules)
        finally:
            await storage.aclose()
        where = storage.location.bucket + (f" ({id_})" if id_ else "")
        echo(f"{where}: {', '.join(changed) or 'all rules were there'}")
