"""Files as ``python -m benchmarks.gpu`` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deployments.replica.tuned import Machine

SLOW = "1.02 times as fast, at least 1.1 is asked"


def results(machine: Machine, **verdicts: str) -> dict[str, Any]:
    """Content with a verdict for each switch: on, off or undecided."""
    return {
        "machine": {
            "card": machine.device,
            "driver": machine.driver,
            "torch": machine.torch,
            "diffusers": machine.diffusers,
            "cuda": "13.0",
            "python": "3.12.3",
            "cpus": 16,
            "total_gb": 141.0,
        },
        "sections": {"compiled": {"status": "done", "took_s": 12.3, "figures": []}},
        "verdicts": {
            name: {"verdict": verdict, "figures": {"compiled, s": 3.2}, "reason": SLOW}
            for name, verdict in verdicts.items()
        },
    }


def write_results(folder: Path, machine: Machine, **verdicts: str) -> Path:
    path = folder / "results.json"
    path.write_text(json.dumps(results(machine, **verdicts)))
    return path
