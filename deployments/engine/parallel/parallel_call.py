"""Calls of denoisers that several devices compute, on rank 0, where the engine runs.

A denoiser's ``forward`` sends the arguments to the other devices, and all of them compute. The
caller notices no difference: batches are merged as usual, and all other components are on one
device. Each call is divided in the way that fits it:

- by rows, if it has several: each device computes some (``row_division``);
- by tokens, if diffusers has a plan for the denoiser (``token_division``);
- together with the next call of the same step, if a pipeline makes two (``lookahead``);
- not at all otherwise, on rank 0 alone.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial, update_wrapper
from itertools import count
from typing import Any
from weakref import finalize

from deployments.engine.accelerator.errors import concerns_device, is_out_of_memory
from deployments.engine.errors import release_frames
from deployments.engine.interception.components import looks_like_denoiser, modules_of
from deployments.engine.interception.isolation import SharedComponents, ThreadState, changes, same
from deployments.engine.interception.model_traits import KNOWN, ModelTraits
from deployments.engine.interception.step_cache_options import CHOOSES_ITSELF, choose_layers
from deployments.engine.interception.step_caches import caches_steps
from deployments.engine.lora.rows import LoraRows, RowMixes
from deployments.engine.merging.arguments import (
    CallArguments,
    bind,
    map_tensors,
    tensors_in,
    versions_in,
)
from deployments.engine.merging.compile import DIVIDES_ROWS
from deployments.engine.merging.parts import RowPart, join_outputs, parts_of
from deployments.engine.merging.plan import MergePlan
from deployments.engine.parallel.group import ParallelGroup
from deployments.engine.parallel.lookahead import Lookahead, SeenCall
from deployments.engine.parallel.messages import (
    Key,
    LoraChange,
    Message,
    Packed,
    ParallelCall,
    Part,
    PartResult,
    can_be_sent,
    pack,
    receive,
    send,
)
from deployments.engine.parallel.row_check import agrees_with_whole
from deployments.engine.parallel.row_division import RowDivision
from deployments.engine.parallel.token_division import TokenDivision
from serve_app.domain.endpoint import Recipe
from serve_app.domain.errors import ReplicaDied, WeightsUnavailable

log = logging.getLogger(__name__)

AGREE_S = 20.0
"""Seconds that a rank whose forward failed waits for the other ranks to fail as well."""

_GLANCE_S = 0.2
_here = threading.local()


@contextmanager
def on_one_device() -> Generator[None]:
    """Inside the block, this thread's calls are computed by this device alone."""
    _here.alone = True
    try:
        yield
    finally:
        _here.alone = False


