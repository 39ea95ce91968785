"""Bounds of the numbers that a request may give, also of those whose declaration has none.

A pipeline does what its arguments say. A text is filled up to ``max_sequence_length`` tokens, for
example, and a tokenizer that has no memory for them ends the process of the replica, with all
requests that run there. So no number of a request is unlimited.
"""

from __future__ import annotations

from serve_app.catalog.fields.audio_fields import MAX_SECONDS
from serve_app.catalog.fields.fields import MAX_SEED, MIN_SEED
from serve_app.options.inputs import LISTED_NUMBERS, DeclaredInput, InputType

Bounds = tuple[float, float]

MAX_INTEGER, MAX_NUMBER = 32_768, 1_000_000.0

_BY_PART: tuple[tuple[str, Bounds], ...] = (
    ("seed", (MIN_SEED, MAX_SEED)),
    ("num_", (0, 1000)),  # such as `prior_num_inference_steps`: solvers know 1,000 timesteps
    ("_length", (1, 4096)),  # tokens
    ("resolution", (0, 4096)),  # pixels of a side
    ("max_area", (1, 4_200_000)),  # pixels
    ("seconds", (-MAX_SECONDS, MAX_SECONDS)),
    ("duration", (0, MAX_SECONDS)),
)
"""Part of an argument's name → its usual bounds."""


def number_bounds(declared: DeclaredInput) -> Bounds:
    """Bounds of a number, or of each number of a list: as declared, else the usual ones, so far
    extended that they contain what is declared."""
    is_list = declared.type in LISTED_NUMBERS
    least = declared.item_least if is_list else declared.least
    most = declared.item_most if is_list else declared.most
    default = declared.default if isinstance(declared.default, list) else [declared.default]
    known = [n for n in (least, most, *default) if isinstance(n, int | float)]
    usual_least, usual_most = _usual(declared)
    return (
        min([usual_least, *known]) if least is None else least,
        max([usual_most, *known]) if most is None else most,
    )


def _usual(declared: DeclaredInput) -> Bounds:
    if declared.type is InputType.ROWS:
        return -MAX_NUMBER, MAX_NUMBER
    for part, bounds in _BY_PART:
        if part in declared.argument:
            return bounds
    whole = declared.type in (InputType.INTEGER, InputType.INTEGERS)
    return (-MAX_INTEGER, MAX_INTEGER) if whole else (-MAX_NUMBER, MAX_NUMBER)
