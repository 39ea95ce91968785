"""Input that a pipeline's own checks refuse, which its schema cannot say."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import InvalidInput
from serve_app.options.inputs import InputType, declared_inputs

CHECK = re.compile(r"_?check_\w*inputs?$|retrieve_timesteps$")
"""Functions of diffusers that refuse arguments of a call, with what they call."""

CALL = "__call__"
"""Refuses arguments by itself. What it calls may fail for any reason."""

SIDES = ("height", "width")
"""Arguments of a size."""

OUTGROWN: Mapping[str, tuple[str, str]] = {
    "cropped_pos_embed": ("height", "The size is larger than this model can make"),
    "apply_rotary_emb_qwen": ("prompt", "The prompt is longer than this model reads. Shorten it"),
}
"""Function of diffusers that fails where an input has more positions than its model knows → the
argument, and what its client is told: errors of shapes name neither."""


def refusal(error: Exception, endpoint: Endpoint) -> InvalidInput | None:
    """Error of the field that the message of a pipeline's check names first, or else the name of
    the check; or of the field that is larger than the model. None: it is neither, or has no
    field."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [code.co_name if "diffusers" in code.co_filename else "" for code in codes]
    checks = [name for name in names if CHECK.match(name)]
    outgrown = next((OUTGROWN[name] for name in names if name in OUTGROWN), None)
    # No subclass of RuntimeError: a lack of memory is one.
    if outgrown is not None and type(error) in (ValueError, RuntimeError):
        words, message = [outgrown[0]], outgrown[1]
    elif isinstance(error, RuntimeError) or (names[-1:] != [CALL] and not checks):
        return None
    else:
        message = str(error)
        words = [*re.findall(r"\w+", message), *"_".join(checks).split("_")]
    fields = {
        argument: name
        for name, field in declared_inputs(endpoint).items()
        for argument in (SIDES if field.type is InputType.SIZE else (field.argument,))
    }
    forms = (form for word in words for form in (word, word.lower(), f"{word}s"))
    argument = next((form for form in forms if form in fields), None)
    return None if argument is None else InvalidInput.of_field(fields[argument], message)
