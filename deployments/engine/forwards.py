"""Computes denoiser calls, one by one or several in one forward, so that nobody is worse off.

A forward that fails for several is run for each alone, and calls of that signature are not merged
again. One that does not fit in memory is halved. A denoiser that writes into its inputs gets its
own. What was found out is kept per denoiser, as long as it lives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from deployments.engine.agreement import agree
from deployments.engine.call_arguments import CallArguments, tensors_in
from deployments.engine.content import Digests, version_of
from deployments.engine.counts import Counts
from deployments.engine.failures import is_out_of_memory, release_frames
from deployments.engine.merge_plan import MergePlan, parting, plan_of, woven
from deployments.engine.roles import Refused
from deployments.engine.stand_in import DenoiserCall
from deployments.engine.step_caches import caches_steps, entered
from deployments.engine.surroundings import Surroundings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class PendingCall:
    """A call that waits for its turn, and what is known about merging it."""

    call: DenoiserCall
    generation: int  # its number in the engine
    surroundings: Surroundings
    plan: MergePlan | None  # None: it runs alone
    key: Hashable  # the batch key; of nobody else where there is no plan
    alone_because: str = ""

    def run(self) -> Any:
        """The real denoiser's output for this generation alone, under what it set up."""
        call = self.call
        with (
            self.surroundings.in_place(),
            entered(call.module, self.generation, call.cache),
        ):
            return call.module(*call.arguments, **call.keywords)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    output: Any = None
    error: BaseException | None = None


@dataclass(slots=True)
class _Finding:
    """About calls of one signature."""

    most: int  # calls per forward that fit in memory
    trusted: bool = False  # a merge has gone well
    refused: str = ""  # why they are not merged any more


class _Unmergeable(Exception):
    """The message is a reason to count."""


