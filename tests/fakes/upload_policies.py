"""Policies as a client signs them for its bucket, for tests in which nothing is stored there."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from serve_app.domain.media.upload_policy import UploadPolicy

BUCKET = "https://acme.s3.eu-central-1.amazonaws.com/"
SIGNATURE = "c0ffee" * 10


def sign_policy(valid_s: float = 3600, conditions: list[Any] | None = None, **fields: str) -> Any:
    """Value of the header. ``fields`` replace those of the form."""
    expires_at = datetime.now(UTC) + timedelta(seconds=valid_s)
    policy = {
        "expiration": expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "conditions": [
            {"bucket": "acme"},
            ["starts-with", "$key", "out/"],
            ["starts-with", "$Content-Type", ""],
            ["content-length-range", 1, 1000],
        ]
        if conditions is None
        else conditions,
    }
    policy_fields = {
        "key": "out/${filename}",
        "policy": base64.b64encode(json.dumps(policy).encode()).decode(),
        "x-amz-signature": SIGNATURE,
    }
    return {"url": BUCKET, "fields": policy_fields | fields}


def upload_policy(valid_s: float = 3600) -> UploadPolicy:
    value = sign_policy(valid_s)
    return UploadPolicy(value["url"], value["fields"])
