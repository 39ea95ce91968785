"""Failures of attempts as responses."""

from __future__ import annotations

import json

import pytest

from serve_app.domain.outcome import Failure
from serve_app.ingress.submission.failures import failure_reply


@pytest.mark.parametrize(
    ("named", "sent"),
    [
        ("image_too_small", "image_too_small"),
        ("value_error.url.scheme", "value_error.url.scheme"),
        ("ошибка", "value_error"),
        ("a\r\nx-injected: 1", "value_error"),
        ("x" * 5000, "value_error"),
        ("", "value_error"),
        (None, "value_error"),
    ],
)
def test_the_type_that_an_app_names_is_a_header_if_it_can_be_one(
    named: str | None, sent: str
) -> None:
    reply = failure_reply(Failure("invalid_input", "size: bad", False, "size", named))
    assert reply.status_code == 422
    assert reply.headers["x-fal-error-type"] == sent
    assert json.loads(bytes(reply.body))["detail"][0]["type"] == sent
