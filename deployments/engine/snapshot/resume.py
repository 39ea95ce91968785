"""Brings a new generation to the place where a snapshot was taken, without a forward.

Its pipeline is called as the first time, with the same arguments. Each denoiser call before the
snapshot's gets something of the form of the output that it had, or the output itself where the
snapshot has it. Where only the form is there, the contents of the frames are wrong by then, and the
snapshot's are written into them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from deployments.engine.belongings import Misplaced, Unpacking
from deployments.engine.call_log import CallLog, filled
from deployments.engine.frame import frames_of_the_pipeline, place, write
from deployments.engine.place import name_of
from deployments.engine.snapshot import Snapshot
from deployments.engine.stand_in import DenoiserCall, GenerationGreenlet
from deployments.engine.taking import digest_of_call
from serve_app.domain.errors import SnapshotRefused


class Resumption:
    """``SnapshotRefused`` wherever the new generation takes another way than the first."""

    def __init__(self, snapshot: Snapshot, device: str) -> None:
        self.snapshot = snapshot
        self._device = device
        self._unpacking = Unpacking(snapshot.tensors, device)
        self._answered = 0

    def arrived(self, call: DenoiserCall) -> bool:
        """Whether it is the call that the snapshot waits for."""
        if self._answered != len(self.snapshot.calls) or name_of(call) != self.snapshot.awaits:
            return False
        return self._suspends(call) or bool(self.snapshot.awaits)

    @property
    def has_answered(self) -> bool:
        """Whether the pipeline has got something that is not the real output."""
        return self._answered > 0

    def answer(self, call: DenoiserCall, log: CallLog) -> Any:
        """For a call before that one."""
        if not self._suspends(call):  # the first time it was not known as a denoiser
            return call.compute()
        if self._answered == len(self.snapshot.calls):
            raise SnapshotRefused(f"It takes more steps than it took. {_ANEW}")
        component, form = self.snapshot.calls[self._answered]
        if component != call.component:
            raise SnapshotRefused(f"It called its {call.component}, not its {component}. {_ANEW}")
        try:
            output = filled(form, self._device)
            if self.snapshot.outputs is not None:
                output = self._unpacking.put(output, self.snapshot.outputs[self._answered])
        except (ValueError, LookupError, TypeError, RuntimeError, Misplaced) as error:
            raise SnapshotRefused(f"It has an output that cannot be: {error}. {_ANEW}") from error
        self._answered += 1
        log.add(component, output)
        return output

    def restored(self, suspended: GenerationGreenlet, call: DenoiserCall) -> DenoiserCall:
        """The call with the snapshot's arguments, of a generation that has its contents."""
        if suspended.dead:
            raise SnapshotRefused(f"The generation ended before its place. {_ANEW}")
        if self.snapshot.outputs is not None:
            if digest_of_call(call) != self.snapshot.call:
                raise SnapshotRefused(f"The same outputs led to another call. {_ANEW}")
            return call
        suspended.look(self._write_back)
        try:
            arguments, keywords = self._unpacking.put(
                [call.arguments, call.keywords], self.snapshot.call
            )
        except (LookupError, TypeError, ValueError, RuntimeError, Misplaced) as error:
            raise SnapshotRefused(f"The call has other arguments: {error}. {_ANEW}") from error
        return replace(call, arguments=arguments, keywords=keywords)

    def _suspends(self, call: DenoiserCall) -> bool:
        return call.component in self.snapshot.denoisers

    @torch.no_grad()
    def _write_back(self) -> None:
        frames = frames_of_the_pipeline()
        there = [place(frame) for frame in frames]
        if there != [frame["place"] for frame in self.snapshot.frames]:
            raise SnapshotRefused(f"The generation came to another place. {_ANEW}")
        for frame, saved in zip(frames, self.snapshot.frames, strict=True):
            before = dict(frame.f_locals)
            try:
                after = {
                    name: self._unpacking.put(before.get(name), tree)
                    for name, tree in saved["locals"].items()
                }
            except Misplaced as error:
                raise SnapshotRefused(f"It came to its place with {error}. {_ANEW}") from None
            changed = {
                name: value
                for name, value in after.items()
                if name not in before or before[name] is not value
            }
            write(frame, changed)


_ANEW = "The snapshot cannot be used here; start the generation anew."
