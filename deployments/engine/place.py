"""The places in a pipeline's call where a generation can be taken up again.

They are the calls of its denoisers, and after each the first of its autoencoder.
"""

from __future__ import annotations

from deployments.engine.part import Part
from deployments.engine.stand_in import DenoiserCall

Place = frozenset[str] | None
"""Of a generation under way: which methods of autoencoders it has called since its denoiser.
None: it has not called that."""


def place_after(call: DenoiserCall, before: Place) -> Place:
    """Once ``call`` is answered."""
    if call.part is Part.DENOISER:
        return frozenset()
    if name_of(call) and before is not None:
        return before | {name_of(call)}
    return before


def is_place(call: DenoiserCall, here: Place) -> bool:
    """Whether one that waits for ``call`` can be found again by its denoiser calls before."""
    if call.part is Part.DENOISER:
        return True
    return bool(name_of(call)) and here is not None and name_of(call) not in here


def name_of(call: DenoiserCall) -> str:
    """What a snapshot calls it; empty for a denoiser's, which its number tells, and for a text
    encoder's or a chunk's, where none is taken."""
    coded = call.part is Part.AUTOENCODER and call.method != "__call__"
    return f"{call.component}.{call.method}" if coded else ""
