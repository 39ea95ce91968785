"""Input that a pipeline's own checks refuse, which its schema cannot say."""

from __future__ import annotations

import re
import traceback

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import InvalidInput
from serve_app.options.inputs import declared_inputs

CHECK = re.compile(r"_?check_\w*inputs?$|retrieve_timesteps$")
"""Functions of diffusers that refuse arguments of a call, with what they call."""

CALL = "__call__"
"""Refuses arguments by itself. What it calls may fail for any reason."""


def refusal(error: Exception, endpoint: Endpoint) -> InvalidInput | None:
    """Error of the field that the message of a pipeline's check names first. None: it is no error
    of a check, or it names no field."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [code.co_name if "diffusers" in code.co_filename else "" for code in codes]
    if names[-1:] != [CALL] and not any(map(CHECK.match, names)):
        return None
    message = str(error)
    fields = {field.argument: name for name, field in declared_inputs(endpoint).items()}
    argument = next((word for word in re.findall(r"\w+", message) if word in fields), None)
    return None if argument is None else InvalidInput.of_field(fields[argument], message)
