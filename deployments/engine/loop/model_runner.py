"""Model runner: computes batches of suspended calls, in one forward or one by one.

A merge never makes a call fail. When a merged forward fails, each call is run alone, and calls of
that signature are not merged again. When it does not fit in memory, the batch is halved. A
denoiser that writes into its inputs gets its own inputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from deployments.engine.accelerator.errors import is_out_of_memory
from deployments.engine.accelerator.interface import DeviceMemory
from deployments.engine.errors import release_frames
from deployments.engine.interception.components import ComponentKind
from deployments.engine.interception.isolation import Isolation, run_in_context
from deployments.engine.interception.proxy import ComponentCall
from deployments.engine.interception.step_caches import (
    Keep,
    SplitCaches,
    caches_steps,
    enter_context,
    key_of,
    may_merge,
    merged_state,
    name_of,
)
from deployments.engine.loop.graphs import Graphs
from deployments.engine.loop.merge_history import ForwardTimes, MergeHistory, MergeRecord
from deployments.engine.loop.metrics import ComponentCounters, EngineCounters
from deployments.engine.loop.options import EngineOptions
from deployments.engine.loop.pending_call import (
    CALL_FIELDS,
    DETERMINISTIC,
    CallResult,
    PendingCall,
)
from deployments.engine.lora.rows import LoraRows
from deployments.engine.memory.placement import brings_weights
from deployments.engine.memory.reservations import MemoryPressure
from deployments.engine.merging.arguments import (
    ContentDigests,
    map_tensors,
    versions_in,
)
from deployments.engine.merging.late_code import as_written_if
from deployments.engine.merging.plan import MergePlan, NotMergeable, plan_merge
from deployments.engine.merging.stack import Splitter, stack
from deployments.engine.merging.trust import compared_calls
from deployments.engine.merging.verification import agree, low_precision_dtype

log = logging.getLogger(__name__)

_NO_OTHER_CALL = "nobody else"


class _Unmergeable(Exception):
    """Merge that must not be used. The message is the reason to count."""


class ModelRunner:
    """Model runner. Used on the engine's thread only."""

    def __init__(
        self,
        counts: EngineCounters,
        lora_rows: LoraRows,
        options: EngineOptions,
        *,
        memory: DeviceMemory,
        pressure: MemoryPressure,
        graphs: Graphs,
        in_company: Callable[[], bool] = lambda: True,
    ) -> None:
        """``in_company``: returns whether more than one generation runs.

        A generation that runs alone is not planned for merging, which saves time.
        """
        self.counts = counts
        self.history = MergeHistory(options.max_batch)
        self._lora_rows = lora_rows
        self._traits = options.traits
        self._max_batch = options.max_batch
        self._verify = options.verify_merges
        self._memory = memory
        self._pressure = pressure
        self._graphs = graphs
        self._in_company = in_company
        self.on_forward: Callable[[int, int], None] = lambda _number, _size: None
        """Callback with the number of a generation whose call was computed, and the bytes that the
        call takes alone."""
        self._digests = ContentDigests()

    def plan(
        self,
        call: ComponentCall,
        generation: int,
        isolation: Isolation,
        *,
        mix: str,
        deterministic: bool,
    ) -> PendingCall:
        """Plan a suspended call. ``mix``: the generation's LoRAs.

        ``deterministic``: it must run alone, so that no other call changes a bit of its output.
        """
        call_fields = {name: getattr(call, name) for name in CALL_FIELDS}
        if deterministic:
            plan = DETERMINISTIC
        else:
            plan = self._merge_plan(call, mix) if self._in_company() else _NO_OTHER_CALL
        if isinstance(plan, str):
            return PendingCall(
                **call_fields,
                generation=generation,
                isolation=isolation,
                key=object(),
                alone_because=plan,
                mix=mix,
            )
        # Models that take lists concatenate all rows, so a layer cannot tell the rows apart.
        unlike = mix if plan.rows.listed else ""
        key = (id(call.module), isolation.key(), plan.signature, plan.contents, unlike)
        if caches_steps(call.module):
            state = key_of(call.module, name_of(generation, call.cache), plan.padded_shapes())
            key = key if state is None else (*key, state)
        return PendingCall(
            **call_fields, generation=generation, isolation=isolation, key=key, plan=plan, mix=mix
        )

    def max_calls(self, call: PendingCall, free: int | None) -> int:
        """Maximum number of calls in a forward with ``call``, including it.

        ``free``: free bytes; None: memory is not limited.
        """
        record = self._record([call])
        return 1 if record is None else record.max_calls(free)

    def times_of(self, batch: Sequence[PendingCall]) -> ForwardTimes | None:
        """Seconds of denoiser forwards like this one; None if they are not measured."""
        first = batch[0]
        # A step cache's forwards take more or less time, as it decides.
        if first.part is not ComponentKind.DENOISER or caches_steps(first.module):
            return None
        record = self._record(batch)
        return None if record is None else record.times

    def forward_bytes(self, call: PendingCall) -> int:
        """Bytes of a forward with this call alone; 0 if unknown."""
        record = self._record([call])
        return (record.forward_bytes.estimate(1) if record else None) or 0

    def compute_now(self, call: ComponentCall, mix: str) -> Any:
        """Compute a call at once, without suspending the generation."""
        with self._lora_rows.use_mixes([mix]):
            return call.compute()

    def compute_whole(self, call: ComponentCall) -> Any:
        """Compute an autoencoder's call at once, without suspending the generation."""
        return self._pressure.run_with_retry(call.compute)

    def run(
        self,
        batch: Sequence[PendingCall],
        *,
        in_company: bool,
        limited: bool = False,
        computes: bool | None = None,
    ) -> list[CallResult]:
        """Return the result of each call of ``batch``, which all have the same key.

        ``in_company``: other calls wait for the same module. ``limited``: some of them have the
        same key. ``computes``: the common decision of a step cache for all of them; None if there
        is none.
        """
        if len(batch) == 1:
            reason = self._why_alone(batch[0], in_company=in_company, limited=limited)
            reason = reason if computes is None else "step cache"
            return [self._computed_ahead(batch[0]) or self._run_single(batch[0], reason)]
        record = self._record(batch)
        if record is None:
            raise RuntimeError("Calls that must run alone cannot share a forward.")
        if not record.refusal:
            compared = compared_calls(len(batch)) if self._compares(record) else len(batch)
            if compared < len(batch):
                first = self.run(batch[:compared], in_company=True, computes=computes)
                return first + self.run(batch[compared:], in_company=True, computes=computes)
            try:
                return self._run_merged(batch, record, computes=computes)
            except SplitCaches as split:
                return self._run_both_ways(batch, split.computes)
            except _Unmergeable as error:
                self._refuse(batch[0], record, str(error))
            except BaseException as error:
                release_frames(error)
                self._counts_of(batch).trial_forwards += 1
                if is_out_of_memory(error):
                    return self._run_halves(batch, record)
                self._refuse(batch[0], record, "failed when merged", error)
        return [self._run_single(call, record.refusal) for call in batch]

    def _computed_ahead(self, call: PendingCall) -> CallResult | None:
        """Result of a call that another device of the replica has computed already."""
        if (take := vars(call.module).get("take_ahead")) is None:
            return None
        mixes = self._use_mixes([call.mix], as_written=call.deterministic)
        with call.isolation.in_place(), mixes:
            output = take(call.arguments, call.keywords)
        if output is None:
            return None
        self._counts_of([call]).computed_ahead()
        return CallResult(output)

    def _record(self, batch: Sequence[PendingCall]) -> MergeRecord | None:
        """Record of calls with the same key; None for a call that runs alone."""
        plan = batch[0].plan
        if plan is None:
            return None
        return self.history.find(batch[0].module, plan, mixed=any(call.mix for call in batch))

    def _merge_plan(self, call: ComponentCall, mix: str) -> MergePlan | str:
        """Merge plan of a call, or the reason why it is not merged."""
        if self._max_batch == 1:
            return "max_batch is 1"
        if not may_merge(call.module, call.cache):
            return "step cache"
        try:
            plan = plan_merge(call, self._digests, self._traits.of(type(call.module)))
        except NotMergeable as refused:
            return str(refused)
        except Exception:
            # Arguments can be of any kind. Running the call alone is always correct.
            log.exception(
                "Planning the merge of a call of %s failed. The call runs alone.",
                type(call.module).__name__,
            )
            return "planning failed"
        if plan.rows.listed and caches_steps(call.module):
            return "step cache"  # cached values have the length of the longest row
        return self.history.find(call.module, plan, mixed=bool(mix)).refusal or plan

    def _why_alone(self, call: PendingCall, *, in_company: bool, limited: bool) -> str:
        if call.alone_because:
            return call.alone_because
        if in_company and self._max_batch > 1 and self.max_calls(call, self._memory.free()) == 1:
            return "memory"
        if limited:
            return "no gain"
        return "other shapes or values" if in_company else _NO_OTHER_CALL

    def _counts_of(self, batch: Sequence[PendingCall]) -> ComponentCounters:
        return self.counts.parts[batch[0].part]

    # One call in a forward of its own.

    def _run_single(self, call: PendingCall, reason: str) -> CallResult:
        counts = self._counts_of([call])
        counts.forward(1)
        counts.not_merged[reason] += 1
        return self._run_alone(call)

    def _run_alone(self, call: PendingCall) -> CallResult:
        with run_in_context(call.isolation.context):
            result = self._try_alone(call)
            if result.did_not_fit:
                self._pressure.relieve()
                result = self._try_alone(call)
            return result

    def _try_alone(self, call: PendingCall) -> CallResult:
        record = self._record([call])
        before = call.versions()
        try:
            with (
                self._measure_alone(call, record),
                call.isolation.in_place(),
                self._use_mixes([call.mix], as_written=call.deterministic),
                as_written_if(call.deterministic, call.module),
                enter_context(call.module, call.generation, call.cache),
            ):
                function = self._graphs.function(call, [call.mix])
                return CallResult(function(*call.arguments, **call.keywords))
        except BaseException as error:
            if not is_out_of_memory(error):
                return CallResult(error=error)
            release_frames(error)
            expected = None if record is None else record.forward_bytes.estimate(1)
            self._pressure.explain(error, call.description(), expected)
            # A step cache's changes cannot be undone.
            same = before == call.versions() and not caches_steps(call.module)
            return CallResult(error=error, did_not_fit=same)

    @contextmanager
    def _measure_alone(self, call: PendingCall, record: MergeRecord | None) -> Generator[None]:
        """Measure a call that runs alone, unless it raises."""
        with_weights = brings_weights(call.module)
        if record is not None:
            with record.measure_forward(1, self._memory, with_weights=with_weights):
                yield
            self._note(call, record)
            return
        with self._memory.measure() as taken:
            yield
        if taken.reliable and not with_weights:
            self.on_forward(call.generation, taken.peak)

    def _note(self, call: PendingCall, record: MergeRecord) -> None:
        if (size := record.forward_bytes.estimate(1)) is not None:
            self.on_forward(call.generation, size)

    # Several calls in one forward.

    def _run_merged(
        self, batch: Sequence[PendingCall], record: MergeRecord, *, computes: bool | None
    ) -> list[CallResult]:
        counts = self._counts_of(batch)
        with_weights = brings_weights(batch[0].module)
        with record.measure_forward(len(batch), self._memory, with_weights=with_weights):
            results, keep = self._forward(batch, record, computes=computes)
        for call in batch:
            self._note(call, record)
        if self._compares(record):
            counts.trial_forwards += 1
            alone, equal = self._verify_merge(batch, record, results, computes=computes)
            record.trust.record_comparison(equal=equal)
            if not equal:
                self._refuse(batch[0], record, "differs when merged")
                for _ in batch:
                    counts.forward(1)
                    counts.not_merged[record.refusal] += 1
                return alone
            counts.trial_forwards += len(batch) - 1
        else:
            keep()  # calls that ran alone have updated their step caches themselves
        record.trust.record_merge()
        counts.forward(len(batch))
        return results

    def _forward(
        self,
        batch: Sequence[PendingCall],
        record: MergeRecord,
        *,
        computes: bool | None,
        by_row: bool = False,
    ) -> tuple[list[CallResult], Keep]:
        """Compute the calls in one forward. The step caches change only when ``Keep`` is called.

        ``by_row``: LoRAs are computed by row also if all calls have the same.
        """
        first, plans = batch[0], [call.plan for call in batch if call.plan is not None]
        arguments, splitter = stack(plans), Splitter.of(plans)
        if not record.trust.merges:
            # Shared tensors are the first generation's own. Clone them until a merge has succeeded.
            arguments = arguments.with_values(map_tensors(torch.clone, arguments.named))
        versions = versions_in(arguments.named)
        mixes = [call.mix for _ in range(plans[0].rows.count) for call in batch]
        names = [call.state_name for call in batch]
        caches = merged_state(first.module, names, splitter, computes=computes)
        with first.isolation.in_place(), self._use_mixes(mixes, by_row=by_row), caches as keep:
            output = arguments.call(self._graphs.function(first, mixes))
        if versions_in(arguments.named) != versions:
            self._counts_of(batch).trial_forwards += 1
            raise _Unmergeable("writes into its inputs")
        return [CallResult(part) for part in splitter.split(output)], keep

    def _compares(self, record: MergeRecord) -> bool:
        """Return whether the next merge is compared with what its calls give alone."""
        return self._verify and record.trust.compares()

    def _verify_merge(
        self,
        batch: Sequence[PendingCall],
        record: MergeRecord,
        results: Sequence[CallResult],
        *,
        computes: bool | None,
    ) -> tuple[list[CallResult], bool]:
        """Results of the calls alone, and whether the merged ``results`` are equal to them."""
        merged = [result.output for result in results]
        dtype = low_precision_dtype(merged, batch[0].module)
        # Run before the calls run alone, because that advances step caches.
        noisy = self._among_copies(batch, record, computes=computes) if dtype else {}
        alone = [self._run_alone(call) for call in batch]
        well = all(result.error is None for result in alone)
        return alone, well and agree(merged, [result.output for result in alone], dtype, noisy)

    def _among_copies(
        self, batch: Sequence[PendingCall], record: MergeRecord, *, computes: bool | None
    ) -> dict[int, Any]:
        """Outputs of calls in a batch of the same size that holds only copies of each, by number.

        One call for each mix of LoRAs: they round, too, the more the larger they are.
        """
        first = {call.mix: number for number, call in reversed([*enumerate(batch)])}
        outputs = dict[int, Any]()
        for number in first.values():
            self._counts_of(batch).trial_forwards += 1
            copies, by_row = [batch[number]] * len(batch), len(first) > 1
            results, _ = self._forward(copies, record, computes=computes, by_row=by_row)
            outputs[number] = results[0].output
        return outputs

    def _run_both_ways(
        self, batch: Sequence[PendingCall], computes: Sequence[bool]
    ) -> list[CallResult]:
        """Run two forwards: one with the calls whose step cache computes, one with the others."""
        results = dict[int, CallResult]()
        for way in (True, False):
            those = [number for number, its in enumerate(computes) if its is way]
            part = self.run([batch[index] for index in those], in_company=True, computes=way)
            results |= zip(those, part, strict=True)
        return [results[number] for number in range(len(batch))]

    def _run_halves(self, batch: Sequence[PendingCall], record: MergeRecord) -> list[CallResult]:
        record.limit.record_oom(len(batch), self._memory.free())
        most = record.limit.max_calls
        log.warning(
            "%d merged calls of %s did not fit in memory; at most %d are merged for now.",
            len(batch),
            type(batch[0].module).__name__,
            most,
        )
        self._memory.release()
        waiting, results = list(batch), list[CallResult]()
        while waiting:
            most = min(most, record.limit.max_calls)
            part, waiting = waiting[:most], waiting[most:]
            if len(part) == 1:
                results.append(self._run_single(part[0], "out of memory"))
            else:
                results += self.run(part, in_company=True)
        return results

    def _use_mixes(
        self, mixes: Sequence[str], *, by_row: bool = False, as_written: bool = False
    ) -> AbstractContextManager[None]:
        if not any(mixes):
            return nullcontext()
        return self._lora_rows.use_mixes(mixes, by_row=by_row, as_written=as_written)

    def _refuse(
        self,
        call: PendingCall,
        record: MergeRecord,
        reason: str,
        error: BaseException | None = None,
    ) -> None:
        record.refusal = reason
        log.warning(
            "Calls of %s with these shapes are no longer merged: %s. No output was lost; the calls "
            "run one by one.",
            type(call.module).__name__,
            reason,
            exc_info=error,
        )
