"""Resuming: brings a new generation to the call of a snapshot, without a forward.

Its pipeline is called with the same arguments as the first time. Each denoiser call before the
snapshot's call returns a placeholder of the same form as the original output, or the output itself
if the snapshot contains it. With placeholders, the contents of the frames are wrong at that point,
and the snapshot's contents are written into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from deployments.engine.interception.proxy import ComponentCall, GenerationGreenlet
from deployments.engine.interception.stack_frames import frames_of_the_pipeline, place, read, write
from deployments.engine.interception.step_caches import set_states
from deployments.engine.snapshot.call_log import CallLog, name_of, placeholder
from deployments.engine.snapshot.capture import digest_of_call
from deployments.engine.snapshot.format import Snapshot
from deployments.engine.snapshot.state import MissingObject, StateDecoder
from serve_app.domain.errors import SnapshotRefused


class ResumedRun:
    """Resuming of one generation.

    Methods raise ``SnapshotRefused`` when it takes another way through its code than the first one.
    """

    def __init__(self, snapshot: Snapshot, device: str) -> None:
        self.snapshot = snapshot
        self._device = device
        self._unpacking = StateDecoder(snapshot.tensors, device)
        self._answered = 0

    def is_resume_point(self, call: ComponentCall) -> bool:
        """Return whether it is the call that the snapshot waits for."""
        if self._answered != len(self.snapshot.calls) or name_of(call) != self.snapshot.awaits:
            return False
        return self._suspends(call) or bool(self.snapshot.awaits)

    @property
    def has_answered(self) -> bool:
        """Return whether the pipeline has received a placeholder output."""
        return self._answered > 0

    def can_answer(self, call: ComponentCall) -> bool:
        """Return whether ``answer`` can be called for a denoiser's call."""
        _ = call
        return True

    def refusal(self, error: Exception) -> SnapshotRefused:
        """Return the error for ``error``, which the pipeline raised after a placeholder."""
        return SnapshotRefused(
            f"Resuming raised {type(error).__name__} before the snapshot's call: {error}"
        )

    def answer(self, call: ComponentCall, log: CallLog) -> Any:
        """Answer a call before the snapshot's call."""
        if not self._suspends(call):  # it was not known as a denoiser the first time
            log.pass_over(call)
            return call.compute()
        if self._answered == len(self.snapshot.calls):
            raise SnapshotRefused(f"It takes more steps than the original did. {_ANEW}")
        component, form = self.snapshot.calls[self._answered]
        if component != call.component:
            raise SnapshotRefused(f"It called its {call.component}, not its {component}. {_ANEW}")
        try:
            output = placeholder(form, self._device)
            if self.snapshot.outputs is not None:
                output = self._unpacking.put(output, self.snapshot.outputs[self._answered])
        except (ValueError, LookupError, TypeError, RuntimeError, MissingObject) as error:
            raise SnapshotRefused(f"It has an invalid output: {error}. {_ANEW}") from error
        self._answered += 1
        log.add(call, output)
        return output

    def restore(self, suspended: GenerationGreenlet, call: ComponentCall) -> ComponentCall:
        """Restore the contents; return the pending call with the snapshot's arguments."""
        if suspended.dead:
            raise SnapshotRefused(f"The generation ended before the snapshot's call. {_ANEW}")
        if self.snapshot.outputs is not None:
            if digest_of_call(call) != self.snapshot.call:
                raise SnapshotRefused(f"The same outputs led to a different call. {_ANEW}")
            return call
        suspended.look_up(self._write_back)
        try:
            arguments, keywords = self._unpacking.put(
                [call.arguments, call.keywords], self.snapshot.call
            )
        except (LookupError, TypeError, ValueError, RuntimeError, MissingObject) as error:
            raise SnapshotRefused(f"The call has other arguments: {error}. {_ANEW}") from error
        return replace(call, arguments=arguments, keywords=keywords)

    def restore_step_caches(self, proxies: Sequence[Any], generation: int) -> None:
        """Give the step caches of the denoisers the state that the generation had."""
        modules = {proxy.component: proxy.real_module for proxy in proxies}
        for component, tree in self.snapshot.step_caches.items():
            try:
                set_states(modules[component], generation, self._unpacking.put(None, tree))
            except (LookupError, ValueError, TypeError, RuntimeError, MissingObject) as error:
                raise SnapshotRefused(f"Its step cache is another one: {error}. {_ANEW}") from error

    def _suspends(self, call: ComponentCall) -> bool:
        return call.component in self.snapshot.denoisers

    @torch.no_grad()
    def _write_back(self) -> None:
        frames = frames_of_the_pipeline()
        there = [place(frame) for frame in frames]
        if there != [frame["place"] for frame in self.snapshot.frames]:
            raise SnapshotRefused(f"The generation came to a different line of code. {_ANEW}")
        for frame, saved in zip(frames, self.snapshot.frames, strict=True):
            before = read(frame)
            try:
                after = {
                    name: self._unpacking.put(before.get(name), tree)
                    for name, tree in saved["locals"].items()
                }
            except MissingObject as error:
                raise SnapshotRefused(f"At the same call, it has {error}. {_ANEW}") from None
            changed = {
                name: value
                for name, value in after.items()
                if name not in before or before[name] is not value
            }
            write(frame, changed)


_ANEW = "The snapshot cannot be used here. Start the generation from the beginning."
