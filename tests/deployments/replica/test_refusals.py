"""Errors of a pipeline's own checks, as the client of the request gets them."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.replica.failures import as_failure
from deployments.replica.refusals import refusal
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import InvalidInput

WEIGHTS = Weights("/srv/x")
INPUTS = {
    "mask_video_url": {"type": "video", "argument": "mask"},
    "image_size": {"type": "size"},
    "sigmas": {"type": "numbers"},
    "timesteps": {"type": "integers"},
    "image_urls": {"type": "images", "argument": "image"},
    "prompt": {"type": "text"},
}
ENDPOINT = Endpoint("house/x", "video", WEIGHTS, "declared", options={"inputs": INPUTS})


def make_error(
    function: str,
    message: str,
    file: str = "/site-packages/diffusers/x.py",
    kind: type[Exception] = ValueError,
) -> Exception:
    """Error as a function of this name in a file of diffusers raises it."""
    code = compile(f"def {function}():\n raise kind({message!r})", file, "exec")
    scope: dict[str, Any] = {"kind": kind}
    exec(code, scope)  # noqa: S102  only so has the frame the name and the file
    try:
        scope[function]()
    except kind as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("function", "message", "field"),
    [
        ("check_inputs", "`mask` can only be passed if `video` is passed.", "mask_video_url"),
        ("_check_inputs", "`mask` is too long.", "mask_video_url"),
        ("__call__", "`sigmas` must end with 0.", "sigmas"),
        ("retrieve_timesteps", "Only one of `timesteps` or `sigmas` can be passed.", "timesteps"),
        ("retrieve_timesteps", "It does not support custom sigmas schedules.", "sigmas"),
        ("retrieve_timesteps", "It does not support custom timestep schedules.", "timesteps"),
        ("check_inputs", "`height` and `width` have to be divisible by 32.", "image_size"),
        ("check_image_input", "Image too small: 8×8.", "image_urls"),
        ("check_image_input", "Aspect ratio too extreme: 900×64.", "image_urls"),
    ],
)
def test_what_a_check_refuses_is_an_error_of_the_field(
    function: str, message: str, field: str
) -> None:
    refused = refusal(make_error(function, message), ENDPOINT)
    assert isinstance(refused, InvalidInput)
    failure = as_failure(refused)
    assert (failure.code, failure.field, failure.retryable) == ("invalid_input", field, False)
    assert message in failure.message


@pytest.mark.parametrize(
    ("function", "kind", "field"),
    [
        ("cropped_pos_embed", ValueError, "image_size"),
        ("apply_rotary_emb_qwen", RuntimeError, "prompt"),
    ],
)
def test_what_is_larger_than_the_model_is_an_error_of_the_field(
    function: str, kind: type[Exception], field: str
) -> None:
    refused = refusal(make_error(function, "shapes differ", kind=kind), ENDPOINT)
    assert isinstance(refused, InvalidInput)
    failure = as_failure(refused)
    assert (failure.code, failure.field) == ("invalid_input", field)
    assert "this model" in failure.message


class OutOfMemory(RuntimeError):
    """As torch's."""


@pytest.mark.parametrize(
    "error",
    [
        make_error("forward", "the `mask` has another shape"),
        make_error("check_inputs", "the `strength` is missing"),
        make_error("check_inputs", "the `mask` is too long", "/srv/other.py"),
        make_error("__call__", "the `mask` has another shape", kind=RuntimeError),
        make_error("apply_rotary_emb_qwen", "out of memory", kind=OutOfMemory),
    ],
)
def test_any_other_error_is_the_pipelines(error: Exception) -> None:
    assert refusal(error, ENDPOINT) is None
