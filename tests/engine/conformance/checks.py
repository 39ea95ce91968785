"""What must hold for a pipeline inside the engine, and what was found for one."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch

from deployments.engine.drafting.draft import Draft, DraftPoint
from deployments.engine.drafting.fork import Fork
from deployments.engine.engine import Engine
from deployments.engine.loop.generation import Generation
from deployments.engine.loop.options import GenerationOptions
from deployments.engine.snapshot.format import Snapshot
from serve_app.domain.errors import Cancelled, ForkRefused, SnapshotRefused
from serve_app.domain.media.draft_refusals import REFUSALS
from serve_app.domain.progress import Progress, Stage
from tests.engine.conformance.case import WISHES, Case, Wish
from tests.engine.conformance.outputs import difference, same_bits
from tests.engine.gate import Gate, merging_engine

TOLERANCE = 1e-4  # of the output's range, in float32
TIMES = 4.0  # the noise floor; measured are at most 1.7, in the 21 classes above the tolerance
_ALONE = "nobody else"  # the reason of a call that met no other, which is none
_PATIENCE_S = 300.0
_SNAPSHOT_STEP = 2  # it waits for the call after that one
_KEPT_BYTES = 2**28  # of outputs, where frames cannot be read


@dataclass(slots=True)
class Finding:
    """``wrong`` is empty when all that was checked holds."""

    case: Case
    alone: bool = False  # bit for bit what the plain call gives
    cancelled: bool = False  # at a step, with nothing changed for others
    resumed: str = "not in the middle"  # from a snapshot, on another engine: by which way
    stepped: bool = False  # the engine counted its steps
    own_randomness: bool = True  # False: draws from torch's global state beside its generator
    apart: float = 0.0  # largest difference to the plain call, three at a time
    floor: float | None = None  # beside copies of itself, where `apart` is above the tolerance
    shared: float = 0.0  # of the denoiser calls of three at a time, those that shared a forward
    single: Mapping[str, int] = field(default_factory=dict[str, int])  # why others did not
    remarks: list[str] = field(default_factory=list[str])
    wrong: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        lines: list[str] = []
        if not self.own_randomness:
            lines.append(
                "Draws from torch's global random state, which each generation has for itself."
            )
        if not self.stepped:
            lines.append("Its steps are not counted.")
        reasons = {why: calls for why, calls in self.single.items() if why != _ALONE}
        if reasons:
            lines.append(
                "Not merged: " + ", ".join(f"{n} × {why}" for why, n in reasons.items()) + "."
            )
        lines += self.remarks
        if self.floor is not None:
            lines.append(f"Its noise floor is {self.floor:.1e}.")
        return lines

    @property
    def together(self) -> str:
        return f"{self.apart:.1e}" if self.apart else "identical"

    def require(self, holds: bool, otherwise: str) -> bool:
        if not holds:
            self.wrong.append(otherwise)
        return holds


def examine(case: Case) -> Finding:
    """Run everything. A pipeline that fails by itself raises its own error."""
    finding = Finding(case)
    pipeline = case.build()
    plain = [_plain(case, pipeline, wish) for wish in WISHES]
    finding.own_randomness = same_bits(_plain(case, pipeline, WISHES[0], elsewhere=1), plain[0])
    if not finding.own_randomness and not same_bits(_plain(case, pipeline, WISHES[0]), plain[0]):
        finding.wrong.append("Two plain calls with the same arguments differ.")
        return finding
    finding.require(difference(plain[1], plain[0]) > 10 * TOLERANCE, "Its wishes look the same.")
    try:
        with merging_engine(pipeline, "cpu", threads=1, max_batch=8) as engine:
            _alone(finding, engine, plain)
            _cancelled(finding, engine, pipeline, plain)
            _together(finding, engine, pipeline, plain)
            _resumed(finding, engine, pipeline, plain[1])
            _drafted(finding, engine, plain[1])
    except Exception as error:  # of a pipeline whose plain calls have ended well
        finding.wrong.append(f"In the engine it raises {type(error).__name__}: {error}.")
    finding.require(
        same_bits(_plain(case, pipeline, WISHES[0]), plain[0]),
        "Afterwards, a plain call gives something else.",
    )
    return finding


def _alone(finding: Finding, engine: Engine, plain: list[Any]) -> None:
    generation = _submit(finding.case, engine, WISHES[0])
    output = generation.result(_PATIENCE_S)
    finding.stepped = generation.steps_done > 0
    finding.alone = finding.require(
        same_bits(output, plain[0]),
        f"Alone, it differs from the plain call by {difference(output, plain[0]):.1e}.",
    )


def _cancelled(finding: Finding, engine: Engine, pipeline: Any, plain: list[Any]) -> None:
    ready = threading.Event()
    victims: list[Generation] = []

    def cancel(progress: Progress) -> None:  # on the engine's thread
        if progress.stage is Stage.DENOISING and progress.step >= 1 and ready.wait(_PATIENCE_S):
            victims[0].cancel()

    victims.append(_submit(finding.case, engine, WISHES[1], on_progress=cancel))
    beside = _submit(finding.case, engine, WISHES[2])
    ready.set()
    try:
        victims[0].result(_PATIENCE_S)
    except Cancelled:
        finding.cancelled = True
    finished = beside.result(_PATIENCE_S)
    finding.require(
        finding.cancelled or not finding.stepped, "Cancelled at a step, it ran to its end."
    )
    _judged(finding, pipeline, "Beside a cancelled one, another", 2, finished, plain)


def _together(finding: Finding, engine: Engine, pipeline: Any, plain: list[Any]) -> None:
    before = engine.counts()
    outputs = _made_together(finding.case, engine, WISHES)
    counts = engine.counts()
    calls = {name: counts[name] - before[name] for name in ("merged_calls", "single_calls")}
    finding.shared = calls["merged_calls"] / max(1, sum(calls.values()))
    finding.single = _more(counts["not_merged"], before["not_merged"])
    for number, output in enumerate(outputs):
        apart = _judged(finding, pipeline, "Three at a time, one", number, output, plain)
        finding.apart = max(finding.apart, apart)


def _resumed(finding: Finding, engine: Engine, pipeline: Any, plain: Any) -> None:
    """A snapshot from the middle, and its generation to the end on another engine."""
    if not finding.stepped:
        return
    way = "from its frames"
    try:
        snapshot, steps = _snapshot(finding.case, engine)
        finding.require(finding.case.resumes, "It makes snapshots, and is said not to.")
    except SnapshotRefused as refused:
        if not finding.case.resumes:
            finding.resumed = "from its beginning"
            finding.remarks.append(str(refused))
            return
        way = "from its outputs"
        finding.remarks.append(str(refused))
        snapshot, steps = _snapshot(
            finding.case, engine, options=GenerationOptions(keep_outputs_bytes=_KEPT_BYTES)
        )
    if snapshot is None:  # it had not so many steps
        return
    with Engine(pipeline, "cpu", threads=1, max_batch=8) as other:
        state = snapshot.to_bytes()
        output = _submit(finding.case, other, WISHES[1], snapshot=state).result(_PATIENCE_S)
        more = other.counts()["steps"]
    finding.require(
        _SNAPSHOT_STEP <= snapshot.step == steps - more,
        f"Resumed at its step {snapshot.step} of {steps}, it took {more} more.",
    )
    same = same_bits(output, plain)
    apart = difference(output, plain)
    if finding.require(same, f"Resumed {way}, it differs from the plain call by {apart:.1e}."):
        finding.resumed = way


def _drafted(finding: Finding, engine: Engine, plain: Any) -> None:
    """A draft of half of the steps, and a generation to the end from it."""
    if not finding.stepped:
        return
    case, before = finding.case, engine.counts()["steps"]
    try:
        options = GenerationOptions(draft=DraftPoint(0.5))
        draft = _submit(case, engine, WISHES[1], options=options).result(_PATIENCE_S)
    except ForkRefused as refused:
        finding.require(case.name in REFUSALS, f"It makes no draft: {refused}")
        return
    finding.require(case.name not in REFUSALS, "It makes drafts, and is said not to.")
    options = GenerationOptions(fork=Fork(Draft.of_bytes(draft.to_bytes())))
    try:
        forked = _submit(case, engine, WISHES[1], options=options)
        output = forked.result(_PATIENCE_S)
    except ForkRefused as refused:
        finding.require(False, f"It does not go on from its draft: {refused}")
        return
    apart, steps = difference(output, plain), engine.counts()["steps"] - before
    finding.require(
        steps == forked.steps_done,
        f"Its draft and the rest took {steps} steps instead of {forked.steps_done}.",
    )
    finding.require(
        same_bits(output, plain), f"From its draft, it differs from the plain call by {apart:.1e}."
    )


def _snapshot(case: Case, engine: Engine, **more: Any) -> tuple[Snapshot | None, int]:
    """None where it has too few steps; and how many it took in all."""
    ready = threading.Event()
    running: list[Generation] = []
    snapshots: list[Future[Snapshot]] = []

    def ask(progress: Progress) -> None:  # on the engine's thread
        there = _SNAPSHOT_STEP <= progress.step < (progress.steps or WISHES[1].steps)
        if (
            progress.stage is Stage.DENOISING
            and there
            and not snapshots
            and ready.wait(_PATIENCE_S)
        ):
            snapshots.append(running[0].request_snapshot())

    running.append(_submit(case, engine, WISHES[1], on_progress=ask, **more))
    ready.set()
    running[0].result(_PATIENCE_S)
    return snapshots[0].result(_PATIENCE_S) if snapshots else None, running[0].steps_done


def _more(counts: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    grown = {name: count - before.get(name, 0) for name, count in counts.items()}
    return {name: count for name, count in grown.items() if count}


def _judged(
    finding: Finding, pipeline: Any, who: str, number: int, output: Any, plain: Sequence[Any]
) -> float:
    """How far apart; held against the tolerance, and where it is above, the noise floor."""
    apart = difference(output, plain[number])
    if apart > TOLERANCE:
        if finding.floor is None:
            finding.floor = noise_floor(finding.case, pipeline, plain)
        finding.require(
            apart <= TIMES * finding.floor,
            f"{who} differs by {apart:.1e}; its noise floor is {finding.floor:.1e}.",
        )
    return apart


def noise_floor(case: Case, pipeline: Any, plain: Sequence[Any]) -> float:
    """How far a generation moves that shares its forwards with copies of itself alone: the farthest
    of the wishes, because a model that magnifies what rounding does to some leaves others."""
    floor = 0.0
    with merging_engine(pipeline, "cpu", threads=1, max_batch=8) as engine:
        for wish, alone in zip(WISHES, plain, strict=True):
            copies = _made_together(case, engine, [wish] * len(WISHES))
            floor = max(floor, *(difference(output, alone) for output in copies))
    return floor


def _made_together(case: Case, engine: Engine, wishes: Sequence[Wish]) -> list[Any]:
    """What all make that begin before one goes on."""
    gate = Gate(engine)
    generations = [_submit(case, engine, wish) for wish in wishes]
    gate.open()
    return [generation.result(_PATIENCE_S) for generation in generations]


def _plain(case: Case, pipeline: Any, wish: Wish, elsewhere: int = 0) -> Any:
    """``elsewhere``: another value, another global random state."""
    with torch.no_grad():
        torch.manual_seed(wish.seed + 1000 * elsewhere)
        return pipeline(**case.arguments(wish))


def _submit(case: Case, engine: Engine, wish: Wish, **more: Any) -> Generation:
    return engine.submit(**more, **case.arguments(wish))