class ParallelModels:
    """Parallel group on rank 0. Calls run on the engine's thread only; ``add`` on any thread."""

    def __init__(
        self,
        group: ParallelGroup,
        followers_live: Callable[[], bool] = lambda: True,
        on_lost: Callable[[], None] = lambda: None,
        declarations: ModelTraits = KNOWN,
    ) -> None:
        """``on_lost``: called on the engine's thread when the devices are permanently out of step.

        The process must then be replaced: all further calls raise ``ReplicaDied``.
        """
        self.group = group
        self.ways: Counter[str] = Counter()  # calls by the way in which they were divided
        self._followers_live = followers_live
        self._on_lost = on_lost
        self._declarations = declarations
        self._calls = count(1)
        self._forgotten: deque[Key] = deque()  # filled by any thread that collects garbage
        self._broken = ""

    def add(self, number: int, pipeline: Any, recipe: Recipe | None = None) -> None:
        """Compute the pipeline's denoisers on all devices from now on.

        The followers must have added them under the same number. Raises ``WeightsUnavailable`` when
        they cannot be divided among devices.
        """
        for name, module in spreadable(pipeline, recipe).items():
            tokens = token_division(pipeline, module, self.group, self._declarations)
            denoiser = ParallelDenoiser(
                self, (number, name), module, tokens, RowDivision(module, self._declarations)
            )
            module.forward = update_wrapper(partial(denoiser.forward), module.forward)
            module.lora_mirror = denoiser.mirror_loras
            module.take_ahead = denoiser.take_ahead
            vars(module)[CHOOSES_ITSELF] = vars(module)[DIVIDES_ROWS] = True
            # The followers keep their copy until this one is garbage-collected.
            finalize(module, self._forgotten.append, (number, name)).atexit = False

    def close(self) -> None:
        """Release the followers. Call it after the engine is closed."""
        if not self._broken:
            self._broken = "The replica is closed."
            try:
                send(self.group, pack(None))
            except RuntimeError:
                log.info("The other devices of the replica ended before rank 0.")
        self.group.leave()

    # Messages.

    def check(self) -> None:
        """Raise ``ReplicaDied`` when the devices are out of step."""
        if self._broken:
            raise ReplicaDied(self._broken)

    def publish(self, message: Message) -> None:
        """Send a message to all. Raises ``ReplicaDied`` when one of them has died."""
        self.check()
        content = pack(message)
        self._send(content)

    def send_part(self, part: Part, rank: int) -> None:
        self._send(pack(part), (0, rank))

    def outcome(self, rank: int) -> PartResult:
        """Wait for what a rank made of its part. Raises ``ReplicaDied`` when it has died."""
        try:
            return receive(self.group, (rank, 0))
        except RuntimeError as error:
            raise self.break_up("ended") from error

    def call(self, key: Key, *, stacks_bytes: int, whole: Part | None = None, ranks: int) -> int:
        """Announce a call to all; return its number."""
        number = next(self._calls)
        forgotten = [self._forgotten.popleft() for _ in range(len(self._forgotten))]
        thread = ThreadState.of_this_thread()
        self.publish(ParallelCall(number, key, thread, whole, ranks, forgotten, stacks_bytes))
        return number

    def all_failed(self, number: int) -> bool:
        """Return whether all followers failed in the same call, so that all are in step again."""
        for rank in range(1, self.group.size):
            glances = int(AGREE_S / _GLANCE_S)
            while not self.group.wait_for(failure_key(number, rank), _GLANCE_S):
                glances -= 1
                if not glances or not self._followers_live():
                    return False
        self.group.publish(agreement_key(number))
        return True

    def break_up(self, how: str = "") -> ReplicaDied:
        """Give up the devices; return the error of all calls from now on."""
        how = how or ("failed alone" if self._followers_live() else "ended")
        self._broken = (
            f"One of the replica's {self.group.size} devices {how}; the replica is being replaced."
        )
        self._on_lost()
        return ReplicaDied(self._broken)

    def _send(self, content: Packed, between: tuple[int, int] | None = None) -> None:
        try:
            send(self.group, content, between)
        except RuntimeError as error:
            # The follower may not count as ended yet: a process's connections close before it ends.
            raise self.break_up("ended") from error


