"""Presigned POST policies: rights to store the files of a request in a bucket of its client.

The format is S3's: a URL and the fields of a form. One of the fields, ``policy``, is base64 of JSON
with an expiry and conditions, which the bucket's owner has signed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import quote

from serve_app.domain.errors import UploadPolicyFailed

UPLOAD_POLICY_HEADER = "X-App-Fal-Upload-Policy"
FILE_NAME = "${filename}"
"""Part of the key that stands for the name of a file."""

CONTENT_TYPE = "content-type"
MAX_POST_BYTES = 5 * 2**30
"""Largest file of one POST; the limit of S3."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a signed policy demands of a form."""

    expires_at: datetime
    exact: Mapping[str, str]  # values of fields, by their names in lower case
    prefixes: Mapping[str, str]  # what the values of fields begin with
    max_bytes: int | None = None  # of the file; None: no limit

    @classmethod
    def of(cls, policy: str) -> Conditions:
        """Read the field ``policy`` of a form. Raises ``ValueError``."""
        try:
            read = json.loads(base64.b64decode(policy, validate=True))
            expires_at = datetime.fromisoformat(read["expiration"])
            exact, prefixes, most = _sorted_out(read["conditions"])
        except (KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
            raise ValueError(f"it lacks {error}") from error
        if expires_at.tzinfo is None:
            expires_at = expires_at.replace(tzinfo=UTC)
        return cls(expires_at, exact, prefixes, most)

    def names(self, field_name: str) -> bool:
        """Return whether there is a condition for a field. S3 refuses a form with other fields."""
        return field_name in self.exact or field_name in self.prefixes

    def allow(self, field_name: str, value: str) -> bool:
        """Return whether a field may have ``value``."""
        exact, prefix = self.exact.get(field_name), self.prefixes.get(field_name, "")
        return (exact is None or value == exact) and value.startswith(prefix)


def _sorted_out(conditions: Any) -> tuple[dict[str, str], dict[str, str], int | None]:
    exact, prefixes, most = dict[str, str](), dict[str, str](), None
    for condition in cast("Sequence[Any]", conditions):
        if isinstance(condition, Mapping):
            named = cast("Mapping[str, Any]", condition)
            exact |= {name.lower(): str(value) for name, value in named.items()}
            continue
        kind, first, second = condition
        if kind == "content-length-range":
            most = int(second)
        elif kind == "starts-with":
            prefixes[str(first).removeprefix("$").lower()] = str(second)
        else:
            exact[str(first).removeprefix("$").lower()] = str(second)
    return exact, prefixes, most


@dataclass(frozen=True, slots=True)
class UploadPolicy:
    """Right to POST files to a bucket. ``fields`` has the signature, so it is never shown."""

    url: str  # of the bucket
    fields: Mapping[str, str] = field(repr=False)

    @property
    def conditions(self) -> Conditions:
        return Conditions.of(self.fields["policy"])

    @property
    def key_template(self) -> str:
        return self.fields["key"]

    def file_url(self, name: str) -> str:
        """URL of the file ``name`` in the bucket. It is not signed."""
        key = self.key_template.replace(FILE_NAME, name)
        return f"{self.url.rstrip('/')}/{quote(key, safe='/~')}"

    def form(self, name: str, media_type: str) -> tuple[tuple[str, str], ...]:
        """Fields of the form that stores the file ``name``. Raises ``UploadPolicyFailed`` if the
        policy is for files of other types."""
        fields = {**self.fields, "key": self.key_template.replace(FILE_NAME, name)}
        type_field = next((key for key in fields if key.lower() == CONTENT_TYPE), None)
        if type_field is None and self.conditions.names(CONTENT_TYPE):
            type_field = "Content-Type"
            fields[type_field] = media_type
        if type_field is not None and not self._takes(fields[type_field], media_type):
            raise UploadPolicyFailed(
                f"The policy in {UPLOAD_POLICY_HEADER} does not allow a file of {media_type}. "
                'Sign it with the condition ["starts-with", "$Content-Type", ""] and without a '
                "field Content-Type."
            )
        return tuple(fields.items())

    def _takes(self, value: str, media_type: str) -> bool:
        return value == media_type and self.conditions.allow(CONTENT_TYPE, media_type)

    def refusal(self, at: datetime) -> str | None:
        """Why the policy stores nothing at a time; None: it may."""
        expires_at = self.conditions.expires_at
        if at < expires_at:
            return None
        return (
            f"The policy in {UPLOAD_POLICY_HEADER} expired at {expires_at.isoformat()}. Send the "
            "request again with a policy that is valid until the request has ended."
        )

    def to_json(self) -> str:
        return json.dumps({"url": self.url, "fields": dict(self.fields)})

    @classmethod
    def from_json(cls, text: str) -> UploadPolicy:
        """Build it from what ``to_json`` returned."""
        return cls(**json.loads(text))
