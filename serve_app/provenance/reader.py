"""Signed manifests of files, read and checked. Needs the extra ``c2pa``, and no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from serve_app.domain.errors import Misconfigured, Unsupported
from serve_app.domain.media.marking import GENERATION


class SignatureState(StrEnum):
    """What a file's signature says."""

    TRUSTED = "trusted"  # unchanged, and its signer was issued by a certificate that is trusted
    UNKNOWN_SIGNER = "unknown_signer"  # unchanged since someone signed it, who may be anyone
    INVALID = "invalid"  # changed after it was signed, or signed wrongly
    UNSIGNED = "unsigned"


@dataclass(frozen=True, slots=True)
class Verified:
    """What the signature of a file says, and what the signer says of its origin."""

    verdict: SignatureState
    signer: str = ""  # common name of the certificate
    issuer: str = ""  # organization of the certificate
    generation: Mapping[str, Any] = field(default_factory=dict[str, Any])  # by Darkroom; or empty
    problems: Sequence[str] = ()  # codes of C2PA, if it is not valid


def verify(file: Path, trusted: str = "") -> Verified:
    """Check the signature of a file. ``trusted``: certificates of signers and issuers, as PEM.

    Raises ``Misconfigured`` without the package, and ``Unsupported`` for types of files that cannot
    have a manifest.
    """
    try:
        from c2pa import C2paError, Context, Reader, Settings  # noqa: PLC0415  # optional
    except ImportError:
        raise Misconfigured(
            "Signatures need the package c2pa-python. Install Darkroom with its extra `c2pa`."
        ) from None
    settings: dict[str, Any] = {
        "version": 1,
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    }
    if trusted:
        settings["trust"] = {"trust_anchors": trusted, "allowed_list": trusted}
    try:
        with Reader(str(file), context=Context(Settings.from_dict(settings))) as reader:
            state, report = str(reader.get_validation_state()), reader.get_validation_results()
            active = cast("Mapping[str, Any]", reader.get_active_manifest() or {})
    except C2paError as error:
        if "ManifestNotFound" in str(error):
            return Verified(SignatureState.UNSIGNED)
        if "NotSupported" in type(error).__name__ or "unsupported" in str(error):
            raise Unsupported(f"{file}: files of this type cannot be signed.") from None
        return Verified(SignatureState.INVALID, problems=(str(error),))
    except (KeyError, ValueError) as error:  # of the package, for manifests that are damaged
        return Verified(
            SignatureState.INVALID, problems=(str(error.args[0] if error.args else ""),)
        )
    return _parse_report(state, active, cast("Mapping[str, Any]", report or {}))


def _parse_report(state: str, active: Mapping[str, Any], report: Mapping[str, Any]) -> Verified:
    verdicts = {"Trusted": SignatureState.TRUSTED, "Valid": SignatureState.UNKNOWN_SIGNER}
    assertions = active.get("assertions", ())
    generations = (
        assertion["data"] for assertion in assertions if assertion.get("label") == GENERATION
    )
    signature = active.get("signature_info", {})
    failures = report.get("activeManifest", {}).get("failure", ())
    return Verified(
        verdict=verdicts.get(state, SignatureState.INVALID),
        signer=str(signature.get("common_name", "")),
        issuer=str(signature.get("issuer", "")),
        generation=next(generations, {}),
        problems=tuple(dict.fromkeys(str(failure["code"]) for failure in failures)),
    )
