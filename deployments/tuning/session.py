"""Tuning of models: which variants are measured, in which order, and until when.

Measurements run in processes of their own (``worker``). Each is kept as it ends, so that a session
that is interrupted goes on where it was. Importing this module does not import torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deployments.families.options import ADAPTERS, required_files
from deployments.replica import weights
from deployments.replica.resources import recipe_for_device, weights_name
from deployments.replica.tuned import (
    PLAIN,
    Measurement,
    Tuning,
    TuningFile,
    revision_of,
    with_options,
)
from deployments.tuning.job import DescribeDevice, DeviceFacts, Job, MeasureVariant, Workload
from deployments.tuning.variants import (
    RecipeVariant,
    Subject,
    cached_candidates,
    candidates,
    combination,
    default_name,
    reason_against,
)
from deployments.tuning.verdicts import Verdicts, read_verdicts
from serve_app.domain.endpoint import Endpoint, StoreConfig
from serve_app.domain.errors import (
    DarkroomError,
    Misconfigured,
    PipelineFailed,
    WeightsUnavailable,
)
from weights.store import Store

LEAST_FREE = 0.8
"""Least share of a GPU's memory that must be free: the rest is a driver's, a desktop's, or of a
program whose work would be measured too."""

END_S = 5.0  # for a process to end when it is asked to


class _OutOfTime(Exception):
    """The time of the session is over."""


@dataclass(frozen=True, slots=True)
class TuningResult:
    """End of the tuning of one model."""

    tuning: Tuning
    out_of_time: bool = False  # variants are left to be measured


@dataclass(frozen=True, slots=True)
class TunedModel:
    """Loaded weights that are tuned once for all endpoints that share them."""

    name: str
    workloads: tuple[Workload, ...]  # that are measured: one without adapters, each set of them
    endpoints: tuple[str, ...]
    subject: Subject
    steps: int

    @property
    def adapters(self) -> tuple[str, ...]:
        """Text for the adapters of each workload; empty for one without."""
        return tuple(_adapters_text(workload.endpoint) for workload in self.workloads)


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """Conditions of a session."""

    quality: float
    deadline: float  # of the monotonic clock
    variants: tuple[str, ...] = ()  # names of those to measure; empty: all
    again: bool = False  # measure what is kept once more
    verdicts: Verdicts = field(default_factory=Verdicts)  # of the benchmark, by default none


Show = Callable[[Tuning, Measurement], None]


class TuningSession:
    """One run of ``darkroom tune`` on this machine."""

    def __init__(
        self,
        file: TuningFile,
        folder: Path,
        families: Mapping[str, str],
        store: StoreConfig,
        monotonic: Callable[[], float],
        *,
        needs_gpu: bool,
    ) -> None:
        """``folder``: for the reference's results and the log, until a model is tuned."""
        self.file = file
        self._folder = folder
        self._families = families
        self._store = replace(store, offline=True)  # nothing is downloaded in between
        self._monotonic = monotonic
        self._device = "" if needs_gpu else "cpu"
        self._needs_gpu = needs_gpu
        self.log = folder / "worker.log"

    def describe_device(self) -> DeviceFacts:
        """Raises ``Misconfigured`` if torch cannot use the GPU, or others use it."""
        facts = self._ask(DescribeDevice(self._device, self._needs_gpu), None)
        if facts.discrete and facts.free_bytes < LEAST_FREE * facts.total_bytes:
            used = (facts.total_bytes - facts.free_bytes) / 1e9
            raise Misconfigured(
                f"Other programs use {used:.1f} of the {facts.total_bytes / 1e9:.1f} GB of the "
                f"{facts.machine.device}, so its times would not be right. Stop them (`nvidia-smi` "
                "lists them), such as a Darkroom on another data directory, and run the command "
                "again."
            )
        return facts

    @staticmethod
    def options(
        quality: float,
        deadline: float,
        variants: tuple[str, ...],
        measured: Path | None,
        facts: DeviceFacts,
        *,
        again: bool,
    ) -> TuneOptions:
        """``measured``: file with verdicts of the benchmark. Raises ``Misconfigured`` if they do
        not hold here."""
        verdicts = Verdicts() if measured is None else read_verdicts(measured, facts.machine)
        return TuneOptions(quality, deadline, variants, again, verdicts)

    def is_here(self, endpoint: Endpoint) -> bool:
        """True if the endpoint's weights are on this machine."""
        return weights.is_here(Store(self._store), endpoint)

    def models(
        self,
        entries: Sequence[tuple[Endpoint, Sequence[Mapping[str, Any]]]],
        facts: DeviceFacts,
        skipped: Callable[[Endpoint, str], None],
    ) -> list[TunedModel]:
        """Models of ``entries``: endpoints with the inputs to measure.

        Endpoints that share loaded weights are one model, which is measured by the first of them
        that takes no files. Those with adapters of their own are measured too, once for each set of
        adapters, since one variant serves all. ``skipped`` gets an endpoint that needs a larger
        GPU, and the reason.
        """
        by_name: dict[str, TunedModel] = {}
        for endpoint, inputs in sorted(entries, key=_order):
            try:
                recipe = recipe_for_device(endpoint, facts.total_bytes)
            except WeightsUnavailable as error:
                skipped(endpoint, error.message)
                continue
            name = weights_name(endpoint, recipe)
            workload = Workload(endpoint, tuple(inputs))
            if name in by_name:
                by_name[name] = _add_workload(by_name[name], workload)
                continue
            subject = Subject(endpoint, recipe, facts.discrete)
            by_name[name] = TunedModel(name, (workload,), (endpoint.id,), subject, _steps(workload))
        return list(by_name.values())

    def variants(self, models: Sequence[TunedModel]) -> list[str]:
        """Names of the variants of ``models``."""
        return list(
            dict.fromkeys(
                candidate.name
                for of in models
                for candidate in (*candidates(of.subject), *cached_candidates(of.subject, None))
            )
        )

    def tune(
        self, model: TunedModel, facts: DeviceFacts, options: TuneOptions, show: Show
    ) -> TuningResult:
        """Measure the variants of ``model`` that are not kept yet, until the deadline.

        ``show`` gets each measurement, kept or new. What is under way at the deadline is ended.
        """
        default = default_name(candidates(model.subject))
        try:
            return TuningResult(self._tune(model, facts, options, show, default))
        except _OutOfTime:
            # ``again`` was for the measurements at the beginning.
            kept = self._resume_tuning(model, facts, replace(options, again=False), default)
            self.file.keep(kept)
            return TuningResult(kept, out_of_time=True)

    def _tune(
        self, model: TunedModel, facts: DeviceFacts, options: TuneOptions, show: Show, default: str
    ) -> Tuning:
        variants = candidates(model.subject)
        tuning = self._resume_tuning(model, facts, options, default)
        selected = [
            variant
            for variant in variants
            if _is_selected(variant, options) and variant.name not in tuning.left_out
        ]
        selected.sort(key=lambda variant: not variant.exact)  # a reference first
        for candidate in selected:
            tuning = self._with(tuning, model, candidate, options, show)
        combined = None if options.variants else combination(variants, tuning)
        if combined is not None:
            tuning = self._with(tuning, model, combined, options, show)
        base = tuning.base
        for candidate in () if base is None else cached_candidates(model.subject, base):
            if _is_selected(candidate, options):
                tuning = self._with(tuning, model, candidate, options, show)
        if not options.variants:
            tuning = replace(tuning, complete=True)
            self._reference(tuning).unlink(missing_ok=True)
        self.file.keep(tuning)
        return tuning

    def _resume_tuning(
        self, model: TunedModel, facts: DeviceFacts, options: TuneOptions, default: str
    ) -> Tuning:
        endpoint = model.workloads[0].endpoint
        new = Tuning(
            facts.machine,
            model.name,
            revision_of(endpoint.weights),
            model.endpoints,
            model.steps,
            options.quality,
            facts.total_bytes,
            default,
            adapters=model.adapters,
        )
        for kept in () if options.again else self.file.read():
            if kept.same_subject(new) and kept.same_work(new):
                new = replace(new, measurements=kept.measurements, reference=kept.reference)
        return replace(new, left_out=_left_out(model.subject, options, new))

    def _with(
        self,
        tuning: Tuning,
        model: TunedModel,
        candidate: RecipeVariant,
        options: TuneOptions,
        show: Show,
    ) -> Tuning:
        """Tuning with the candidate's measurement, which is kept in the file."""
        kept = _measurement(tuning, candidate)
        if kept is not None:
            show(tuning, kept)
            return tuning
        tuning = self._with_reference(tuning, model, candidate, options)
        measured = self._measure(tuning, model, candidate, options)
        if measured.ok and not tuning.reference:
            tuning = replace(tuning, reference=candidate.name)
        tuning = tuning.with_measurement(measured)
        self.file.keep(tuning)
        show(tuning, measured)
        return tuning

    def _with_reference(
        self, tuning: Tuning, model: TunedModel, candidate: RecipeVariant, options: TuneOptions
    ) -> Tuning:
        """Generate the reference's results once more if they are not there any more."""
        if not tuning.reference or self._reference(tuning).exists():
            return tuning
        old = tuning.find(tuning.reference)
        tuning = replace(tuning, reference="")
        if old is None or old.variant == candidate.name:
            return tuning
        again = RecipeVariant(old.variant, old.recipe, old.options)
        measured = self._measure(tuning, model, again, options)
        return replace(
            tuning.with_measurement(measured), reference=old.variant if measured.ok else ""
        )

    def _measure(
        self, tuning: Tuning, model: TunedModel, candidate: RecipeVariant, options: TuneOptions
    ) -> Measurement:
        left_s = options.deadline - self._monotonic()
        if left_s <= 0:
            raise _OutOfTime
        job = MeasureVariant(
            self._device,
            self._families,
            self._store,
            tuple(
                replace(workload, endpoint=with_options(workload.endpoint, candidate.options))
                for workload in model.workloads
            ),
            candidate.name,
            candidate.recipe,
            candidate.options,
            candidate.step_cache,
            self._reference(tuning),
            is_reference=not tuning.reference,
        )
        try:
            return self._ask(job, left_s)
        except DarkroomError as error:
            return Measurement(
                candidate.name,
                candidate.recipe,
                candidate.options,
                candidate.step_cache,
                error=error.message,
            )

    def _reference(self, tuning: Tuning) -> Path:
        subject = (tuning.machine, tuning.model, tuning.revision)
        parts = repr((*subject, tuning.steps, tuning.adapters))
        return self._folder / f"{hashlib.sha256(parts.encode()).hexdigest()[:16]}.safetensors"

    def _ask(self, job: Job, timeout_s: float | None) -> Any:
        """Answer of a new process to ``job``. Raises ``_OutOfTime``, ``PipelineFailed`` if the
        process ends without an answer, and the error that is its answer."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="darkroom-tune-") as folder:
            path = Path(folder) / "answer"
            status = self._run(job, path, timeout_s)
            if not path.exists():
                raise PipelineFailed(self._exit_message(status))
            answer = pickle.loads(path.read_bytes())  # noqa: S301 from our own process
        if isinstance(answer, DarkroomError):
            raise answer
        return answer

    def _run(self, job: Job, path: Path, timeout_s: float | None) -> int:
        with self.log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 our own module
                [sys.executable, "-m", "deployments.tuning.worker", str(path)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the parent, which ends the process
            )
        if process.stdin is None:
            raise PipelineFailed("The process has no standard input.")
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended, and its status says why
                process.stdin.write(pickle.dumps(job))
                process.stdin.flush()
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise _OutOfTime from None
        finally:
            _end(process)

    def _exit_message(self, status: int) -> str:
        how = f"signal {-status}" if status < 0 else f"status {status}"
        hint = " The host may have run out of memory." if status == -9 else ""
        return f"The process ended with {how}.{hint} See {self.log}."


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        if process.stdin is not None:
            process.stdin.close()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _is_selected(candidate: RecipeVariant, options: TuneOptions) -> bool:
    return not options.variants or candidate.name in options.variants or candidate.name == PLAIN


def _measurement(tuning: Tuning, candidate: RecipeVariant) -> Measurement | None:
    kept = tuning.find(candidate.name)
    return kept if kept is not None and candidate.was_measured_as(kept) else None


def _left_out(subject: Subject, options: TuneOptions, tuning: Tuning) -> dict[str, str]:
    """Variants that the benchmark speaks against, with the reasons. Not those that are kept, which
    cost nothing, nor those that are named."""
    if options.variants:
        return {}
    return {
        candidate.name: reason
        for candidate in candidates(subject)
        if (reason := reason_against(candidate, options.verdicts.off))
        and _measurement(tuning, candidate) is None
    }


def _order(entry: tuple[Endpoint, Any]) -> tuple[bool, bool]:
    """Endpoints without adapters first, and those that take no files."""
    endpoint, _ = entry
    files = required_files(endpoint)
    return bool(_adapters_text(endpoint)), bool(files)


def _add_workload(model: TunedModel, workload: Workload) -> TunedModel:
    endpoint = workload.endpoint
    joined = replace(model, endpoints=(*model.endpoints, endpoint.id))
    if _adapters_text(endpoint) in model.adapters:
        return joined
    return replace(joined, workloads=(*model.workloads, workload))


def _adapters_text(endpoint: Endpoint) -> str:
    adapters = endpoint.options.get(ADAPTERS)
    return json.dumps(adapters, sort_keys=True) if adapters else ""


def _steps(workload: Workload) -> int:
    arguments = {**workload.inputs[0], **(workload.endpoint.options.get("fixed") or {})}
    return int(arguments.get("num_inference_steps") or arguments.get("steps") or 0)
