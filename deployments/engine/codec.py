"""Calls of what turns prompts and pictures into what denoisers take, and latents into pictures.

They suspend their generation as those of denoisers do, so that the others step in between, and
those that meet share a forward. What is remembered is answered at once, and what several
generations ask for at the same time is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deployments.engine.chunks import OnFrames, computed, in_chunks
from deployments.engine.declarations import Declaration, Declarations
from deployments.engine.forwards import Forwards
from deployments.engine.outputs import CannotCopy
from deployments.engine.part import Part, part_of
from deployments.engine.pending_call import Answer, PendingCall
from deployments.engine.pixels import Pixels
from deployments.engine.prompt_cache import PromptCache
from deployments.engine.stand_in import DenoiserCall, GenerationGreenlet


@dataclass(frozen=True, slots=True, eq=False)
class _ByItself:
    """In place of an output: the generation computes the call, and is suspended on the way."""

    call: DenoiserCall


class Codec:
    """For the engine's thread alone."""

    def __init__(
        self,
        forwards: Forwards,
        prompts: PromptCache,
        declarations: Declarations,
        company: Callable[[], bool],
    ) -> None:
        """``company``: whether there is more than one generation."""
        self._forwards = forwards
        self._prompts = prompts
        self._declarations = declarations
        self._company = company
        self._pixels = Pixels()

    def answer(
        self,
        call: DenoiserCall,
        running: GenerationGreenlet,
        *,
        deterministic: bool,
        mix: str = "",
        adapters: Sequence[str] = (),
        on_frames: OnFrames | None = None,
    ) -> Any:
        """The output of a component that is no denoiser, for its caller alone; inside of the
        generation. One that is alone gets only what was computed alone, bit for bit.
        ``mix``: of the adapters that change the component; ``adapters``: equal for equal ones.
        ``on_frames``: as ``chunks.computed`` takes it."""
        part = part_of(call.module, call.method)
        if part is None or _writes_on(call):
            return self._forwards.at_once(call, mix)
        if part is Part.AUTOENCODER:
            given = running.suspend(replace(call, part=part))
            if isinstance(given, _ByItself):
                return computed(given.call, self._declared(call), on_frames)
            return given
        content = self._prompts.key(call.module, call.arguments, call.keywords)
        if content is not None and mix:
            content = (content, *adapters)
        if (remembered := self._recall(content, deterministic=deterministic)) is not None:
            return remembered
        return running.suspend(replace(call, part=part, content=content))

    def compute(self, calls: Sequence[PendingCall], *, in_company: bool) -> list[Answer]:
        """As ``Forwards.compute``, for calls of any part. Calls of one content are computed once,
        and none that has been remembered meanwhile."""
        if in_chunks(calls[0].call, self._declared(calls[0].call)):
            return [Answer(_ByItself(each.call)) for each in calls]
        if calls[0].call.part is not Part.ENCODER:
            answers = self._forwards.compute(calls, in_company=in_company)
            if calls[0].call.part is Part.AUTOENCODER:
                self._pixels.learn(calls[0].call, answers[0].output)
            return answers
        answers = [self._remembered(each) for each in calls]
        first: dict[Hashable, PendingCall] = {}
        for call, answer in zip(calls, answers, strict=True):
            if answer is None:
                first.setdefault(_content(call), call)
        computed = self._computed([*first.values()], in_company=in_company)
        for place, call in enumerate(calls):
            if answers[place] is None:
                answers[place] = self._given(call, first, computed)
        return [each for each in answers if each is not None]

    def most(self, pending: PendingCall, free: int | None) -> int:
        """As ``Forwards.most``."""
        most = self._forwards.most(pending, free)
        if pending.call.part is not Part.AUTOENCODER:
            return most
        return min(most, self._pixels.most(pending.call))

    def _declared(self, call: DenoiserCall) -> Declaration:
        return self._declarations.of_itself(type(call.module))

    def _remembered(self, pending: PendingCall) -> Answer | None:
        known = self._recall(pending.call.content, deterministic=pending.deterministic)
        return None if known is None else Answer(known)

    def _recall(self, content: Hashable, *, deterministic: bool) -> Any:
        return self._prompts.recall(content, exact=deterministic or not self._company())

    def _computed(
        self, calls: Sequence[PendingCall], *, in_company: bool
    ) -> dict[Hashable, Answer]:
        """By content, and kept."""
        if not calls:
            return {}
        answers = self._forwards.compute(calls, in_company=in_company)
        for call, answer in zip(calls, answers, strict=True):
            if answer.error is None:
                self._prompts.keep(call.call.content, answer.output, exact=len(calls) == 1)
        return {_content(each): answer for each, answer in zip(calls, answers, strict=True)}

    def _given(
        self,
        pending: PendingCall,
        first: dict[Hashable, PendingCall],
        computed: dict[Hashable, Answer],
    ) -> Answer:
        """The answer to ``pending``, which nobody else gets: its own, or a copy of the first's."""
        content = _content(pending)
        answer = computed[content]
        if first[content] is pending:
            return answer
        if answer.error is None:
            try:
                return Answer(self._prompts.shared(answer.output))
            except CannotCopy:
                pass
        return self._forwards.compute([pending], in_company=True)[0]


def _content(pending: PendingCall) -> Hashable:
    """Of a call of which that cannot be told, its own."""
    return pending if pending.call.content is None else pending.call.content


def _writes_on(call: DenoiserCall) -> bool:
    """A language model that writes gets back what it remembers of each word before, and some keep
    the rest on themselves. It writes to its end."""
    told = call.keywords
    return bool(told.get("use_cache")) or told.get("past_key_values") is not None
