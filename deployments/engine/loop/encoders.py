"""Calls of text encoders and autoencoders (VAE), cached and merged.

They suspend their generation as denoiser calls do, so that other generations run in between and
concurrent calls share a forward. Cached outputs are returned at once, and equal calls of several
generations are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch

from deployments.engine.interception.chunked_decode import OnFrames, compute_in_chunks, is_chunked
from deployments.engine.interception.components import ComponentKind, part_of
from deployments.engine.interception.model_traits import ModelTrait, ModelTraits
from deployments.engine.interception.proxy import ComponentCall, GenerationGreenlet
from deployments.engine.loop.model_runner import ModelRunner
from deployments.engine.loop.pending_call import CallResult, PendingCall
from deployments.engine.loop.prompt_cache import Compute, PromptCache
from deployments.engine.merging.arguments import CannotCopy, bind, tensors_in, versions_in

# Batch limit of autoencoder calls, so that a batch takes no more memory than one large call.

MAX_PIXELS = 2**20
"""Pixels (or audio samples) that are decoded or encoded in one forward, over all calls.

An autoencoder takes some kilobytes for each, so several images of this size would need memory that
was not planned. One image of this size keeps a GPU busy; smaller ones gain from batching.
"""


class AutoencoderBatchLimit:
    """Batch limits of autoencoders. Used on the engine's thread only."""

    def __init__(self) -> None:
        # Pixels per position of the latents, measured at the first decode of each autoencoder.
        self._of_a_place: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    def max_calls(self, call: ComponentCall) -> int:
        """Maximum number of calls like this one in a forward, including it."""
        main_input = _main(call)
        of_a_place = 1.0 if call.method == "encode" else self._of_a_place.get(call.module)
        if main_input is None or of_a_place is None:
            return 1
        return max(1, int(MAX_PIXELS / (_places(main_input) * of_a_place)))

    def record(self, call: ComponentCall, output: Any) -> None:
        """Record the ratio of pixels to latents from an output."""
        main_input, main_output = _main(call), next(tensors_in(output), None)
        if call.method == "decode" and main_input is not None and main_output is not None:
            self._of_a_place[call.module] = _places(main_output) / _places(main_input)


def _main(call: ComponentCall) -> torch.Tensor | None:
    try:
        main = bind(call.module, call.arguments, call.keywords, call.method).main()
    except TypeError:
        return None
    return main if isinstance(main, torch.Tensor) and main.numel() else None


def _places(tensor: torch.Tensor) -> int:
    """Number of positions, without the channels."""
    return tensor.numel() // tensor.shape[1] if tensor.ndim > 2 else tensor.numel()


@dataclass(frozen=True, slots=True, eq=False)
class _UnsharedCall:
    """Marker answer: the generation computes the call itself, in chunks."""

    call: ComponentCall


