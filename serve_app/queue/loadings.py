"""What replicas load, as the column ``loading`` of the table ``replicas`` has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.domain.loading import Loading
from serve_app.domain.progress import Stage
from serve_app.queue import wording


def to_json(loading: Sequence[Loading]) -> list[Mapping[str, Any]]:
    return [
        {
            "endpoints": [wording.clean(id_) for id_ in one.endpoints],
            "stage": one.stage,
            "done": one.done,
            "total": one.total,
        }
        for one in loading
    ]


def from_json(found: Sequence[Mapping[str, Any]]) -> tuple[Loading, ...]:
    """A stage that only a newer version knows is left out."""
    return tuple(
        Loading(tuple(one["endpoints"]), Stage(one["stage"]), one["done"], one["total"])
        for one in found
        if one["stage"] in set(Stage)
    )
