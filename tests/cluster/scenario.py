"""Scenarios with a Ray of their own, each in a process of its own that prints what it saw."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.cluster.darkroom import ROOT

# Ray's workers have the lowest CPU priority, so on a busy machine they hardly run.
QUICK = {"RAY_worker_niceness": "0"}


def seen_by(module: str, timeout_s: float, **environment: str) -> Any:
    """The JSON object that ``module`` prints when it is run."""
    done = subprocess.run(
        [sys.executable, "-m", module],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        cwd=ROOT,
        env={**os.environ, **QUICK, **environment},  # noqa: TID251 a child's environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
    # Ray prints lines of its own.
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("{"))
    return json.loads(line)
