"""Computes suspended calls, one by one or several in one forward, so that nobody is worse off.

A forward that fails for several is run for each alone, and calls of that signature are not merged
again. One that does not fit in memory is halved. A denoiser that writes into its inputs gets its
own. What was found out is kept per denoiser, as long as it lives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from deployments.engine.adapter_layers import AdapterRows
from deployments.engine.agreement import agree, coarse
from deployments.engine.call_arguments import CallArguments, tensors_in
from deployments.engine.content import Digests, version_of
from deployments.engine.context import within
from deployments.engine.counts import Counts, PartCounts
from deployments.engine.declarations import Declarations
from deployments.engine.device_memory import DeviceMemory
from deployments.engine.failures import is_out_of_memory, release_frames
from deployments.engine.finding import Finding, Findings
from deployments.engine.merge_plan import MergePlan, parting, plan_of, woven
from deployments.engine.merged_caches import Keep, Parted, key_of, may_merge, together
from deployments.engine.pending_call import DETERMINISTIC, Answer, PendingCall
from deployments.engine.roles import Refused
from deployments.engine.shortage import Shortage
from deployments.engine.stand_in import DenoiserCall
from deployments.engine.step_caches import caches_steps
from deployments.engine.surroundings import Surroundings

log = logging.getLogger(__name__)


class _Unmergeable(Exception):
    """The message is a reason to count."""


class Forwards:
    """For the engine's thread alone."""

    def __init__(
        self,
        counts: Counts,
        rows: AdapterRows,
        declarations: Declarations,
        *,
        max_batch: int,
        verify: bool,
        memory: DeviceMemory,
        shortage: Shortage,
        company: Callable[[], bool] = lambda: True,
    ) -> None:
        """``verify``: compare the first merge of each signature with what each call gives alone.
        ``company``: whether there is more than one generation. Whoever is alone is spared the
        planning."""
        self.counts = counts
        self._rows = rows
        self._declarations = declarations
        self._max_batch = max_batch
        self._verify = verify
        self._memory = memory
        self._shortage = shortage
        self._company = company
        self._digests = Digests()
        self.findings = Findings(max_batch)

    def pending(
        self,
        call: DenoiserCall,
        generation: int,
        surroundings: Surroundings,
        *,
        alone: bool,
        mix: str = "",
    ) -> PendingCall:
        """``alone``: its caller asked for no merging. ``mix``: the adapters of the generation."""
        if alone:
            planned = DETERMINISTIC
        else:
            planned = self._planned(call, mix) if self._company() else _NOBODY_ELSE
        if isinstance(planned, str):
            return PendingCall(call, generation, surroundings, None, object(), planned, mix)
        # Models that take lists lay all rows end to end: which are whose, a layer cannot tell.
        unlike = mix if planned.rows.listed else ""
        key = (id(call.module), surroundings.key(), planned.signature, planned.contents, unlike)
        if (cached := key_of(call, generation, planned)) is not None:
            key = (*key, cached)
        return PendingCall(call, generation, surroundings, planned, key, mix=mix)

    def _planned(self, call: DenoiserCall, mix: str) -> MergePlan | str:
        """How it may be merged, or why it is not."""
        if self._max_batch == 1:
            return "max_batch is 1"
        if not may_merge(call):
            return "step cache"
        try:
            plan = plan_of(call, self._digests, self._declarations.of(type(call.module)))
        except Refused as refused:
            return str(refused)
        except Exception:
            # Arguments can be anything at all, and running alone is always right.
            log.exception("A call of %s cannot be planned.", type(call.module).__name__)
            return "planning failed"
        if plan.rows.listed and caches_steps(call.module):
            return "step cache"  # what is kept has the length of the longest row
        return self.findings.of(call.module, plan, mixed=bool(mix)).refused or plan

    def at_once(self, call: DenoiserCall, mix: str) -> Any:
        """The output of a call of which nobody else is told, where it is made."""
        with self._rows.having([mix]):
            return call.compute()

    def most(self, pending: PendingCall, free: int | None) -> int:
        """How many calls may share a forward with it, itself among them. ``free``: bytes; None:
        nobody counts them."""
        finding = self.findings.of_call(pending)
        return 1 if finding is None else finding.most(free)

    def compute(
        self, calls: Sequence[PendingCall], *, in_company: bool, computes: bool | None = None
    ) -> list[Answer]:
        """The answer to each; all have the same key. ``in_company``: others wait for the same
        denoiser with another key. ``computes``: what a step cache says about all of them."""
        if len(calls) == 1:
            reason = self._reason(calls[0], in_company=in_company)
            return [self._single(calls[0], reason if computes is None else "step cache")]
        mixed = any(each.mix for each in calls)
        finding = self.findings.of(calls[0].call.module, calls[0].required_plan(), mixed=mixed)
        if not finding.refused:
            try:
                return self._merged(calls, finding, computes=computes)
            except Parted as parted:
                return self._both_ways(calls, parted.computes)
            except _Unmergeable as error:
                self._refuse(calls[0], finding, str(error))
            except BaseException as error:
                release_frames(error)
                self._counts_of(calls[0]).trial_forwards += 1
                if is_out_of_memory(error):
                    return self._halves(calls, finding)
                self._refuse(calls[0], finding, "failed when merged", error)
        return [self._single(each, finding.refused) for each in calls]

    def _single(self, pending: PendingCall, reason: str) -> Answer:
        counts = self._counts_of(pending)
        counts.forward(1)
        counts.not_merged[reason] += 1
        return self._alone(pending)

    def _counts_of(self, pending: PendingCall) -> PartCounts:
        return self.counts.parts[pending.call.part]

    def _reason(self, pending: PendingCall, *, in_company: bool) -> str:
        if pending.alone_because:
            return pending.alone_because
        if in_company and self._max_batch > 1 and self.most(pending, self._memory.free()) == 1:
            return "memory"
        return "other shapes or values" if in_company else _NOBODY_ELSE

    def _alone(self, pending: PendingCall) -> Answer:
        with within(pending.surroundings.context):
            answer = self._tried(pending)
            if answer.did_not_fit:
                self._shortage.relieve()
                answer = self._tried(pending)
            return answer

    def _tried(self, pending: PendingCall) -> Answer:
        call, finding = pending.call, self.findings.of_call(pending)
        before = pending.versions()
        try:
            with nullcontext() if finding is None else finding.forward(1, self._memory):
                return Answer(pending.run(self._rows))
        except BaseException as error:
            if not is_out_of_memory(error):
                return Answer(error=error)
            release_frames(error)
            self._shortage.explain(
                error, pending.told(), None if finding is None else finding.takes.expected(1)
            )
            # What a step cache has kept of it cannot be taken back.
            same = before == pending.versions() and not caches_steps(call.module)
            return Answer(error=error, did_not_fit=same)

    def _both_ways(self, calls: Sequence[PendingCall], computes: Sequence[bool]) -> list[Answer]:
        """Those that a step cache lets compute in one forward, and the others in another."""
        answers = dict[int, Answer]()
        for way in (True, False):
            those = [number for number, its in enumerate(computes) if its is way]
            made = self.compute([calls[each] for each in those], in_company=True, computes=way)
            answers |= zip(those, made, strict=True)
        return [answers[number] for number in range(len(calls))]

    def _merged(
        self, calls: Sequence[PendingCall], finding: Finding, *, computes: bool | None
    ) -> list[Answer]:
        counts = self._counts_of(calls[0])
        with finding.forward(len(calls), self._memory):
            answers, keep = self._woven(calls, finding, computes=computes)
        if self._verify and not finding.trusted:
            merged = [each.output for each in answers]
            dtype = coarse(merged, getattr(calls[0].call.module, "dtype", None))
            # Before they run alone, which moves step caches on.
            noisy = self._beside_itself(calls, finding, computes=computes) if dtype else None
            alone = [self._alone(each) for each in calls]
            counts.trial_forwards += 1
            well = all(each.error is None for each in alone)
            if not well or not agree(merged, [each.output for each in alone], dtype, noisy):
                self._refuse(calls[0], finding, "differs when merged")
                for _ in calls:
                    counts.forward(1)
                    counts.not_merged[finding.refused] += 1
                return alone
            counts.trial_forwards += len(calls) - 1
        else:
            keep()  # those that ran alone have kept it themselves
        finding.trusted = True
        counts.forward(len(calls))
        return answers

    def _woven(
        self, calls: Sequence[PendingCall], finding: Finding, *, computes: bool | None
    ) -> tuple[list[Answer], Keep]:
        plans = [each.required_plan() for each in calls]
        arguments, parts = woven(plans), parting(plans)
        if not finding.trusted:
            # What is shared is the first generation's own: not before it is known to stay whole.
            arguments = arguments.with_values(_mapped(torch.clone, arguments.named))
        versions = _versions(arguments)
        mixes = [each.mix for _ in range(plans[0].rows.count) for each in calls]
        cached = together(
            [(each.call, each.generation) for each in calls], parts, computes=computes
        )
        with calls[0].surroundings.in_place(), self._rows.having(mixes), cached as keep:
            output = arguments.call(calls[0].call.function)
        if _versions(arguments) != versions:
            self._counts_of(calls[0]).trial_forwards += 1
            raise _Unmergeable("writes into its inputs")
        return [Answer(each) for each in parts.apart(output)], keep

    def _beside_itself(
        self, calls: Sequence[PendingCall], finding: Finding, *, computes: bool | None
    ) -> Any:
        """The first call's output, with copies of itself in place of the others."""
        self._counts_of(calls[0]).trial_forwards += 1
        answers, _ = self._woven([calls[0]] * len(calls), finding, computes=computes)
        return answers[0].output

    def _halves(self, calls: Sequence[PendingCall], finding: Finding) -> list[Answer]:
        finding.limit.ran_out(len(calls), self._memory.free())
        most = finding.limit.most
        log.warning(
            "%d calls of %s did not fit in memory together; for now at most %d are merged.",
            len(calls),
            type(calls[0].call.module).__name__,
            most,
        )
        self._memory.release()
        waiting, answers = list(calls), list[Answer]()
        while waiting:
            most = min(most, finding.limit.most)
            part, waiting = waiting[:most], waiting[most:]
            if len(part) == 1:
                answers.append(self._single(part[0], "out of memory"))
            else:
                answers += self.compute(part, in_company=True)
        return answers

    def _refuse(
        self,
        pending: PendingCall,
        finding: Finding,
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


def _versions(arguments: CallArguments) -> list[int | None]:
    return [version_of(each) for each in tensors_in(arguments.named)]


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """``value`` with every tensor changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(change, each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(change, each) for each in value)
    return value


_NOBODY_ELSE = "nobody else"
