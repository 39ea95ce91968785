"""Drafts of an input, and inputs that go on from a draft, a feature that fal's inputs lack."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from serve_app.catalog.fields.fields import COUNT, MAX_SEED, MIN_SEED, SEED, SEEDS, STEPS
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import FieldProblem, InvalidInput
from serve_app.domain.media.draft import (
    DRAFT,
    FROM_DRAFT,
    MAX_DRAFTS,
    NEW_NOISE,
    NOISE_SEED,
    StoredDraft,
)
from serve_app.domain.media.draft_refusals import REFUSALS

STRENGTH = "strength"
LEAST_STEPS = 2
"""A draft makes one step, and leaves one."""

UNCHANGEABLE = (
    "image_size",
    "resolution",
    "aspect_ratio",
    "num_frames",
    "duration",
    "seconds_total",
    *STEPS,
    STRENGTH,
    "scheduler",
    "shift",
    COUNT,
    SEEDS,
)
"""Fields that decide the shape of a draft's latents, or their schedule."""

DEFAULT_COUNT, DEFAULT_UNTIL = 4, 0.25
LEAST_UNTIL, MOST_UNTIL = 0.05, 0.9


class DraftRequest(BaseModel):
    """How many drafts to make, and where each of them stops: at a share of the steps, or where a
    share of the noise is left."""

    model_config = ConfigDict(extra="forbid")

    count: int | None = Field(
        default=None,
        ge=1,
        le=MAX_DRAFTS,
        description=f"Number of drafts; by default {DEFAULT_COUNT}, or one for each of `seeds`.",
    )
    until: float | None = Field(
        default=None,
        ge=LEAST_UNTIL,
        le=MOST_UNTIL,
        description=f"Share of the steps to make; by default {DEFAULT_UNTIL}.",
    )
    noise: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="In place of `until`: share of noise at which to stop; 1 is the beginning.",
    )


Drafting = Annotated[
    DraftRequest | None,
    Field(
        description="Make drafts in place of finished outputs. The files are previews of them, and "
        "`drafts` of the output has the ids for `from_draft`."
    ),
]
FromDraft = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=100,
        description="Id of a draft to finish. Fields that are left out are those of the draft.",
    ),
]
NewNoise = Annotated[
    float | None,
    Field(
        ge=0,
        le=1,
        description="With `from_draft`: share of the draft's noise to replace, for a variation.",
    ),
]
NoiseSeed = Annotated[
    int | None,
    Field(ge=MIN_SEED, le=MAX_SEED, description="With `new_noise`: seed of the new noise."),
]

INPUT_FIELDS: Mapping[str, Any] = {
    DRAFT: (Drafting, None),
    FROM_DRAFT: (FromDraft, None),
    NEW_NOISE: (NewNoise, None),
    NOISE_SEED: (NoiseSeed, None),
}
"""Fields that inputs have in addition, as ``pydantic.create_model`` takes them."""


def makes_drafts(endpoint: Endpoint) -> bool:
    """Return False if the endpoint's options say that it makes none, or name a pipeline class that
    makes none."""
    options = endpoint.options
    return options.get("drafts") is not False and options.get("pipeline") not in REFUSALS


