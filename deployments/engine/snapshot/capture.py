"""Taking snapshots of suspended generations, on the engine's thread and without a forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from deployments.engine.interception.proxy import ComponentCall, GenerationGreenlet
from deployments.engine.interception.stack_frames import frames_of_the_pipeline, place, read
from deployments.engine.interception.step_caches import states_of
from deployments.engine.snapshot.call_log import CallLog, name_of
from deployments.engine.snapshot.format import Origin, Snapshot, of_arguments
from deployments.engine.snapshot.state import OpaqueObject, StateEncoder
from serve_app.domain.errors import SnapshotRefused


def capture(
    suspended: GenerationGreenlet,
    call: ComponentCall,
    log: CallLog,
    *,
    origin: Callable[[], Origin],
    loras: Sequence[str],
    step: int,
    proxies: Sequence[Any],
    arguments: Mapping[str, Any],
    generation: int,
) -> Snapshot:
    """Take a snapshot. ``call``: the pending call. ``proxies``: of the denoisers.

    ``generation``: its number, by which step caches store its state.

    Raises ``SnapshotRefused`` when the generation holds an object that cannot be saved.
    """
    _require_known_outputs(log)
    encoder = StateEncoder()
    caches = {
        proxy.component: _readable(encoder, states)
        for proxy in proxies
        if (states := states_of(proxy.real_module, generation))
    }
    frames, outputs = list[Any](), None
    if log.outputs is not None:
        arguments_of_call: Any = digest_of_call(call)
        outputs = [encoder.pack(output) for output in log.outputs]
    else:
        _require_no_functions(arguments)
        frames = suspended.look_up(lambda: _frames(encoder))
        arguments_of_call = _readable(encoder, [call.arguments, call.keywords])
    return Snapshot(
        origin(),
        loras,
        step,
        sorted(proxy.component for proxy in proxies),
        list(log.calls),
        frames,
        arguments_of_call,
        outputs,
        encoder.tensors,
        name_of(call),
        caches,
    )


def digest_of_call(call: ComponentCall) -> str:
    return of_arguments({"arguments": call.arguments, "keywords": call.keywords})


@torch.no_grad()
def _frames(encoder: StateEncoder) -> list[dict[str, Any]]:
    return [
        {
            "place": place(frame),
            "locals": {name: _readable(encoder, it) for name, it in read(frame).items()},
        }
        for frame in frames_of_the_pipeline()
    ]


def _readable(encoder: StateEncoder, value: Any) -> Any:
    try:
        return encoder.pack(value)
    except OpaqueObject as error:
        raise SnapshotRefused(
            f"The generation holds {error}, which a snapshot cannot contain. {_WITH_OUTPUTS}"
        ) from None


def _require_no_functions(arguments: Mapping[str, Any]) -> None:
    """A resumed call runs again without computing, so it would call them with wrong data."""
    for name, value in arguments.items():
        if callable(value) and not isinstance(value, torch.nn.Module):
            raise SnapshotRefused(f"The generation has a callback ({name}). {_WITH_OUTPUTS}")


def _require_known_outputs(log: CallLog) -> None:
    for component, form in log.calls:
        if "'opaque'" in str(form):
            raise SnapshotRefused(
                f"The {component} returns what a snapshot cannot contain: {form}."
            )


_WITH_OUTPUTS = "Submit it with keep_outputs_bytes, to keep the denoiser's outputs instead."
