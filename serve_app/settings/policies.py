"""Settings of what files say of their origin, and of what is generated at all."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from serve_app.domain.media.marking import Marking, MarkPolicy
from serve_app.domain.media.safety import SafetyPolicy
from serve_app.settings.groups import AbsolutePath, SettingsGroup
from serve_app.settings.pools import MAX_URL_VALID_S, FileDefault
from serve_app.settings.safety import CheckerConfig, SafetyRuleConfig, policy_of


class AccessSettings(SettingsGroup):
    """Readers of files."""

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
