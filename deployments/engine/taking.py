"""Takes a snapshot of a suspended generation, on the engine's thread and without a forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from deployments.engine.belongings import Opaque, Packing
from deployments.engine.call_log import CallLog
from deployments.engine.fingerprint import of_arguments
from deployments.engine.frame import frames_of_the_pipeline, place
from deployments.engine.place import name_of
from deployments.engine.snapshot import Origin, Snapshot
from deployments.engine.stand_in import DenoiserCall, GenerationGreenlet
from deployments.engine.step_caches import caches_steps
from serve_app.domain.errors import SnapshotRefused


def take(
    suspended: GenerationGreenlet,
    call: DenoiserCall,
    log: CallLog,
    *,
    origin: Callable[[], Origin],
    adapters: Sequence[str],
    step: int,
    stand_ins: Sequence[Any],
    arguments: Mapping[str, Any],
) -> Snapshot:
    """``call``: what it waits for. ``SnapshotRefused`` where what it has cannot be read."""
    _require_no_state_in(stand_ins)
    _require_known_outputs(log)
    packing = Packing()
    frames, outputs = list[Any](), None
    if log.outputs is not None:
        told: Any = digest_of_call(call)
        outputs = [packing.pack(output) for output in log.outputs]
    else:
        _require_no_functions(arguments)
        frames = suspended.look(lambda: _frames(packing))
        told = _readable(packing, [call.arguments, call.keywords])
    return Snapshot(
        origin(),
        adapters,
        step,
        sorted(each.component for each in stand_ins),
        list(log.calls),
        frames,
        told,
        outputs,
        packing.tensors,
        name_of(call),
    )


def digest_of_call(call: DenoiserCall) -> str:
    return of_arguments({"arguments": call.arguments, "keywords": call.keywords})


@torch.no_grad()
def _frames(packing: Packing) -> list[dict[str, Any]]:
    return [
        {
            "place": place(frame),
            "locals": {name: _readable(packing, it) for name, it in frame.f_locals.items()},
        }
        for frame in frames_of_the_pipeline()
    ]


def _readable(packing: Packing, value: Any) -> Any:
    try:
        return packing.pack(value)
    except Opaque as error:
        raise SnapshotRefused(
            f"The generation holds {error}, which a snapshot cannot. {_WITH_OUTPUTS}"
        ) from None


def _require_no_functions(arguments: Mapping[str, Any]) -> None:
    """A resumed call runs again without computing, and would call them with what is no picture."""
    for name, value in arguments.items():
        if callable(value) and not isinstance(value, torch.nn.Module):
            raise SnapshotRefused(f"The generation calls back ({name}). {_WITH_OUTPUTS}")


def _require_no_state_in(stand_ins: Sequence[Any]) -> None:
    if any(caches_steps(each.real_module) for each in stand_ins):
        raise SnapshotRefused(
            "A step cache is enabled on the denoiser, and what it keeps is in no snapshot."
        )


def _require_known_outputs(log: CallLog) -> None:
    for component, form in log.calls:
        if "'opaque'" in str(form):
            raise SnapshotRefused(f"The {component} returns what no snapshot can hold: {form}.")


_WITH_OUTPUTS = "Submit it with keep_outputs_bytes, and the denoiser's outputs are kept instead."
