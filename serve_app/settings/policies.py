"""Settings of who reads files, what files say of their origin, what is generated at all, and what
it costs."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from serve_app.domain.billing.price import CURRENCY, Price
from serve_app.domain.media.marking import Marking, MarkPolicy
from serve_app.domain.media.safety import SafetyPolicy
from serve_app.settings.bounds import MAX_DAYS
from serve_app.settings.groups import AbsolutePath, SettingsGroup
from serve_app.settings.pools import MAX_URL_VALID_S, FileDefault
from serve_app.settings.safety import CheckerConfig, SafetyRuleConfig, policy_of


class AccessSettings(SettingsGroup):
    """Readers of files, and caches of tenants."""

    share_caches: bool = Field(
        default=False,
        description="Tenants share the outputs of text encoders and the LoRA files in a replica. "
        "Faster and smaller, and the time of a request tells that another tenant used the same.",
    )

    files: FileDefault = Field(
        default="public",
        description="New files are `public`: anyone who knows a URL reads it; or `private`: their "
        "tenant reads them, and anyone with a signed URL.",
    )
    file_url_valid_s: float = Field(
        default=3600.0,
        ge=60,
        le=MAX_URL_VALID_S,
        description="Seconds for which URLs of private files in results are valid at least.",
    )


class ProvenanceSettings(SettingsGroup):
    """What files say of their origin."""

    mark_files: MarkPolicy = Field(
        default=MarkPolicy.ON,
        description="Generated files say that they are AI-generated: `on`, `off`, or `required`: a "
        "file without the mark fails its request.",
    )
    tenant_mark_files: dict[str, MarkPolicy] = Field(
        default_factory=dict, description="The same for individual tenants, by id."
    )

    sign_files: Literal["off", "local", "certificate"] = Field(
        default="off",
        description="Sign marked files (C2PA): with `certificate`, yours; with `local`, one of "
        "this installation, which no public viewer trusts.",
    )
    signing_certificate: AbsolutePath | None = Field(
        default=None,
        description="PEM file with the certificate of the signer and those that issued it.",
    )

    @property
    def marking(self) -> Marking:
        """Policies for marks, of the installation and of tenants."""
        return Marking(self.mark_files, self.tenant_mark_files)


class SafetySettings(SettingsGroup):
    """The operator's policy for prompts, LoRAs and files."""

    safety_rules: tuple[SafetyRuleConfig, ...] = Field(
        default=(), description="Rules; every rule that a request is under applies."
    )
    safety_checkers: dict[str, CheckerConfig] = Field(
        default_factory=dict, description="Checkers of files, by name."
    )

    def policy(self) -> SafetyPolicy:
        """Policy with the words of all files. ``Misconfigured``: see ``policy_of``."""
        return policy_of(self.safety_rules, self.safety_checkers)


class BillingSettings(SettingsGroup):
    """Prices, and what the machines cost."""

    prices: dict[str, Price] = Field(
        default_factory=dict,
        description="Prices by endpoint: `unit`, `amount` and `currency`. They have priority over "
        "those of the catalogue.",
    )
    gpu_hour_costs: dict[str, Annotated[Decimal, Field(ge=0)]] = Field(
        default_factory=dict,
        description="What an hour of a GPU costs, by its class as replicas report it; `*`: others.",
    )
    cost_currency: str = Field(
        default=CURRENCY, pattern=r"^[A-Z]{3}$", description="Currency of these costs."
    )
    fal_prices: dict[str, Price] = Field(
        default_factory=dict,
        description="fal's list prices by endpoint, as you look them up, for the report of costs.",
    )
    usage_detail_days: float | None = Field(
        default=None,
        ge=40,
        le=MAX_DAYS,
        description="Days after which lines of usage are rolled up by day. Unset: never.",
    )
    usage_retention_days: float | None = Field(
        default=None,
        ge=40,
        le=MAX_DAYS,
        description="Days after which usage is deleted, lines and sums by day. Unset: never.",
    )
    deleted_tenant_usage: Literal["named", "anonymous", "nothing"] = Field(
        default="named",
        description="What is kept of the usage of a deleted tenant: sums by day under its name, "
        "under a random one, or nothing.",
    )
