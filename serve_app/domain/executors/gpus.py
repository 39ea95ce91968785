"""GPUs that endpoints of executors need, and what pools have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

OPTION = "gpu"
"""Option of an endpoint with the GPU that its code asks for, such as ``L4``, ``A100 or H100``,
``2 × H100`` or ``any``."""

ANY = "any"

_NUMBER = re.compile(r"(\d+) × (.+)")


@dataclass(frozen=True, slots=True)
class PoolGpus:
    """GPUs of each replica of a pool."""

    number: float  # 0.5: two replicas share one
    accelerator: str | None  # class, by Ray's name; None: that of the node
    families: frozenset[str]


def gpu_problem(
    gpu: str, family: str, pool: str, pools: Mapping[str, PoolGpus], option: str = "--pool"
) -> str:
    """Why the replicas of ``pool`` cannot run what asks for the GPU ``gpu``, as a sentence.
    Empty if they can, or if it is not known."""
    has = pools.get(pool)
    if has is None:
        return ""
    match = _NUMBER.fullmatch(gpu)
    number, classes = (int(match[1]), match[2]) if match else (1, gpu)
    need = "a GPU" if gpu == ANY else f"a GPU ({gpu})"
    if not has.number:
        return f"It needs {need}, and the replicas of the pool `{pool}` have none. " + _advice(
            family, pools, option
        )
    named = [name for name in classes.split(" or ") if name != ANY]
    if has.accelerator and named and not any(_is(name, has.accelerator) for name in named):
        return (
            f"It needs {need}, and the replicas of the pool `{pool}` have another one "
            f"({has.accelerator}). " + _advice(family, pools, option)
        )
    if number > 1 and has.number < number:
        return (
            f"It needs {need}, and each replica of the pool `{pool}` has {has.number:g}. Set "
            f"num_gpus: {number} of the pool."
        )
    return ""


def cpu_problem(
    program: str, family: str, pool: str, pools: Mapping[str, PoolGpus], option: str = "--pool"
) -> str:
    """Why ``program``, which also computes on a CPU, should not run in a pool that its entry does
    not name; empty if it may, as where no pool has a GPU."""
    has = pools.get(pool)
    if has is None or has.number or not any(gpus.number for gpus in pools.values()):
        return ""
    return (
        f"The replicas of the pool `{pool}` have no GPU, so {program} would compute on their CPUs. "
        + _advice(family, pools, option)
        + f" To let it compute on CPUs, name {pool}."
    )


def _advice(family: str, pools: Mapping[str, PoolGpus], option: str) -> str:
    able = [name for name, pool in pools.items() if pool.number and family in pool.families]
    if able:
        return f"Name a pool with GPUs by {option}: {', '.join(able)}."
    return (
        f"No pool with GPUs hosts the family `{family}`: add one in DARKROOM_POOLS, such as "
        f"gpu-apps: {{families: [{family}], num_gpus: 1}}, and name it by {option}."
    )


def _is(gpu_class: str, accelerator: str) -> bool:
    """Compare names of classes: Ray's say more, such as A100-40G."""
    ours, theirs = (re.sub(r"[^a-z0-9]", "", name.lower()) for name in (gpu_class, accelerator))
    return theirs == ours or (ours == "a100" and theirs.startswith(ours))
