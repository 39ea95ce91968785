"""What S3 and the way there answer when something is wrong, as sentences that say what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)

from serve_app.domain.errors import (
    ArtifactNotFound,
    DarkroomError,
    StorageFull,
    StorageUnavailable,
    TooLarge,
)
from serve_app.storage.s3.location import S3Location

CREDENTIALS = (
    "DARKROOM_S3_ACCESS_KEY_ID and DARKROOM_S3_SECRET_ACCESS_KEY, or what AWS's own tools read "
    "(AWS_ACCESS_KEY_ID …, a profile, a role of the machine)"
)

_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
_FULL = frozenset({"QuotaExceeded", "InsufficientCapacity", "XMinioStorageFull", "507"})
_REGION = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "301", "400"})
_CONFLICT = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})

_NO_BUCKET = (
    "There is no bucket {bucket} at {place}: make it, or correct DARKROOM_S3_BUCKET.{style}"
)
_OTHER_REGION = (
    "The bucket {bucket} is in another region than DARKROOM_S3_REGION says, and S3 does not tell "
    "which: look it up and set it."
)
_CLOCK = (
    "S3 refuses because the clock of this machine differs from its own: set the time, and let NTP "
    "keep it."
)
_SIGNATURE = (
    "S3 finds the signature wrong: the secret access key does not belong to the access key, or a "
    "proxy between changes the Host header. See DARKROOM_S3_SECRET_ACCESS_KEY and "
    "DARKROOM_S3_ENDPOINT_URL."
)
_KEY = "S3 does not accept the credentials ({code}): set {credentials}."
_DENIED = (
    "These credentials may not do {doing} on {there}: allow it in the policy of the bucket or of "
    "the role."
)
_UNKNOWN_TO_IT = (
    "This store does not know a part of {doing}. If it is the header If-None-Match, set "
    "DARKROOM_S3_CONDITIONAL_WRITES=0."
)

_SENTENCES = {
    "NoSuchBucket": _NO_BUCKET,
    "PermanentRedirect": _OTHER_REGION,
    "IllegalLocationConstraintException": _OTHER_REGION,
    "301": _OTHER_REGION,
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "SignatureDoesNotMatch": _SIGNATURE,
    "InvalidAccessKeyId": _KEY,
    "InvalidToken": _KEY,
    "ExpiredToken": _KEY,
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "AccountProblem": _DENIED,
    "Forbidden": _DENIED,
    "403": _DENIED,
    "NotImplemented": _UNKNOWN_TO_IT,
    "501": _UNKNOWN_TO_IT,
    "MethodNotAllowed": "This store does not take {doing} here.{style}",
}
"""By S3's code; for a HEAD, which has no body to carry one, by the status."""


def code_of(error: BaseException) -> str:
    """S3's own code, or the HTTP status where there is none; empty for what never got there."""
    if not isinstance(error, ClientError):
        return ""
    response: Mapping[str, Any] = error.response
    return str(response.get("Error", {}).get("Code", ""))


def is_conflict(error: BaseException) -> bool:
    """There is an object of this name already, or somebody is about to make it."""
    return code_of(error) in _CONFLICT


def explain(error: BaseException, location: S3Location, doing: str) -> DarkroomError:
    """``doing`` is the action of S3 that was tried, such as ``s3:PutObject``."""
    if isinstance(error, DarkroomError):
        return error
    if isinstance(error, ClientError):
        return _refused(error, location, doing)
    if isinstance(error, _NO_CREDENTIALS):
        said = str(error).rstrip(".")
        return StorageUnavailable(f"No credentials for S3 were found ({said}): set {CREDENTIALS}.")
    if isinstance(error, (BotoCoreError, OSError)):
        return _unreached(error, location)
    return StorageUnavailable(f"{doing} failed unexpectedly: {type(error).__name__}: {error}")


def no_bucket(location: S3Location) -> StorageUnavailable:
    """For a HEAD of the bucket, whose answer names no code."""
    return StorageUnavailable(_sentence("NoSuchBucket", location, "", None) or "")


def _unreached(error: BaseException, location: S3Location) -> StorageUnavailable:
    where = location.endpoint_url or "AWS"
    if isinstance(error, SSLError):
        return StorageUnavailable(
            f"The TLS certificate of {where} is not trusted here: {error}. Set AWS_CA_BUNDLE to "
            "the file of the authority that signed it."
        )
    if isinstance(error, (ReadTimeoutError, ConnectTimeoutError)):
        return StorageUnavailable(
            f"S3 at {where} does not answer in time: see whether it is up, overloaded, or behind "
            "a firewall that drops the connection."
        )
    if isinstance(error, (EndpointConnectionError, ProxyConnectionError)):
        hint = ""
        if location.endpoint_url and location.path_style is False:
            hint = (
                f" With DARKROOM_S3_PATH_STYLE=0 the host is {location.bucket}.<endpoint>: if no "
                "name service knows that, set DARKROOM_S3_PATH_STYLE=1."
            )
        return StorageUnavailable(
            f"S3 at {where} cannot be reached: see whether it runs, and whether "
            f"DARKROOM_S3_ENDPOINT_URL is right.{hint}"
        )
    return StorageUnavailable(f"The connection to S3 at {where} broke: {error}.")


def _refused(error: ClientError, location: S3Location, doing: str) -> DarkroomError:
    code = code_of(error)
    response: Mapping[str, Any] = error.response
    answer = response.get("ResponseMetadata", {})
    headers: Mapping[str, str] = answer.get("HTTPHeaders", {})
    status = int(answer.get("HTTPStatusCode", 0))
    said = str(response.get("Error", {}).get("Message", ""))
    region = headers.get("x-amz-bucket-region") or response.get("Error", {}).get("Region")
    if code == "EntityTooLarge":
        return TooLarge("The artifact is larger than the bucket takes.")
    if code in _FULL or status == 507:
        return StorageFull(
            f"There is no room left in {location.there}: free some, or raise its quota."
        )
    if code in _MISSING:
        return ArtifactNotFound("No such artifact.")
    sentence = _sentence(code, location, doing, region)
    if sentence is None:
        sentence = (
            f"S3 answered {doing} on {location.there} with {status} {code}: {said.rstrip('.')}."
        )
    return StorageUnavailable(sentence)


def _sentence(code: str, location: S3Location, doing: str, region: str | None) -> str | None:
    if code in _REGION and region:
        return (
            f"The bucket {location.bucket} is in the region {region}: set DARKROOM_S3_REGION to it."
        )
    template = _SENTENCES.get(code)
    if template is None:
        return None
    return template.format(
        code=code,
        doing=doing,
        bucket=location.bucket,
        place=location.endpoint_url or "AWS",
        there=location.there,
        credentials=CREDENTIALS,
        style=_style_hint(location),
    )


def _style_hint(location: S3Location) -> str:
    if not location.endpoint_url:
        return ""
    other = 0 if location.path_style is not False else 1
    return (
        " If it is there, the store wants its name elsewhere in the URL: try "
        f"DARKROOM_S3_PATH_STYLE={other}."
    )
