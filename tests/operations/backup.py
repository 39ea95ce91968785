"""A backup under load, and its restoration after the database and the bucket are lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.operations.comparison import Outcome, compare, stored_ids, under_load
from tests.operations.site import Plan, Site, site

BEFORE_S = AFTER_S = 15.0


def backup(folder: Path) -> Iterator[Outcome]:
    copy = folder / "backup"
    with site(folder, Plan()) as running:
        configured = ("--config", str(running.configuration))
        accepted: set[str] = set()

        def back_up(running: Site) -> Iterator[str]:
            time.sleep(BEFORE_S)
            accepted.update(stored_ids(running))
            began = time.monotonic()
            summary = running.darkroom("backup", str(copy), *configured)
            summary = summary.splitlines()[0].replace(f" to {copy}", "")
            yield f"{summary} ({time.monotonic() - began:.0f} s with its start)"
            time.sleep(AFTER_S)

        yield under_load(running, "backup", back_up)
        after = len(stored_ids(running)) - len(accepted)
        deployed = running.deployed
        running.place.nodes.stop()
        _empty_bucket(running)
        report = running.darkroom("restore", str(copy), "--replace", *configured)
        restored = stored_ids(running)
        running.deployed = []
        running.deploy(deployed)
        outcome = compare(running, "restore to an empty bucket", restored)
        missing = sorted(accepted - restored)
        yield replace(
            outcome,
            checked=(
                report.splitlines()[0],
                f"{len(accepted)} before the backup, {after} more later, {len(restored)} restored",
                f"fsck: {_fsck(running, *configured)}",
            ),
            problems=(
                *(
                    f"{request_id} was there before the backup and is not now."
                    for request_id in missing
                ),
                *outcome.problems,
            ),
        )


def _empty_bucket(running: Site) -> None:
    client, bucket = running.place.s3.client(), running.place.bucket
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", ()):
            client.delete_object(Bucket=bucket, Key=item["Key"])
    client.close()
    assert not running.place.objects()


def _fsck(running: Site, *configured: str) -> str:
    return running.darkroom("fsck", "--checksums", "--grace-hours", "0", *configured).splitlines()[
        0
    ]
