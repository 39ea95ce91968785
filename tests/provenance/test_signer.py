"""Signatures for replicas."""

from __future__ import annotations

from datetime import timedelta

import pytest

from serve_app.domain.errors import Fenced, Misconfigured, Unsupported
from serve_app.domain.lease import LeaseKey
from serve_app.provenance.certificates import LOCAL_UNTIL
from serve_app.provenance.signer import MAX_CLAIM_BYTES, ClaimSigner
from tests.captured_logs import CapturedLogs
from tests.fakes.file_signer import FakeFileSigner

HELD = LeaseKey("one", 1)


async def test_only_the_holder_of_a_lease_gets_a_signature() -> None:
    signer = FakeFileSigner()
    assert len(await signer.sign_claim(HELD, b"claim")) == 64
    signer.lost.add(HELD)
    with pytest.raises(Fenced):
        await signer.sign_claim(HELD, b"claim")
    assert signer.counted == ["signed", "refused"]


async def test_nothing_is_signed_after_the_certificate_has_expired() -> None:
    signer = FakeFileSigner()
    signer.now = LOCAL_UNTIL + timedelta(days=1)
    with pytest.raises(Misconfigured, match="expired"):
        await signer.sign_claim(HELD, b"claim")


async def test_a_file_in_place_of_a_claim_is_refused() -> None:
    signer = FakeFileSigner()
    with pytest.raises(Unsupported):
        await signer.sign_claim(HELD, bytes(MAX_CLAIM_BYTES + 1))


async def test_an_installation_that_does_not_sign_says_so() -> None:
    async def held(_: LeaseKey) -> bool:
        return True

    counted: list[str] = []
    signer = ClaimSigner(None, held, counted.append, lambda: LOCAL_UNTIL)
    assert signer.chain == ""
    with pytest.raises(Unsupported):
        await signer.sign(HELD, b"claim")
    assert counted == ["refused"]


async def test_a_file_that_stays_unsigned_is_counted_and_logged(
    caplog: CapturedLogs,
) -> None:
    signer = FakeFileSigner()
    await signer.report_unsigned(HELD, "no package")
    assert signer.counted == ["unsigned"]
    assert "request one is not signed: no package" in caplog.text