class Forwards:
    """For the engine's thread alone."""

    def __init__(self, counts: Counts, *, max_batch: int, verify: bool, device: str) -> None:
        """``verify``: compare the first merge of each signature with what each call gives alone."""
        self.counts = counts
        self._max_batch = max_batch
        self._verify = verify
        self._device = device
        self._digests = Digests()
        self._findings: WeakKeyDictionary[torch.nn.Module, dict[Hashable, _Finding]] = (
            WeakKeyDictionary()
        )

    def pending(
        self, call: DenoiserCall, generation: int, surroundings: Surroundings, *, alone: bool
    ) -> PendingCall:
        """``alone``: its caller asked for no merging."""
        planned = "deterministic" if alone else self._planned(call)
        if isinstance(planned, str):
            return PendingCall(call, generation, surroundings, None, object(), planned)
        key = (id(call.module), surroundings.key(), planned.signature, planned.contents)
        return PendingCall(call, generation, surroundings, planned, key)

    def _planned(self, call: DenoiserCall) -> MergePlan | str:
        """How it may be merged, or why it is not."""
        if self._max_batch == 1:
            return "max_batch is 1"
        if caches_steps(call.module):
            return "step cache"
        try:
            plan = plan_of(call, self._digests)
        except Refused as refused:
            return str(refused)
        except Exception:
            # Arguments can be anything at all, and running alone is always right.
            log.exception("A call of %s cannot be planned.", type(call.module).__name__)
            return "planning failed"
        return self._finding(call, plan).refused or plan

    def most(self, pending: PendingCall) -> int:
        """How many calls may share a forward with it, itself among them."""
        return 1 if pending.plan is None else self._finding(pending.call, pending.plan).most

    def compute(self, calls: Sequence[PendingCall], *, in_company: bool) -> list[Answer]:
        """The answer to each; all have the same key. ``in_company``: others wait for the same
        denoiser with another key."""
        if len(calls) == 1:
            return [self._single(calls[0], _reason(calls[0], in_company=in_company))]
        finding = self._finding(calls[0].call, _plan(calls[0]))
        if not finding.refused:
            try:
                return self._merged(calls, finding)
            except _Unmergeable as error:
                self._refuse(calls[0], finding, str(error))
            except BaseException as error:
                release_frames(error)
                self.counts.trial_forwards += 1
                if is_out_of_memory(error):
                    return self._halves(calls, finding)
                self._refuse(calls[0], finding, "failed when merged", error)
        return [self._single(each, finding.refused) for each in calls]

    def _single(self, pending: PendingCall, reason: str) -> Answer:
        self.counts.forward(1)
        self.counts.not_merged[reason] += 1
        return _alone(pending)

    def _merged(self, calls: Sequence[PendingCall], finding: _Finding) -> list[Answer]:
        plans = [_plan(each) for each in calls]
        arguments = woven(plans)
        if not finding.trusted:
            # What is shared is the first generation's own: not before it is known to stay whole.
            arguments = arguments.with_values(_mapped(torch.clone, arguments.named))
        versions = _versions(arguments)
        with calls[0].surroundings.in_place():
            output = arguments.call(calls[0].call.module)
        if _versions(arguments) != versions:
            self.counts.trial_forwards += 1
            raise _Unmergeable("writes into its inputs")
        answers = [Answer(each) for each in parting(plans).apart(output)]
        if self._verify and not finding.trusted:
            alone = [_alone(each) for each in calls]
            self.counts.trial_forwards += 1
            if not _all_agree(answers, alone):
                self._refuse(calls[0], finding, "differs when merged")
                for _ in calls:
                    self.counts.forward(1)
                    self.counts.not_merged[finding.refused] += 1
                return alone
            self.counts.trial_forwards += len(calls) - 1
        finding.trusted = True
        self.counts.forward(len(calls))
        return answers

    def _halves(self, calls: Sequence[PendingCall], finding: _Finding) -> list[Answer]:
        half = len(calls) // 2
        finding.most = max(1, min(finding.most, half))
        log.warning(
            "%d calls of %s did not fit in memory together; from now on at most %d are merged.",
            len(calls),
            type(calls[0].call.module).__name__,
            finding.most,
        )
        if self._device.startswith("cuda"):
            torch.cuda.empty_cache()
        waiting, answers = list(calls), list[Answer]()
        while waiting:
            part, waiting = waiting[: finding.most], waiting[finding.most :]
            if len(part) == 1:
                answers.append(self._single(part[0], "out of memory"))
            else:
                answers += self.compute(part, in_company=True)
        return answers

    def _refuse(
        self,
        pending: PendingCall,
        finding: _Finding,
        reason: str,
        error: BaseException | None = None,
    ) -> None:
        finding.refused = reason
        log.warning(
            "Calls of %s are not merged any more where they have these shapes: %s. Nobody has lost "
            "anything; they run one by one.",
            type(pending.call.module).__name__,
            reason,
            exc_info=error,
        )

    def _finding(self, call: DenoiserCall, plan: MergePlan) -> _Finding:
        findings = self._findings.setdefault(call.module, {})
        found = findings.get(plan.signature)
        if found is None:
            if len(findings) >= _MOST_FINDINGS:
                findings.clear()
            found = findings[plan.signature] = _Finding(self._max_batch)
        return found


def _plan(pending: PendingCall) -> MergePlan:
    if pending.plan is None:
        raise RuntimeError("A call that runs alone was to be merged.")
    return pending.plan


def _alone(pending: PendingCall) -> Answer:
    try:
        return Answer(pending.run())
    except BaseException as error:
        return Answer(error=error)


def _reason(pending: PendingCall, *, in_company: bool) -> str:
    if pending.alone_because:
        return pending.alone_because
    return "other shapes or values" if in_company else "nobody else"


def _versions(arguments: CallArguments) -> list[int | None]:
    return [version_of(each) for each in tensors_in(arguments.named)]


def _all_agree(merged: Sequence[Answer], alone: Sequence[Answer]) -> bool:
    return all(
        one.error is None and agree(each.output, one.output)
        for each, one in zip(merged, alone, strict=True)
    )


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """``value`` with every tensor changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(change, each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(change, each) for each in value)
    return value


_MOST_FINDINGS = 4096  # per denoiser
