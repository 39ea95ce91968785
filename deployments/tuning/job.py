"""Messages between ``darkroom tune`` and the processes in which it measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.replica.tuned import Machine, Measurement
from serve_app.domain.endpoint import Endpoint, Recipe, StoreConfig
from serve_app.domain.serialization import pickle_by_name


@pickle_by_name
@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """Answer of a process that was asked about the machine's device."""

    machine: Machine
    kind: str  # such as cpu
    discrete: bool
    total_bytes: int  # memory of the device; 0 if it is not counted
    free_bytes: int


@pickle_by_name
@dataclass(frozen=True, slots=True)
class DescribeDevice:
    """Job: describe the device. Answered by ``DeviceFacts``."""

    device: str  # empty: the GPU if torch can use one, else the CPU
    needs_gpu: bool


@pickle_by_name
@dataclass(frozen=True, slots=True)
class Workload:
    """Generations of one endpoint. Endpoints that share loaded weights differ in their adapters."""

    endpoint: Endpoint
    inputs: tuple[Mapping[str, Any], ...]  # validated, one for each prompt, with their seeds


@pickle_by_name
@dataclass(frozen=True, slots=True)
class MeasureVariant:
    """Job: load one variant, generate, and compare the results. Answered by ``Measurement``."""

    device: str
    families: Mapping[str, str]  # import paths by name
    store: StoreConfig
    workloads: tuple[Workload, ...]  # over the same weights, with the variant's options
    variant: str
    recipe: Recipe
    options: Mapping[str, Any]  # of the variant, for the answer
    step_cache: Mapping[str, Any]  # of endpoints that declare one; empty: every step is computed
    reference: Path  # file with the reference's results
    is_reference: bool  # write ``reference`` instead of comparing with it


Job = DescribeDevice | MeasureVariant
Answer = DeviceFacts | Measurement
