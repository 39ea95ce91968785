"""S3's check of a POST with a policy, as AWS describes it: signature, expiry and conditions."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from werkzeug.formparser import parse_form_data

from tests.storage.provider_rules import Refused

UNCHECKED = frozenset({"x-amz-signature", "file", "policy"})


def check_post(
    environ: dict[str, Any], bucket: str, now: datetime, sign: Callable[[str, str], str]
) -> None:
    """Raise ``Refused`` unless the form in the request fulfils its policy. ``sign``: signature of
    a text, for a scope."""
    _, form, files = parse_form_data(environ)
    fields = {name.lower(): value for name, value in form.items()}
    names = {name: file.filename or "" for name, file in files.items()}
    size = sum(len(file.read()) for file in files.values())
    for file in files.values():
        file.close()
    if "file" not in names or "policy" not in fields:
        raise Refused("403 Forbidden", "AccessDenied", "There is no policy, or no file")
    _, _, scope = fields["x-amz-credential"].partition("/")
    if not hmac.compare_digest(sign(fields["policy"], scope), fields["x-amz-signature"]):
        raise Refused("403 Forbidden", "SignatureDoesNotMatch", "It does not match")
    policy = json.loads(base64.b64decode(fields["policy"]))
    if now > datetime.fromisoformat(policy["expiration"].replace("Z", "+00:00")):
        raise Refused("403 Forbidden", "AccessDenied", "Invalid according to Policy: expired")
    fields["key"] = fields["key"].replace("${filename}", names["file"])
    covered = {"bucket"}
    for condition in policy["conditions"]:
        covered.add(_check(condition, {**fields, "bucket": bucket}, size))
    extra = fields.keys() - covered - UNCHECKED
    if extra:
        raise Refused("403 Forbidden", "AccessDenied", f"Extra input fields: {sorted(extra)}")


def _check(condition: Any, fields: Mapping[str, str], size: int) -> str:
    """Check one condition and return the field that it covers."""
    if isinstance(condition, dict):
        ((name, expected),) = condition.items()
        kind = "eq"
    elif condition[0] == "content-length-range":
        if size > condition[2]:
            raise Refused("400 Bad Request", "EntityTooLarge", "The file is too large")
        if size < condition[1]:
            raise Refused("400 Bad Request", "EntityTooSmall", "The file is too small")
        return ""
    else:
        kind, name, expected = condition
    name = name.removeprefix("$").lower()
    value = fields.get(name, "")
    if not (value.startswith(expected) if kind == "starts-with" else value == expected):
        message = f"Invalid according to Policy: Policy Condition failed: {name}"
        raise Refused("403 Forbidden", "AccessDenied", message)
    return name
