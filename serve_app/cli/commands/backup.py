"""``darkroom backup``, ``darkroom restore`` and ``darkroom fsck``.

What they use imports the database driver, which other commands do not need, so it is imported when
they run.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serve_app.cli.connection import options
from serve_app.cli.connection.installation import Installation
from serve_app.cli.connection.numbers import FiniteNumber
from serve_app.cli.connection.progress_line import ProgressLine
from serve_app.cli.connection.text import counted, echo, size_text
from serve_app.settings import Config, Secrets

if TYPE_CHECKING:
    from serve_app.backup.folder import Manifest
    from serve_app.backup.fsck import Finding, Totals
    from serve_app.backup.restore import Restored

MOST_GRACE_HOURS = 10 * 365 * 24
_FOLDER = click.Path(path_type=Path, file_okay=False)
_WARNING = (
    "The backup contains prompts, the first API key and the keys that sign URLs and webhooks. "
    "Only its owner can read it: keep it so."
)

_other_storage = click.option(
    "--other-storage",
    is_flag=True,
    help="Continue although the database says that the files are in another storage.",
)


@click.command("backup")
@options.installation_settings
@_other_storage
@click.argument("folder", metavar="DIR", type=_FOLDER)
@options.as_json
def backup_command(config: Config, folder: Path, *, other_storage: bool, as_json: bool) -> None:
    """Back up the database and the files to the new folder DIR.

    Darkroom may run meanwhile. The backup contains secrets.
    """
    began = time.monotonic()
    with ProgressLine("Backing up the database", quiet=as_json) as waiting:
        manifest = asyncio.run(_back_up(config, folder, waiting, other_storage=other_storage))
    if as_json:
        echo(json.dumps(asdict(manifest)))
        return
    took_s = time.monotonic() - began
    echo(
        f"Backed up the database ({size_text(manifest.database_bytes)}) and "
        f"{counted(manifest.files, 'file')} ({size_text(manifest.files_bytes)}) to {folder} in "
        f"{took_s:.1f} s."
    )
    if manifest.deleted:
        echo(f"{manifest.deleted} files were deleted during the backup and are not in it.")
    _warn_of_losses(manifest)
    echo(_WARNING, err=True)


@click.command("restore")
@options.installation_settings
@_other_storage
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option(
    "--replace", is_flag=True, help="Delete what the database of the installation contains."
)
@options.as_json
def restore_command(
    config: Config, folder: Path, *, other_storage: bool, replace: bool, as_json: bool
) -> None:
    """Restore the backup in DIR to an empty installation.

    Stop Darkroom first. Requests that ran when the backup was made are queued again.
    """
    with ProgressLine("Checking the backup", quiet=as_json) as waiting:
        restored = asyncio.run(
            _restore(config, folder, waiting, replace=replace, other_storage=other_storage)
        )
    manifest = restored.manifest
    if as_json:
        values = {"requeued": restored.requeued, "absent": restored.absent}
        echo(json.dumps(asdict(manifest) | values))
        return
    echo(
        f"Restored the database of {manifest.created_at} and {counted(manifest.files, 'file')} "
        f"({size_text(manifest.files_bytes)}). {restored.requeued} requests that were running are "
        "queued again."
    )
    if restored.absent:
        echo(f"{restored.absent} files were not in the backup: their URLs answer 404.")


@click.command("fsck")
@options.installation_settings
@_other_storage
@click.option(
    "--mend",
    is_flag=True,
    help="Delete orphaned files, and remove missing ones from the database.",
)
@click.option(
    "--grace-hours",
    type=FiniteNumber(0, MOST_GRACE_HOURS),
    metavar="HOURS",
    default=6.0,
    show_default=True,
    help="Ignore files without a row that are younger: they may be uploads that go on.",
)
@click.option(
    "--checksums", is_flag=True, help="Read every file and compare its digest with the database."
)
@options.as_json
def fsck_command(
    config: Config,
    *,
    other_storage: bool,
    mend: bool,
    grace_hours: float,
    checksums: bool,
    as_json: bool,
) -> None:
    """Compare the files in storage with the database, and report each difference.

    The exit status is 1 if a problem is left. With --json, each line is one JSON object; the last
    one has the totals.
    """
    totals = asyncio.run(
        _check(
            config,
            other_storage=other_storage,
            mend=mend,
            grace_s=grace_hours * 3600,
            checksums=checksums,
            as_json=as_json,
        )
    )
    if as_json:
        echo(json.dumps(asdict(totals) | {"problems": totals.problems}))
    else:
        _print_totals(totals, mend=mend)
    sys.exit(1 if totals.problems else 0)


async def _back_up(
    config: Config, folder: Path, waiting: ProgressLine, *, other_storage: bool
) -> Manifest:
    from serve_app.backup.backup import back_up  # noqa: PLC0415
    from serve_app.backup.folder import BackupFolder  # noqa: PLC0415
    from serve_app.backup.installation import open_installation  # noqa: PLC0415

    async with open_installation(config, Secrets(), other_storage=other_storage) as target:
        return await back_up(target, BackupFolder(folder), _progress_callback(waiting))


async def _restore(
    config: Config, folder: Path, waiting: ProgressLine, *, replace: bool, other_storage: bool
) -> Restored:
    from serve_app.backup.folder import BackupFolder  # noqa: PLC0415
    from serve_app.backup.installation import open_installation  # noqa: PLC0415
    from serve_app.backup.restore import restore  # noqa: PLC0415

    BackupFolder(folder).read_manifest()  # before anything is created
    # A Darkroom that started now would serve half of a backup.
    here = Installation(config.server.data_dir)
    with here.lock("Stop it, and repeat the command.", "darkroom restore"):
        async with open_installation(
            config, Secrets(), create=True, other_storage=other_storage
        ) as target:
            return await restore(
                target, BackupFolder(folder), _progress_callback(waiting), replace=replace
            )


def _progress_callback(waiting: ProgressLine) -> Callable[[int, int], None]:
    """Function that shows how many files, and how many bytes of them, were copied."""
    return lambda files, size: waiting.show(f"Copied {counted(files, 'file')}, {size_text(size)}")


async def _check(
    config: Config,
    *,
    other_storage: bool,
    mend: bool,
    grace_s: float,
    checksums: bool,
    as_json: bool,
) -> Totals:
    from serve_app.backup.fsck import Check  # noqa: PLC0415
    from serve_app.backup.installation import open_installation  # noqa: PLC0415
    from serve_app.telemetry.clock import SystemClock  # noqa: PLC0415

    async with open_installation(config, Secrets(), other_storage=other_storage) as target:
        check = Check(target, SystemClock(), grace_s=grace_s, checksums=checksums)
        with ProgressLine(
            lambda: f"Compared {counted(check.totals.files, 'file')}", quiet=as_json
        ) as waiting:
            async for finding in check.findings(mend=mend):
                waiting.above(json.dumps(asdict(finding)) if as_json else _line(finding))
        return check.totals


def _line(finding: Finding) -> str:
    size = "unknown size" if finding.size is None else size_text(finding.size)
    return f"{finding.problem:<9} {finding.key}  {size}"


def _print_totals(totals: Totals, *, mend: bool) -> None:
    parts = [
        f"{count} {problem} ({size_text(totals.finding_bytes[problem])})"
        for problem, count in totals.findings.items()
    ]
    echo(f"{totals.files} files have their rows. {', '.join(parts) or 'No problems found'}.")
    if totals.read_bytes:
        echo(f"{size_text(totals.read_bytes)} were read, and their digests are right.")
    if mend and totals.mended:
        echo(f"{totals.mended} of these were mended.")
    elif totals.findings:
        echo(
            "`darkroom fsck --mend` deletes orphaned files and removes missing ones from the "
            "database. Restore missing and damaged files from a backup first, if you have one."
        )


def _warn_of_losses(manifest: Manifest) -> None:
    if manifest.missing or manifest.damaged:
        echo(
            f"{manifest.missing} files that the database names are missing, and "
            f"{manifest.damaged} have other bytes than it says. The backup is complete without "
            "them. Run `darkroom fsck` to list them.",
            err=True,
        )
