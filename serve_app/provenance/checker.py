"""Check of a file that anyone may have made, in a process of its own.

The reader of C2PA is native code that reads untrusted bytes. A process can be ended: so the check
is bounded in time and memory, and a crash ends that process only. It has none of the secrets in our
environment.

    python -m serve_app.provenance.checker FILE CERTIFICATES
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serve_app.domain.errors import InvalidInput, Misconfigured, Unsupported
from serve_app.domain.library_path import library_path
from serve_app.domain.media.marking import is_marked
from serve_app.provenance.reader import SignatureState, Verified, verify

MEMORY_BYTES = 2 * 2**30
TIMEOUT_S = 20.0
MAX_ANSWER_BYTES = 2**20
"""Most of a manifest's facts. Ours are below 64 KiB."""


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """What is known of a file."""

    signature: Verified
    marked: bool  # it says that it is AI-generated


def has_mark(file: Path) -> bool:
    """Return whether the file says that it is AI-generated."""
    with file.open("rb") as opened:
        try:
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return is_marked(content)
        except ValueError:  # an empty file
            return False


async def check_apart(
    file: Path, certificates: Path, timeout_s: float = TIMEOUT_S, memory_bytes: int = MEMORY_BYTES
) -> CheckedFile:
    """Check ``file`` in another process. ``certificates``: file with those that are trusted; it may
    be missing.

    ``InvalidInput``: the check took too long or too much memory. ``Unsupported``: such files cannot
    be signed, or the package for it is missing.
    """
    arguments = (str(file), str(certificates), str(memory_bytes), str(timeout_s))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "serve_app.provenance.checker",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"PYTHONPATH": os.pathsep.join(sys.path), **library_path()},
        limit=MAX_ANSWER_BYTES,
    )
    try:
        async with asyncio.timeout(timeout_s):
            answer, _ = await process.communicate()
    except TimeoutError:
        raise _not_checked(f"it takes longer than {timeout_s:g} seconds") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode or len(answer) > MAX_ANSWER_BYTES:
        raise _not_checked("the reader failed at its content")
    return _parse_answer(json.loads(answer))


def _not_checked(why: str) -> InvalidInput:
    return InvalidInput(
        f"The file cannot be checked: {why}. It may be damaged. `darkroom verify FILE` checks it "
        "on your machine, without these limits."
    )


def _parse_answer(answer: Mapping[str, Any]) -> CheckedFile:
    if "refused" in answer:
        raise Unsupported(answer["refused"])
    signature = answer["signature"]
    state, problems = SignatureState(signature["verdict"]), tuple(signature["problems"])
    verified = Verified(**signature | {"verdict": state, "problems": problems})
    return CheckedFile(verified, bool(answer["marked"]))


def main(words: list[str]) -> None:
    """The process that checks: its answer is JSON on standard output."""
    file, certificates, memory_bytes, timeout_s = words
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
    seconds = int(float(timeout_s)) + 1  # of CPU: if the process that began this one has died
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    try:
        trusted = Path(certificates).read_text()
    except FileNotFoundError:
        trusted = ""  # of an installation that signs nothing
    try:
        checked = {"signature": asdict(verify(Path(file), trusted)), "marked": has_mark(Path(file))}
    except Unsupported:
        checked = {"refused": "Files of this type cannot be signed, so there is nothing to check."}
    except Misconfigured as error:
        checked = {"refused": error.message}
    sys.stdout.write(json.dumps(checked))


if __name__ == "__main__":
    main(sys.argv[1:])