class Encoders:
    """Encoder and autoencoder calls. Used on the engine's thread only."""

    def __init__(
        self,
        model_runner: ModelRunner,
        prompts: PromptCache,
        traits: ModelTraits,
        in_company: Callable[[], bool],
    ) -> None:
        """``in_company``: returns whether more than one generation is running."""
        self._model_runner = model_runner
        self._prompts = prompts
        self._traits = traits
        self._in_company = in_company
        self._limit = AutoencoderBatchLimit()

    def answer(
        self,
        call: ComponentCall,
        running: GenerationGreenlet,
        *,
        deterministic: bool,
        mix: str = "",
        loras: Sequence[str] = (),
        scope: str = "",
        on_frames: OnFrames | None = None,
    ) -> Any:
        """Return the output of a component that is not a denoiser, owned by the caller.

        Runs inside the generation. A generation that runs alone only gets outputs that were
        computed alone, bit for bit. ``mix``: the mix of LoRAs that changes the component.
        ``loras``: their descriptions, equal for equal LoRAs. ``scope``: within it, outputs are
        reused; see ``GenerationOptions.cache_scope``. ``on_frames``: see
        ``compute_in_chunks``.
        """
        part = part_of(call.module, call.method)
        if part is None or _generates_text(call):
            return self._model_runner.compute_now(call, mix)
        if part is ComponentKind.AUTOENCODER:
            output = running.suspend(replace(call, part=part))
            if isinstance(output, _UnsharedCall):
                return compute_in_chunks(output.call, self._trait(call), on_frames)
            return output
        content = self._prompts.key(call.module, call.arguments, call.keywords)
        if content is not None and mix:
            content = (content, *loras)
        if content is not None and scope:
            content = (scope, content)
        call = replace(call, part=part, content=content)
        if (cached := self._recall(call, mix, deterministic=deterministic)) is not None:
            return cached
        return running.suspend(call)

    def run(self, batch: Sequence[PendingCall], *, in_company: bool) -> list[CallResult]:
        """Compute calls of one part, as ``ModelRunner.run``.

        Calls with equal content are computed once, and cached content is not computed again.
        """
        if is_chunked(batch[0], self._trait(batch[0])):
            return [CallResult(_UnsharedCall(call)) for call in batch]
        if batch[0].part is not ComponentKind.ENCODER:
            results = self._model_runner.run(batch, in_company=in_company)
            self._limit.record(batch[0], results[0].output)
            return results
        results = [self._cached_result(call) for call in batch]
        first: dict[Hashable, PendingCall] = {}
        for call, result in zip(batch, results, strict=True):
            if result is None:
                first.setdefault(_content(call), call)
        computed = self._compute([*first.values()], in_company=in_company)
        return [
            self._own_result(call, first, computed) if result is None else result
            for call, result in zip(batch, results, strict=True)
        ]

    def max_calls(self, call: PendingCall, free: int | None) -> int:
        """Limit of the batch size; see ``ModelRunner.max_calls``."""
        most = self._model_runner.max_calls(call, free)
        if call.part is not ComponentKind.AUTOENCODER:
            return most
        return min(most, self._limit.max_calls(call))

    def _trait(self, call: ComponentCall) -> ModelTrait:
        return self._traits.exact(type(call.module))

    def _cached_result(self, call: PendingCall) -> CallResult | None:
        cached = self._recall(call, call.mix, deterministic=call.deterministic)
        return None if cached is None else CallResult(cached)

    def _recall(self, call: ComponentCall, mix: str, *, deterministic: bool) -> Any:
        exact = deterministic or not self._in_company()
        return self._prompts.recall(call.content, self._again(call, mix), exact=exact)

    def _again(self, call: ComponentCall, mix: str) -> Compute:
        """Computation of a call inside its generation, at once, for tensors that are not kept."""
        inputs = [call.arguments, call.keywords]
        versions = versions_in(inputs)

        def compute() -> Any:
            if versions_in(inputs) != versions:
                raise RuntimeError("The pipeline has written into the arguments of its encoder.")
            return self._model_runner.compute_now(call, mix)

        return compute

    def _compute(
        self, batch: Sequence[PendingCall], *, in_company: bool
    ) -> dict[Hashable, CallResult]:
        """Compute and cache ``batch``; returns the results by content."""
        if not batch:
            return {}
        results = self._model_runner.run(batch, in_company=in_company)
        return {
            _content(call): self._keep_result(call, result, exact=len(batch) == 1)
            for call, result in zip(batch, results, strict=True)
        }

    def _keep_result(self, call: PendingCall, result: CallResult, *, exact: bool) -> CallResult:
        if result.error is not None:
            return result
        compute = self._again(call, call.mix)
        return CallResult(self._prompts.keep(call.content, result.output, compute, exact=exact))

    def _own_result(
        self,
        call: PendingCall,
        first: dict[Hashable, PendingCall],
        computed: dict[Hashable, CallResult],
    ) -> CallResult:
        """Result for ``call`` alone: its own, or what the first equal call reads of its result."""
        content = _content(call)
        result = computed[content]
        if first[content] is call:
            return result
        if result.error is None:
            try:
                compute = self._again(call, call.mix)
                return CallResult(self._prompts.copy_for_hit(content, compute))
            except CannotCopy:
                pass
        return self._model_runner.run([call], in_company=True)[0]


def _content(call: PendingCall) -> Hashable:
    """Cache key of a call. A call without a digest is its own key."""
    return call if call.content is None else call.content


def _generates_text(call: ComponentCall) -> bool:
    """Return whether the call generates text, and so depends on the calls before it.

    A language model gets its cache of earlier tokens back in each call, and some keep more state on
    the module. Such a call runs to its end at once.
    """
    keywords = call.keywords
    return bool(keywords.get("use_cache")) or keywords.get("past_key_values") is not None
