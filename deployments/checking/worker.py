"""Process that fetches and checks weights that a tenant registers. The ingress starts one for each
job: what strangers send is read in a process of its own.

It reads the job as a line of JSON from standard input, and writes one JSON object a line:
``state`` with ``done`` and ``total`` while it works, and at the end ``result``, or ``refused`` with
the reason. When it has the files it waits for another line before it checks them, which takes much
memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployments.checking.base_model import BaseFiles
from deployments.checking.fetching import (
    SHA256,
    FetchedFile,
    FetchLimits,
    Room,
    download,
    from_hub,
    from_url,
)
from deployments.checking.fitting import (
    FINETUNE,
    LORA,
    check_values,
    checked_lora,
    kind_of,
    place_files,
    read_headers,
)
from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import DarkroomError, WeightsUnavailable
from serve_app.domain.lora import LoraMetadata, model_facts
from weights.folder import ListedFile, default_directory, digest_of
from weights.hub import Hub

REPORT_EVERY_S = 1.0
MEMORY_BYTES = 12 * 2**30
"""Memory of the process besides mapped files: a tensor of 4 GB, what its check takes, and torch."""

ADDRESS_BYTES = 64 * 2**30
"""Address space besides the files of the job, which are mapped. torch with CUDA reserves 20 GB."""

MAX_REASON = 2000
"""Characters of a reason, which may name tensors. A line of the answer has room for a megabyte."""

TOO_MUCH = (
    f"The check of the weights needs more than the {MEMORY_BYTES // 2**30} GB of memory that it "
    "may take: the file is not what its header says, or it has a tensor of more than 4 GB."
)


@dataclass(frozen=True, slots=True)
class CheckJob:
    """A job as it is sent to the process."""

    folder: Path  # of this job, empty or with uploaded files
    store: Path  # of this node's weights
    base: Weights
    source: Mapping[str, Any]
    limits: FetchLimits
    max_lora_bytes: int
    kind: str = ""  # empty: by the file
    token: str | None = ""  # for the hub; empty: none; None: that of this machine
    files: Mapping[str, str] = field(default_factory=dict)  # path → uploaded file in ``folder``

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> CheckJob:
        read: dict[str, Any] = {
            "folder": Path(fields["folder"]),
            "store": Path(fields["store"] or default_directory()),
            "base": Weights(**fields["base"]),
            "limits": FetchLimits(**fields["limits"]),
        }
        return cls(**{**fields, **read})


class Reports:
    """Lines on standard output."""

    def __init__(self, await_turn: Callable[[], object] = lambda: None) -> None:
        """``await_turn`` returns when the check may begin."""
        self._await_turn = await_turn
        self._last = 0.0

    def write(self, **line: Any) -> None:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    def report_bytes(self, done: int, total: int) -> None:
        """Report the bytes, at most once a second."""
        now = time.monotonic()
        if now - self._last >= REPORT_EVERY_S:
            self._last = now
            self.write(state="fetching", done=done, total=total)

    def fetched_all(self, done: int) -> None:
        """Report that the files are here, and wait until they may be checked."""
        self.write(state="checking", done=done, total=0)
        self._await_turn()


def run(job: CheckJob, reports: Reports) -> Mapping[str, Any]:
    """Fetch and check. ``WeightsUnavailable``, with the reason, if the weights are refused."""
    base = BaseFiles(job.base, job.store, _hub(job, None))
    files = _files(job, base, reports)
    reports.fetched_all(sum(file.size for file in files))
    headers = read_headers(files)
    whole = "/" in files[0].path and files[0].path.partition("/")[0] in base.libraries()
    kind = job.kind or (FINETUNE if whole or len(files) > 1 else kind_of(headers[files[0].digest]))
    by_path = (
        checked_lora(base, files, job.max_lora_bytes)
        if kind == LORA
        else place_files(base, files, headers)
    )
    for fetched_file in by_path.values():
        check_values(fetched_file.file)
    metadata = headers[next(iter(by_path.values())).digest].metadata
    return {
        "kind": kind,
        "files": [
            {"path": path, "file": file.file.name, "size": file.size, "digest": file.digest}
            for path, file in by_path.items()
        ],
        "facts": {
            "metadata": model_facts(metadata),
            "trigger_words": list(LoraMetadata.of(metadata).trigger_words),
        },
    }


def _files(job: CheckJob, base: BaseFiles, reports: Reports) -> Sequence[FetchedFile]:
    room = Room(job.folder, job.limits)
    reports.write(state="fetching", done=0, total=0)
    if job.files:
        return [_as_fetched_file(job.folder / name, path) for path, name in job.files.items()]
    if "url" in job.source:
        into = job.folder / "0"
        url = str(job.source["url"])
        return [asyncio.run(from_url(url, into, job.limits, room, reports.report_bytes))]
    hub = _hub(job, job.token)
    if hub is None:
        raise WeightsUnavailable(
            "This installation opens no connection to the hub (DARKROOM_OFFLINE). Upload the file."
        )
    listing, files = from_hub(hub, job.source)
    total = sum(file.size for file in files)
    if total > job.limits.max_bytes:
        room.take(total)
    same = _components_of_base(base, files)
    needed = [file for file in files if file.path.partition("/")[0] not in same] or list(files)
    return [
        download(hub, listing, file, job.folder / str(number), room, reports.report_bytes)
        for number, file in enumerate(needed)
    ]


def _components_of_base(base: BaseFiles, files: Sequence[ListedFile]) -> frozenset[str]:
    """Components whose files all equal those of the base. They need not be fetched."""
    digests: dict[str, frozenset[str]] = {}
    for file in files:
        component = file.path.partition("/")[0]
        digests[component] = digests.get(component, frozenset()) | {file.digest}
    known = base.libraries()
    return frozenset(
        name for name, own in digests.items() if name in known and base.digests(name) == own
    )


def _as_fetched_file(file: Path, path: str) -> FetchedFile:
    return FetchedFile(path, file, file.stat().st_size, digest_of(file, SHA256))


def _hub(job: CheckJob, token: str | None) -> Hub | None:
    # With an empty token none is sent, also if this machine has one.
    return None if job.limits.offline else Hub(token=token)


def for_tenant(message: str) -> str:
    """``message`` for a tenant, who sets its token otherwise than the operator."""
    start, token, _ = message.partition("set HF_TOKEN")
    if token:
        return f"{start}set your secret HF_TOKEN (`darkroom secrets set HF_TOKEN`), and add it."
    return message.replace("HF_TOKEN", "the token that was used")


def limit_memory(mapped_bytes: int) -> None:
    """Limit the memory of this process, and its address space, of which ``mapped_bytes`` are for
    files. Does nothing where the system has no such limits."""
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_DATA: MEMORY_BYTES,
        resource.RLIMIT_AS: ADDRESS_BYTES + mapped_bytes,
    }
    for kind, most in limits.items():
        with suppress(ValueError, OSError):  # macOS knows RLIMIT_AS, and refuses it
            resource.setrlimit(kind, (most, most))


def main() -> None:
    """Run the job of standard input."""
    os.nice(5)  # requests of users come first
    reports = Reports(sys.stdin.readline)
    job = CheckJob.of(json.loads(sys.stdin.readline()))
    limit_memory(2 * max(job.limits.max_bytes, 0))
    try:
        reports.write(result=run(job, reports))
    except DarkroomError as error:
        reports.write(refused=for_tenant(error.message)[:MAX_REASON])
    except MemoryError:
        reports.write(refused=TOO_MUCH)
    except RuntimeError as error:
        if "allocate memory" not in str(error):  # as torch says it
            raise
        reports.write(refused=TOO_MUCH)


if __name__ == "__main__":
    main()