def apply_drafts(
    body: Mapping[str, Any], checked: dict[str, Any], origin: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The valid input ``checked``, with the number of its drafts and without empty fields.

    ``body``: what the client sent. ``origin``: see ``beneath``; None if no draft was found.
    ``InvalidInput`` if the fields contradict each other, or change what a draft has decided.
    """
    for name in [name for name in INPUT_FIELDS if checked.get(name) is None]:
        checked.pop(name, None)
    if FROM_DRAFT not in checked:
        for name in {NEW_NOISE, NOISE_SEED} & checked.keys():
            raise _problem(name, "Input should be left out without `from_draft`", checked[name])
    elif origin is None:
        raise _problem(FROM_DRAFT, "Requests of this kind cannot go on from a draft", None)
    elif DRAFT in checked:
        raise _problem(DRAFT, "Input should be left out if `from_draft` is set", checked[DRAFT])
    else:
        _require_unchanged(body, checked, origin)
    return _drafting(body, checked) if DRAFT in checked else checked


def refuse_drafts(body: Mapping[str, Any]) -> None:
    """Raise ``InvalidInput`` if a body for an endpoint that makes no drafts asks for one: without
    the field, something else would be made."""
    for name in (DRAFT, FROM_DRAFT):
        if body.get(name) is not None:
            raise _problem(name, "This endpoint makes no drafts", body[name])


def beneath(input: Mapping[str, Any], draft: StoredDraft) -> dict[str, Any]:
    """Input of a request that goes on from ``draft`` and changes nothing. ``input``: of the request
    that made the draft."""
    left_out = {*INPUT_FIELDS, SEEDS}
    values = {name: value for name, value in input.items() if name not in left_out}
    return values | {SEED: draft.seed} | ({COUNT: 1} if COUNT in values else {})


def _require_unchanged(
    body: Mapping[str, Any], checked: Mapping[str, Any], origin: Mapping[str, Any]
) -> None:
    for name in UNCHANGEABLE:
        if name in body and checked.get(name) != origin.get(name):
            was = origin.get(name)
            own = "" if was is None else f"{json.dumps(was)} or "
            raise _problem(name, f"Input should be {own}left out: a draft decides it", body[name])
    if body.get(SEED) is not None and checked[SEED] != origin[SEED]:
        raise _problem(
            SEED,
            f"Input should be {origin[SEED]}, the draft's own, or left out. For a variation, set "
            f"`{NEW_NOISE}`",
            body[SEED],
        )


def _drafting(body: Mapping[str, Any], checked: dict[str, Any]) -> dict[str, Any]:
    requested, seeds = checked[DRAFT], checked.get(SEEDS)
    if requested["until"] is not None and requested["noise"] is not None:
        raise _problem(f"{DRAFT}.noise", "Input should be left out if `until` is set", None)
    if body.get(COUNT) is not None and COUNT in checked and checked[COUNT] != 1:
        message = "Input should be left out if `draft` is set: its `count` is the number of drafts"
        raise _problem(COUNT, message, body[COUNT])
    count = requested["count"]
    if seeds is None:
        checked.pop(SEEDS, None)
    elif body.get(SEED) is not None:
        raise _problem(SEED, "Input should be left out if `seeds` is set", body[SEED])
    elif len(seeds) > MAX_DRAFTS:
        raise _problem(SEEDS, f"Input should have at most {MAX_DRAFTS} seeds here", seeds)
    elif count not in (None, len(seeds)):
        message = f"Input has {len(seeds)} seeds, but `draft.count` is {count}"
        raise _problem(SEEDS, message, seeds)
    else:
        count = len(seeds)
    _require_steps(checked)
    where = {"noise": requested["noise"]}
    if requested["noise"] is None:
        where = {"until": requested["until"] or DEFAULT_UNTIL}
    drafting = {"count": count or DEFAULT_COUNT, **where}
    return checked | {DRAFT: drafting} | ({COUNT: 1} if COUNT in checked else {})


def _require_steps(checked: Mapping[str, Any]) -> None:
    name = next((field for field in STEPS if checked.get(field) is not None), None)
    if name is None:
        return  # the pipeline's own
    steps = int(checked[name])
    if steps < LEAST_STEPS:
        raise _problem(name, f"Input should be at least {LEAST_STEPS} for a draft", steps)
    strength = checked.get(STRENGTH)
    if strength is not None and int(steps * strength) < LEAST_STEPS:
        message = f"Input should leave at least {LEAST_STEPS} of {steps} steps for a draft"
        raise _problem(STRENGTH, message, strength)


def _problem(field: str, message: str, value: Any) -> InvalidInput:
    loc = ("body", *field.split("."))
    problem = FieldProblem(loc, message, "value_error", None, value)
    return InvalidInput(f"{field}: {message}", (problem,))
