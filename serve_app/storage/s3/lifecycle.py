"""Lifecycle rules of a bucket, as a backstop to Darkroom's own deletion.

Rules whose id begins with ``darkroom-`` are Darkroom's; those of operators are never changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from botocore.exceptions import ClientError

from serve_app.domain.errors import DarkroomError, Misconfigured
from serve_app.domain.media.file_access import OUTPUTS
from serve_app.storage.keys import PRIVATE
from serve_app.storage.listing import FOLDERS
from serve_app.storage.s3.location import S3Location
from serve_app.storage.s3.storage import S3Storage

Rule = Mapping[str, Any]

OURS = "darkroom-"
DAY = 1
EXPIRING = ("d/", "r/", "s/", PRIVATE + OUTPUTS)
"""Beginnings of the keys of files that end with their request. Clients choose how long uploads
(``u/``) live. Private files of older requests are not told apart from uploads."""

_NO_RULES = frozenset({"NoSuchLifecycleConfiguration"})


def wanted_rules(location: S3Location, expire_days: int | None = None) -> list[Rule]:
    """Rules for the bucket of ``location``, below its prefix. ``expire_days``: after which files of
    requests are deleted; None: never.

    Raises ``Misconfigured`` if the store has no such rules.
    """
    provider = location.provider
    if not provider.lifecycle:
        raise Misconfigured(
            f"{provider.name} does not take S3's lifecycle rules. Set the rules in its own console:"
            " see its page on lifecycle."
        )
    rules = [_rule(location, "check/", {"Expiration": {"Days": DAY}})]
    if provider.aborts_by_lifecycle:
        abort = {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": DAY}}
        # Without a prefix, uploads of others to this bucket must go on.
        folders = ("",) if location.prefix else FOLDERS
        rules += [_rule(location, folder, abort) for folder in folders]
    if expire_days is not None:
        expires = {"Expiration": {"Days": expire_days}}
        rules += [_rule(location, folder, expires) for folder in EXPIRING]
    return rules


def _rule(location: S3Location, folder: str, action: Mapping[str, Any]) -> Rule:
    prefix = location.name(folder)
    name = re.sub(r"[^A-Za-z0-9]+", "-", prefix).strip("-")
    kind = "abort" if "AbortIncompleteMultipartUpload" in action else "expire"
    rule_id = f"{OURS}{kind}-{name}".rstrip("-")
    return {"ID": rule_id, "Status": "Enabled", "Filter": {"Prefix": prefix}, **action}


def missing_rules(required: Sequence[Rule], present: Sequence[Rule]) -> list[str]:
    """Ids of wanted rules that no enabled rule of the bucket covers."""
    enabled = [entry for entry in present if entry.get("Status") == "Enabled"]
    return [rule["ID"] for rule in required if not any(_covers(active, rule) for active in enabled)]


def _covers(present: Rule, required: Rule) -> bool:
    if "Tag" in present.get("Filter", {}) or "And" in present.get("Filter", {}):
        return False
    prefix = present.get("Filter", {}).get("Prefix", present.get("Prefix", ""))
    if not required["Filter"]["Prefix"].startswith(prefix):
        return False
    for action, field in (
        ("AbortIncompleteMultipartUpload", "DaysAfterInitiation"),
        ("Expiration", "Days"),
    ):
        if action in required:
            days = present.get(action, {}).get(field)
            return days is not None and days <= required[action][field]
    return False


async def present_rules(storage: S3Storage) -> list[Rule]:
    """Rules that the bucket has. Raises ``DarkroomError`` if the store does not say them."""
    try:
        answer = await storage.call(
            "s3:GetLifecycleConfiguration", "get_bucket_lifecycle_configuration"
        )
    except DarkroomError as error:
        cause = error.__cause__
        if isinstance(cause, ClientError) and cause.response["Error"]["Code"] in _NO_RULES:
            return []
        raise
    return list(answer.get("Rules", ()))


async def install_rules(storage: S3Storage, rules: Sequence[Rule]) -> list[str]:
    """Put the rules into the bucket, beside those of operators and of other prefixes. Returns the
    ids of new and changed ones. Two installs at once on one bucket: the later one decides."""
    present = await present_rules(storage)
    by_id = {entry["ID"]: entry for entry in present if "ID" in entry}
    changed = [rule["ID"] for rule in rules if by_id.get(rule["ID"]) != rule]
    if changed:
        ids = {rule["ID"] for rule in rules}
        kept = [entry for entry in present if entry.get("ID") not in ids]
        await storage.call(
            "s3:PutLifecycleConfiguration",
            "put_bucket_lifecycle_configuration",
            LifecycleConfiguration={"Rules": [*kept, *rules]},
        )
    return changed
