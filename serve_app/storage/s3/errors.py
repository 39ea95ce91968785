"""Translation of S3's errors into Darkroom's errors, with the remedy."""

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
    "There is no bucket {bucket} at {place}. Create it, or correct DARKROOM_S3_BUCKET.{style}"
)
_OTHER_REGION = (
    "The bucket {bucket} is in another region than the one in DARKROOM_S3_REGION, and S3 does not "
    "report which. Look up the region and set it."
)
_CLOCK = (
    "S3 refuses requests because the clock of this machine differs from its own. Set the time, and "
    "enable NTP."
)
_SIGNATURE = (
    "S3 rejects the signature: the secret access key does not belong to the access key, or a "
    "proxy in front of S3 changes the Host header. Check DARKROOM_S3_SECRET_ACCESS_KEY and "
    "DARKROOM_S3_ENDPOINT_URL."
)
_KEY = "S3 does not accept the credentials ({code}). Set {credentials}."
_DENIED = (
    "These credentials may not do {doing} on {there}. Allow it in the policy of the bucket or of "
    "the role."
)
_UNKNOWN_TO_IT = (
    "This store does not support a part of {doing}. Set DARKROOM_S3_PROVIDER to its kind; if it is "
    "none of them, try DARKROOM_S3_CONDITIONAL_WRITES=0, DARKROOM_S3_CHECKSUM=none and no "
    "DARKROOM_S3_ENCRYPTION."
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
    "MethodNotAllowed": "This store does not accept {doing} here.{style}",
}
"""Messages by S3's error code, or by status for a HEAD, whose response has no body with a code."""


def code_of(error: BaseException) -> str:
    """S3's error code, or the HTTP status without one; empty if S3 was not reached."""
    if not isinstance(error, ClientError):
        return ""
    response: Mapping[str, Any] = error.response
    return str(response.get("Error", {}).get("Code", ""))


def is_conflict(error: BaseException) -> bool:
    """Return True if an object of this name exists or is being created by another caller."""
    return code_of(error) in _CONFLICT


def explain(error: BaseException, location: S3Location, doing: str) -> DarkroomError:
    """Darkroom's error for ``error``. ``doing`` is the attempted action, such as
    ``s3:PutObject``."""
    if isinstance(error, DarkroomError):
        return error
    if isinstance(error, ClientError):
        return _client_error(error, location, doing)
    if isinstance(error, _NO_CREDENTIALS):
        reason = str(error).rstrip(".")
        return StorageUnavailable(
            f"No credentials for S3 were found ({reason}). Set {CREDENTIALS}."
        )
    if isinstance(error, (BotoCoreError, OSError)):
        return _connection_error(error, location)
    return StorageUnavailable(f"{doing} failed unexpectedly: {type(error).__name__}: {error}")


def no_bucket(location: S3Location) -> StorageUnavailable:
    """Error for a HEAD of the bucket, whose response has no error code."""
    return StorageUnavailable(_sentence("NoSuchBucket", location, "", None) or "")


def _connection_error(error: BaseException, location: S3Location) -> StorageUnavailable:
    where = location.endpoint_url or "AWS"
    if isinstance(error, SSLError) and "CERTIFICATE" not in str(error).upper():
        return StorageUnavailable(
            f"No TLS connection to {where} came about: {error}. If this store speaks plain HTTP, "
            "let DARKROOM_S3_ENDPOINT_URL begin with http://."
        )
    if isinstance(error, SSLError):
        return StorageUnavailable(
            f"The TLS certificate of {where} is not trusted: {error}. Set AWS_CA_BUNDLE to "
            "the certificate file of the authority that signed it."
        )
    if isinstance(error, (ReadTimeoutError, ConnectTimeoutError)):
        return StorageUnavailable(
            f"S3 at {where} does not answer in time. Check whether it is running or overloaded, "
            "and whether a firewall drops the connection."
        )
    if isinstance(error, (EndpointConnectionError, ProxyConnectionError)):
        hint = ""
        if location.endpoint_url and location.path_style is False:
            hint = (
                f" With DARKROOM_S3_PATH_STYLE=0 the host is {location.bucket}.<endpoint>. If DNS "
                "does not know it, set DARKROOM_S3_PATH_STYLE=1."
            )
        return StorageUnavailable(
            f"S3 at {where} cannot be reached. Check that it is running, and that "
            f"DARKROOM_S3_ENDPOINT_URL is correct.{hint}"
        )
    return StorageUnavailable(f"The connection to S3 at {where} broke: {error}.")


def _client_error(error: ClientError, location: S3Location, doing: str) -> DarkroomError:
    code = code_of(error)
    response: Mapping[str, Any] = error.response
    answer = response.get("ResponseMetadata", {})
    headers: Mapping[str, str] = answer.get("HTTPHeaders", {})
    status = int(answer.get("HTTPStatusCode", 0))
    reason = response.get("Error", {}).get("Message") or ""
    region = headers.get("x-amz-bucket-region") or response.get("Error", {}).get("Region")
    if code == "EntityTooLarge":
        return TooLarge("The artifact is larger than the bucket allows.")
    if code in _FULL or status == 507:
        return StorageFull(
            f"There is no space left in {location.description}. Free some, or raise its quota."
        )
    if code in _MISSING:
        return ArtifactNotFound("No such artifact.")
    sentence = _sentence(code, location, doing, region)
    if sentence is None:
        answered = f"S3 answered {doing} on {location.description} with {status} {code}"
        sentence = f"{answered}: {reason.rstrip('.')}." if reason else f"{answered}."
        if status == 400 and location.encryption is not None:
            sentence += " If it does not encrypt by request, unset DARKROOM_S3_ENCRYPTION."
    return StorageUnavailable(sentence)


def _sentence(code: str, location: S3Location, doing: str, region: str | None) -> str | None:
    if code in _REGION and region:
        return (
            f"The bucket {location.bucket} is in the region {region}. Set DARKROOM_S3_REGION to it."
        )
    template = _SENTENCES.get(code)
    if template is None:
        return None
    return template.format(
        code=code,
        doing=doing,
        bucket=location.bucket,
        place=location.endpoint_url or "AWS",
        there=location.description,
        credentials=CREDENTIALS,
        style=_style_hint(location),
    )


def _style_hint(location: S3Location) -> str:
    if not location.endpoint_url:
        return ""
    other = 0 if location.path_style is not False else 1
    return (
        " If it exists, the store expects its name elsewhere in the URL: try "
        f"DARKROOM_S3_PATH_STYLE={other}."
    )
