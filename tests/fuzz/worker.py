"""Child process of the fuzzer: reads inputs under a memory limit, one after the other.

A line on standard input is ``TARGET PATH``: the file with the samples, or with one input; the reply
on standard output is a JSON line. A crash of the process is seen by its parent.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

ROOM_BYTES = 2 * 2**30
"""Memory that reading one input may take, beside what the process has when it starts. An image of
the largest allowed size needs 200 MB as RGB, and as much again while it is converted."""


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply
    from tests.fuzz.mutation import mutate  # noqa: PLC0415  after the copy of standard output
    from tests.fuzz.targets import TARGETS  # noqa: PLC0415

    samples: dict[str, Any] = {}
    limited = False
    for line in sys.stdin:
        order = json.loads(line)
        target = TARGETS[order["target"]]
        if "file" in order:
            content = Path(order["file"]).read_bytes()
        else:
            if order["target"] not in samples:
                samples[order["target"]] = target.samples()
            content = mutate(order["seed"], samples[order["target"]])
        if order.get("save"):
            Path(order["save"]).write_bytes(content)
        if not limited:
            _limit_memory()
            limited = True
        print(json.dumps(_read(target, content)), file=replies, flush=True)


def _read(target: Any, content: bytes) -> dict[str, str]:
    try:
        target.read(content)
    except target.refusals as error:
        return {"result": "refused", "what": type(error).__name__}
    except BaseException as error:
        shown = "".join(traceback.format_exception(error, limit=-12))
        return {"result": "crash", "what": type(error).__name__, "shown": shown[-6000:]}
    return {"result": "read", "what": ""}


def _limit_memory() -> None:
    used = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        if line.startswith("VmData:")
    )
    resource.setrlimit(resource.RLIMIT_DATA, (used + ROOM_BYTES, used + ROOM_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
