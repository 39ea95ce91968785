"""The signer of files at the start of an ingress, and in `darkroom doctor`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from serve_app.diagnosis.checks import signing
from serve_app.domain.errors import Misconfigured
from serve_app.ingress.connections import open_signer
from serve_app.postgres.database import Database
from serve_app.provenance.certificates import CERTIFICATES_FILE, LOCAL_NAME
from serve_app.settings import Config, Secrets
from serve_app.telemetry.clock import SystemClock
from serve_app.telemetry.metrics import Metrics
from tests.provenance.certificates import NOW, certificate, pem

CLOCK = SystemClock()
TODAY = CLOCK.now() - NOW


def settings(tmp_path: Path, **changes: Any) -> Config:
    return Config(data_dir=tmp_path, **changes)


async def test_every_ingress_has_the_same_local_signer_and_leaves_its_certificates(
    database: Database, tmp_path: Path
) -> None:
    chains = []
    for name in ("one", "two"):
        folder = tmp_path / name  # which the first start makes
        config = settings(folder, sign_files="local")
        metrics = Metrics(CollectorRegistry())
        signer = await open_signer(database, config, Secrets(), CLOCK, metrics)
        assert (folder / CERTIFICATES_FILE).read_text() == signer.chain
        chains.append(signer.chain)
    assert chains[0] == chains[1] != ""


async def test_without_the_setting_nothing_is_signed_and_no_file_is_written(
    database: Database, tmp_path: Path
) -> None:
    metrics = Metrics(CollectorRegistry())
    signer = await open_signer(database, settings(tmp_path), Secrets(), CLOCK, metrics)
    assert signer.chain == ""
    assert not (tmp_path / CERTIFICATES_FILE).exists()


def test_the_doctor_says_who_signs_and_for_how_long(tmp_path: Path) -> None:
    assert LOCAL_NAME in signing(settings(tmp_path, sign_files="local"), Secrets())
    key, path = ec.generate_private_key(ec.SECP256R1()), tmp_path / "signer.pem"
    config = settings(tmp_path, sign_files="certificate", signing_certificate=str(path))
    secrets = Secrets(signing_key=SecretStr(pem(key)))
    with pytest.raises(Misconfigured, match="cannot be read"):
        signing(config, secrets)
    path.write_text(certificate(key, starts=TODAY - timedelta(days=1), days=365))
    assert "Studio signer, valid until" in signing(config, secrets)
    path.write_text(certificate(key, starts=TODAY - timedelta(days=340), days=365))
    with pytest.raises(Misconfigured, match="in 24 days"):
        signing(config, secrets)
    with pytest.raises(Misconfigured, match="needs DARKROOM_SIGNING_CERTIFICATE"):
        signing(settings(tmp_path, sign_files="certificate"), Secrets())
