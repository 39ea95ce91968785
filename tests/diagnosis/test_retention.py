"""What the doctor says of the ages at which data is deleted."""

from __future__ import annotations

from serve_app.diagnosis.checks import retention
from serve_app.settings import Config, TenantLimits


def test_the_ages_of_the_settings_are_shown() -> None:
    assert retention(Config()) == (
        "requests and files are kept for ever; lines of usage for ever; the audit log 365 days; "
        "drafts 1 day"
    )


def test_tenants_with_an_age_of_their_own_are_counted() -> None:
    own = {"ann": TenantLimits(retention_days=7), "bob": TenantLimits(weight=2)}
    sentence = retention(Config(retention_days=30, tenant_limits=own, usage_detail_days=40))
    assert sentence.startswith("requests and files are kept 30 days, 1 tenants otherwise; ")
    assert "lines of usage 40 days" in sentence
