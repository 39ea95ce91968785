"""Process that measures one variant: ``python -m deployments.tuning.worker``.

Each variant has a process of its own. Only the end of a process frees all memory of a device, its
compiled code and the allocator's fragments, so that the next variant starts as a replica does.

The job comes pickled on the standard input, which the parent keeps open: its end means that the
parent is gone, and then the process ends too. The answer goes pickled into the file that is named
on the command line.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployments.engine.accelerator.allocator import use_expandable_segments
from deployments.families.base import Family, as_warming_up, load_families, model_rules_of
from deployments.families.options import prepared_call
from deployments.families.warm_up import plain_files, short_call
from deployments.replica import weights
from deployments.replica.resources import with_recipe_dtype
from deployments.replica.tuned import Measurement, machine_of
from deployments.tuning.job import (
    Answer,
    DescribeDevice,
    DeviceFacts,
    Job,
    MeasureVariant,
    Workload,
)
from serve_app.domain.endpoint import Endpoint, has_step_caches
from serve_app.domain.errors import DarkroomError, Misconfigured, OutOfMemory
from weights.store import Store

if TYPE_CHECKING:  # it imports torch
    from deployments.engine.loop.options import GenerationOptions

STDIN = 0  # file descriptor
LEAST_RUNS = 4  # generations that are timed, in all, while they are short
MORE_S = 20.0  # time for generations beyond one for each prompt
SAMPLE_S = 0.02  # between two readings of the memory that is held
NAME = "measured"


def describe_device(job: DescribeDevice) -> DeviceFacts:
    """Raises ``Misconfigured`` if a GPU is needed and torch cannot use one."""
    from deployments.engine.accelerator.diagnosis import gpu_problem  # noqa: PLC0415
    from deployments.engine.accelerator.selection import (  # noqa: PLC0415
        accelerator_for,
        usual_device,
    )

    accelerator = accelerator_for(job.device or usual_device())
    if job.needs_gpu and not accelerator.capabilities.discrete:
        raise Misconfigured(gpu_problem())
    return DeviceFacts(
        machine_of(accelerator),
        accelerator.kind,
        accelerator.capabilities.discrete,
        accelerator.memory.total() or 0,
        accelerator.memory.free() or 0,
    )


def measure(job: MeasureVariant) -> Measurement:
    """Load the variant as a replica does, and measure it alone on the device.

    A failure of the variant is part of the answer.
    """
    empty = Measurement(job.variant, job.recipe, job.options, job.step_cache)
    try:
        with _Loaded(job) as loaded:
            return loaded.measure(empty)
    except OutOfMemory as error:
        return replace(empty, error=f"out of memory: {error.message}")
    except DarkroomError as error:
        return replace(empty, error=error.message)
    except Exception as error:
        from deployments.engine.accelerator.errors import is_out_of_memory  # noqa: PLC0415

        logging.getLogger(__name__).exception("The variant %s failed.", job.variant)
        if is_out_of_memory(error):
            return replace(empty, error="out of memory")
        text = str(error).strip().splitlines() or [""]
        return replace(empty, error=f"{type(error).__name__}: {text[0]}"[:300])


@dataclass(frozen=True, slots=True)
class _Timed:
    """Figures of one workload."""

    generation_s: float  # of its first input
    step_s: float
    results: Sequence[Any]  # one for each input


class _Loaded:
    """Engine with one loaded variant."""

    def __init__(self, job: MeasureVariant) -> None:
        from deployments.engine.accelerator.selection import usual_device  # noqa: PLC0415
        from deployments.engine.engine import Engine  # noqa: PLC0415
        from deployments.engine.loading.residency import Residency  # noqa: PLC0415

        families = load_families(job.families)
        self._job = job
        self._store = Store(job.store)
        self._family: Family = families[job.workloads[0].endpoint.family]
        self._endpoint = with_recipe_dtype(job.workloads[0].endpoint, job.recipe)
        self._engine = Engine(
            device=job.device or usual_device(),
            max_batch=1,
            traits=model_rules_of(families),
            compiles_first=True,
        )
        self._residency = Residency(self._engine, quantized=self._store.derived_files())
        self._peak = _PeakMemory(self._engine.accelerator.memory.held_bytes)

    def __enter__(self) -> _Loaded:
        self._engine.start()
        self._peak.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._residency.close()
        self._engine.close(5)
        self._peak.stop()

    def measure(self, empty: Measurement) -> Measurement:
        pipeline = self._load()
        timed = [self._time_workload(pipeline, workload) for workload in self._job.workloads]
        worst = self._compare([result for run in timed for result in run.results])
        return replace(
            empty,
            generation_s=round(sum(run.generation_s for run in timed), 5),
            step_s=round(timed[0].step_s, 6),
            peak_bytes=self._peak.stop(),
            psnr_db=None if worst.psnr_db is None else round(worst.psnr_db, 2),
            similarity=round(worst.similarity, 5),
        )

    def _time_workload(self, pipeline: Any, workload: Workload) -> _Timed:
        first, *_ = calls = self._calls(pipeline, workload)
        self._run(_with_steps(first, 1))  # warm: kernels are chosen, caches are filled
        self._engine.finish_compiling()  # code for the adapters
        runs = [self._run(call) for call in calls]
        # The shortest of several times is the least disturbed one.
        generation_s = self._shortest(first, [seconds for seconds, _ in runs])
        steps = int(first["num_inference_steps"])
        short_s = self._shortest(_with_steps(first, 1), [])
        step_s = (generation_s - short_s) / (steps - 1) if steps > 1 else generation_s
        return _Timed(generation_s, max(step_s, 0.0), [result for _, result in runs])

    def _load(self) -> Any:
        from deployments.engine.loading.loads import LoadPlan  # noqa: PLC0415

        job, warming = self._job, as_warming_up(self._family)
        if job.recipe.compiles and warming is None:
            raise Misconfigured(
                f"The family {self._endpoint.family} has no warm_up to compile with."
            )
        warm_up = None if warming is None else partial(short_call, warming, self._endpoint)
        load = partial(self._read, self._store)
        plan = LoadPlan(load, job.recipe, warm_up if job.recipe.compiles else None)
        pipeline = self._residency.acquire(NAME, plan).future.result()
        if job.recipe.compiles and not _is_compiled(pipeline):
            raise Misconfigured("It could not be compiled; see the log.")
        return pipeline

    def _read(self, store: Store, on_download: Any, on_found: Any) -> Any:
        device = self._engine.device
        return weights.load(store, self._family, self._endpoint, device, on_download, on_found)

    def _calls(self, pipeline: Any, workload: Workload) -> list[dict[str, Any]]:
        """Arguments of ``submit`` for each input, with its ``seed``."""
        from deployments.engine.loop.options import GenerationOptions  # noqa: PLC0415

        endpoint = with_recipe_dtype(workload.endpoint, self._job.recipe)
        adapters = weights.adapters(self._store, endpoint, workload.inputs[0])
        options = GenerationOptions(step_cache=self._step_cache(endpoint))
        return [
            self._call(pipeline, endpoint, values, adapters, options) for values in workload.inputs
        ]

    def _step_cache(self, endpoint: Endpoint) -> Mapping[str, Any] | None:
        caches = self._job.step_cache and has_step_caches(endpoint, self._job.recipe)
        return self._job.step_cache if caches else None

    def _call(
        self,
        pipeline: Any,
        endpoint: Endpoint,
        input: Mapping[str, Any],
        adapters: Sequence[Any],
        options: GenerationOptions,
    ) -> dict[str, Any]:
        values = {**input, **plain_files(endpoint)}
        call = prepared_call(self._family, endpoint, values, pipeline, seed=0)
        own = {"view": call.view, "loras": [*adapters, *call.loras]}
        own["options"] = replace(options, set_up=call.set_up)
        return {**call.arguments, **own, "seed": input.get("seed") or 0}

    def _run(self, call: Mapping[str, Any]) -> tuple[float, Any]:
        """Seconds of a generation until its result is on the host, and the result."""
        import torch  # noqa: PLC0415

        arguments = {name: value for name, value in call.items() if name != "seed"}
        # A generator remembers what was drawn from it, and each run draws the same.
        generator = torch.Generator("cpu").manual_seed(int(call["seed"]))
        arguments["generator"] = (
            [generator] if isinstance(arguments.get("generator"), list) else generator
        )
        began = time.perf_counter()
        result = self._engine.submit(pipeline=NAME, **arguments).result()
        values = _values(result)
        return time.perf_counter() - began, values

    def _shortest(self, call: Mapping[str, Any], taken: list[float]) -> float:
        began = time.perf_counter()
        while not taken or (
            len(taken) < LEAST_RUNS and time.perf_counter() - began + min(taken) < MORE_S
        ):
            taken.append(self._run(call)[0])
        return min(taken)

    def _compare(self, results: Sequence[Any]) -> Any:
        from safetensors.torch import load_file, save_file  # noqa: PLC0415

        from deployments.tuning.quality import Distance, distance  # noqa: PLC0415

        path = self._job.reference
        if self._job.is_reference:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.part")
            save_file({str(n): result.contiguous() for n, result in enumerate(results)}, part)
            part.replace(path)
            return Distance(None, 1.0)
        reference = load_file(path)
        distances = [distance(result, reference[str(n)]) for n, result in enumerate(results)]
        noise = [score.psnr_db for score in distances if score.psnr_db is not None]
        return Distance(min(noise, default=None), min(score.similarity for score in distances))


def _with_steps(call: Mapping[str, Any], steps: int) -> dict[str, Any]:
    changed = {**call, "num_inference_steps": steps}
    return {**changed, "strength": 1.0} if "strength" in call else changed


def _is_compiled(pipeline: Any) -> bool:
    return any(vars(module).get("compiled_regions") for module in _modules(pipeline))


def _modules(pipeline: Any) -> Sequence[Any]:
    import torch  # noqa: PLC0415

    return [member for member in vars(pipeline).values() if isinstance(member, torch.nn.Module)]


def _values(result: Any) -> Any:
    """First output of a pipeline on the host: images as levels, sound as it is."""
    import torch  # noqa: PLC0415

    first = result[0]
    tensor = torch.as_tensor(first[0] if isinstance(first, list | tuple) else first)
    if tensor.ndim <= 3:  # [items, channels, samples]
        return tensor.detach().float().cpu()
    return tensor.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8).cpu()


class _PeakMemory:
    """Most bytes that were held, by sampling: the engine uses the device's own peak itself."""

    def __init__(self, held_bytes: Callable[[], int]) -> None:
        self._held = held_bytes
        self._most = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True, name="memory samples")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> int:
        self._stopped.set()
        self._thread.join()
        self._most = max(self._most, self._held())
        return self._most

    def _sample(self) -> None:
        while not self._stopped.wait(SAMPLE_S):
            self._most = max(self._most, self._held())


def answer(job: Job) -> Answer | DarkroomError:
    try:
        return describe_device(job) if isinstance(job, DescribeDevice) else measure(job)
    except DarkroomError as error:
        return error


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    use_expandable_segments()  # as replicas do
    job: Job = pickle.load(sys.stdin.buffer)  # noqa: S301 from the parent process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    Path(sys.argv[1]).write_bytes(pickle.dumps(answer(job)))


def _end_with_parent() -> None:
    # Not through `sys.stdin`: a thread that waits in it cannot be left behind at the end.
    while os.read(STDIN, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