class ParallelDenoiser:
    """Denoiser on rank 0 whose calls are divided among the devices."""

    def __init__(
        self,
        models: ParallelModels,
        key: Key,
        module: Any,
        tokens: TokenDivision | None,
        rows: RowDivision,
    ) -> None:
        self._models = models
        self._key = key
        self._module = module
        self._forward = module.forward  # on this device
        self._tokens = tokens
        self._rows = rows
        self._lookahead = Lookahead()
        self._next: tuple[Any, CallArguments] | None = None  # expected after the running call
        self._too_small = set[tuple[Any, ...]]()  # shapes that cannot be divided by tokens
        self._shared = SharedComponents([module])
        self._processors = self._shared.processors.current()
        self._settings = self._shared.settings.current(self._processors)
        self._loras: LoraRows | None = None

    def mirror_loras(self, rows: LoraRows) -> Callable[..., None]:
        """Return what makes the changes of this denoiser's LoRAs on the other devices as well."""
        self._loras = rows

        def change(operation: str, *arguments: Any) -> None:
            # When a device is lost, the next call says so.
            with suppress(ReplicaDied):
                self._models.publish(LoraChange(self._key, operation, arguments))

        return change

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """Compute a call, on as many devices as its way allows."""
        if getattr(_here, "alone", False):
            return self._compute(*arguments, **keywords)
        self._models.check()
        way = self._way(arguments, keywords)
        self._models.ways[way if isinstance(way, str) else BY_ROWS] += 1
        if isinstance(way, MergePlan):
            return self._by_rows(way, arguments, keywords)
        if way == AHEAD:
            return self._with_next(arguments, keywords)
        if way == BY_TOKENS:
            return self._by_tokens(arguments, keywords)
        return self._compute(*arguments, **keywords)

    def take_ahead(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any | None:
        """Return the output of a call if another device has computed it already; else None."""
        if not self._has_usual_settings():
            return None
        return self._lookahead.take(bind(self._module, arguments, keywords), self._mixes)

    def _way(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> MergePlan | str:
        """Plan of a call that is divided by rows, ``BY_TOKENS``, or why it is not divided."""
        if caches_steps(self._module):
            return "step cache"
        if not self._has_usual_settings():
            return "own settings"
        if not can_be_sent((arguments, keywords)):
            return "opaque argument"
        plan, size = self._rows.plan(arguments, keywords), self._models.group.size
        tokens = self._tokens is not None and self._shapes(arguments, keywords) not in (
            self._too_small
        )
        if isinstance(plan, str):
            # Two calls at a time take all of two devices, which then exchange no tokens.
            if (not tokens or size == _CALLS_AHEAD) and self._expects_next(arguments, keywords):
                return AHEAD
            return BY_TOKENS if tokens else plan
        # Devices that compute fewer rows than others would wait for them.
        return BY_TOKENS if tokens and plan.rows.count % size else plan

    def _expects_next(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
        try:
            bound = bind(self._module, arguments, keywords)
        except TypeError:
            return False
        self._lookahead.learn(bound, self._mixes)
        self._next = self._lookahead.next_after(bound)
        return self._next is not None

    def _has_usual_settings(self) -> bool:
        """Return whether the generation has changed nothing on the denoiser of this device."""
        processors = self._shared.processors.current()
        if not same(processors, self._processors):
            return False
        return not changes(self._settings, self._shared.settings.current(processors))

    @staticmethod
    def _shapes(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(tensor.shape for tensor in tensors_in((arguments, keywords)))

    def _compute(self, *arguments: Any, **keywords: Any) -> Any:
        """Compute on this device alone, with the layers for the mixes that are set."""
        choose_layers(self._module)
        return self._forward(*arguments, **keywords)

    @property
    def _mixes(self) -> RowMixes:
        return RowMixes() if self._loras is None else self._loras.mixes

    @property
    def _stacks_bytes(self) -> int:
        return 0 if self._loras is None else self._loras.room_bytes

    def _use(self, mixes: RowMixes) -> AbstractContextManager[None]:
        return nullcontext() if self._loras is None else self._loras.use(mixes)

    # By rows.

    def _by_rows(
        self, plan: MergePlan, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> Any:
        trust = self._rows.trust(plan)
        compares = trust.compares()
        parts = parts_of(plan, min(plan.rows.count, self._models.group.size))
        if not trust.merges:  # it may write into its inputs, which then are still needed
            named = map_tensors(lambda tensor: tensor.clone(), parts[0].arguments.named)
            parts = [RowPart(parts[0].arguments.with_values(named), parts[0].rows), *parts[1:]]
        versions = versions_in(parts[0].arguments.named)
        try:
            outputs = self._compute_parts(parts)
            counts = [part.count for part in parts]
            output = join_outputs(outputs, counts, listed=plan.rows.listed)
        except Exception as error:
            if isinstance(error, ReplicaDied) or is_out_of_memory(error) or concerns_device(error):
                raise
            release_frames(error)
            self._rows.refuse(plan, "failed when divided", error)
            return self._compute(*arguments, **keywords)
        if versions_in(parts[0].arguments.named) != versions:
            self._rows.refuse(plan, "writes into its inputs")
            return self._compute(*arguments, **keywords)
        if compares:
            whole = partial(self._compute, *arguments, **keywords)
            checked = agrees_with_whole(
                plan, parts, outputs, whole, self._compute, self._module, self._mixes, self._use
            )
            if checked is not None:
                trust.record_comparison(equal=checked.equal)
                if not checked.equal:
                    self._rows.refuse(plan, "differs when divided")
                    return checked.whole
        trust.record_merge()
        return output

    def _compute_parts(self, parts: Sequence[RowPart]) -> list[Any]:
        """Compute each part by a rank. Raises the first error, when all ranks are in step again."""
        own, others = self._compute_each(
            [(part.arguments, self._mixes.of(part.rows)) for part in parts]
        )
        for outcome in others:
            if outcome.error is not None:
                raise outcome.error
        return [own, *(result.output for result in others)]

    def _compute_each(
        self, calls: Sequence[tuple[CallArguments, RowMixes]]
    ) -> tuple[Any, Sequence[PartResult]]:
        """Compute calls, with their mixes of LoRAs, each by a rank, the first one here.

        Raises the error of the first one, when all ranks are in step again.
        """
        self._models.call(self._key, stacks_bytes=self._stacks_bytes, ranks=len(calls))
        for rank, (arguments, mixes) in enumerate(calls[1:], start=1):
            positional, named = arguments.call(lambda *a, **k: (a, k))
            self._models.send_part(Part(positional, named, mixes), rank)
        error: BaseException | None = None
        own = None
        try:
            with self._use(calls[0][1]):
                own = calls[0][0].call(self._compute)
        except BaseException as raised:
            error = raised
            release_frames(error)
            if is_out_of_memory(error):  # what the others made needs a little
                self._models.group.accelerator.memory.release()
        outcomes = [self._models.outcome(rank) for rank in range(1, len(calls))]
        if error is not None:
            raise error
        return own, outcomes

    # With the call that comes next.

    def _with_next(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        pending, self._next = self._next, None
        if pending is None:
            raise RuntimeError("No call is expected.")
        key, following = pending
        bound, mixes = bind(self._module, arguments, keywords), self._mixes
        expected = SeenCall.of(following, mixes)
        own, (other,) = self._compute_each([(bound, mixes), (following, mixes)])
        if other.error is None:  # else the call, when it comes, has it as its own
            self._lookahead.keep(key, expected, other.output)
        return own

    # By tokens.

    def _by_tokens(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        if self._tokens is None:
            raise RuntimeError("The denoiser is not divided by tokens.")
        mixes = replace(self._mixes, as_written=True)
        whole = Part(arguments, keywords, mixes)
        number = self._models.call(
            self._key,
            stacks_bytes=self._stacks_bytes,
            whole=whole,
            ranks=self._models.group.size,
        )
        try:
            with self._use(mixes), self._tokens.active():
                return self._compute(*arguments, **keywords)
        except BaseException as error:
            if not self._models.all_failed(number):
                raise self._models.break_up() from error
            if not isinstance(error, Exception) or is_out_of_memory(error):
                raise
            release_frames(error)
            log.info("A call is not divided by tokens: %s", error)
        self._too_small.add(self._shapes(arguments, keywords))
        return self._compute(*arguments, **keywords)


BY_ROWS = "rows"
BY_TOKENS = "tokens"
AHEAD = "with the next call"
_CALLS_AHEAD = 2  # one, and the next


# Which pipelines can be divided.


def spreadable(pipeline: Any, recipe: Recipe | None = None) -> Mapping[str, Any]:
    """Denoisers by name. Raises ``WeightsUnavailable``, with the reason, if it cannot divide."""
    denoisers = {
        name: module for name, module in modules_of(pipeline) if looks_like_denoiser(name, module)
    }
    reasons = [_refusal(name, denoiser, recipe) for name, denoiser in denoisers.items()]
    refusals = [refusal for refusal in reasons if refusal]
    if refusals or not denoisers:
        reason = refusals[0] if refusals else "it has no known denoiser"
        raise WeightsUnavailable(
            f"{type(pipeline).__name__} cannot be computed by several devices: {reason}. Serve "
            "this endpoint by a pool with one device for each replica."
        )
    return denoisers


def token_division(
    pipeline: Any, module: Any, group: ParallelGroup, declarations: ModelTraits
) -> TokenDivision | None:
    """Prepare a denoiser for division by tokens; None if it cannot be divided so."""
    rules = [declarations.of(type(owner)) for owner in (pipeline, module)]
    if getattr(module, "_cp_plan", None) is None or any(rule.ulysses_refusal for rule in rules):
        return None
    try:
        return TokenDivision(module, group)
    except ValueError as error:
        log.warning("A %s is divided by rows only: %s", type(module).__name__, error)
        return None


def _refusal(name: str, module: Any, recipe: Recipe | None) -> str:
    if caches_steps(module):
        return f"its {name} has a step cache"
    if recipe is not None and recipe.offload != "none" and name not in recipe.hot:
        return f"the recipe for {recipe.memory_gb:g} GB keeps its {name} in host memory"
    return ""


def failure_key(number: int, rank: int) -> str:
    """Key of a follower's message that its forward has failed."""
    return f"failed {number} {rank}"


def agreement_key(number: int) -> str:
    """Key of rank 0's message that all forwards have failed."""
    return f"agreed {number}"
