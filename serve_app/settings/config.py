"""All settings: reading them, and refusing variables that are not settings.

``Config`` holds the settings that are not secret: it is bound into the Serve application and is
therefore stored in Ray's metadata. ``Secrets`` holds the secrets: the ingress reads them in its own
process at its start and does not pass them on. ``refuse_unknown`` refuses variables that start with
``DARKROOM_`` but are not settings, because an ignored typo would be noticed only in production.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    create_model,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from serve_app.domain.errors import Misconfigured
from serve_app.options.mistakes import mistakes_text
from serve_app.settings.groups import (
    PREFIX,
    GatewaySettings,
    LimitSettings,
    LoraSettings,
    ModelSettings,
    QueueSettings,
    ServerSettings,
    SettingsGroup,
    StorageSettings,
    TelemetrySettings,
    WebhookSettings,
    WeightSettings,
)
from serve_app.settings.parts import LIVE
from serve_app.settings.policies import (
    AccessSettings,
    BillingSettings,
    ProvenanceSettings,
    SafetySettings,
)
from serve_app.settings.pools import PoolConfig
from serve_app.settings.sign_in import SignInSettings

OTLP_PROTOCOL = "http/protobuf"

SECRETS_DIR = PREFIX + "SECRETS_DIR"
ADDRESS_FILE = "address.json"
"""Name of the file in the data directory with the address of the ingress."""


class Config(BaseModel):
    """Settings that are not secret, grouped by area.

    The groups exist only in the code. ``Config(lease_s=60)`` takes settings by their own names, as
    a Serve configuration file does in the application's arguments; they have priority over the
    environment.
    """

    model_config = ConfigDict(frozen=True)

    server: ServerSettings
    gateway: GatewaySettings
    telemetry: TelemetrySettings
    models: ModelSettings
    queue: QueueSettings
    billing: BillingSettings
    webhooks: WebhookSettings
    limits: LimitSettings
    storage: StorageSettings
    weights: WeightSettings
    loras: LoraSettings
    sign_in: SignInSettings
    access: AccessSettings
    provenance: ProvenanceSettings
    safety: SafetySettings

    def __init__(self, **settings: Any) -> None:
        groups: dict[str, dict[str, Any]] = {name: {} for name in AREAS}
        # What is given is not merged with the environment: a pool's application gets its own pool,
        # and must not have those of the environment too.
        for name, value in (_from_environment() | settings).items():
            # Every group refuses names that it does not know.
            groups[AREA_OF.get(name, "server")][name] = value
        super().__init__(**groups)

    def with_pools(self, pools: Mapping[str, PoolConfig]) -> Config:
        """These settings with other pools."""
        models = self.models.model_copy(update={"pools": dict(pools)})
        return self.model_copy(update={"models": models})

    def with_live(self, arguments: Mapping[str, Any]) -> Config:
        """These settings with the live ones among ``arguments``, which are all of a file.

        Raises ``Misconfigured`` with every problem of any of them.
        """
        file_config = read_config(arguments)
        changed: dict[str, dict[str, Any]] = {}
        for name in LIVE.intersection(arguments):
            area = AREA_OF[name]
            changed.setdefault(area, {})[name] = getattr(getattr(file_config, area), name)
        groups = {
            area: getattr(self, area).model_copy(update=values) for area, values in changed.items()
        }
        return self.model_copy(update=groups)

    @property
    def address_file(self) -> Path:
        """File with the address of the ingress, for commands on its machine."""
        return self.server.data_dir / ADDRESS_FILE

    @property
    def audit_anchor_file(self) -> Path | None:
        """File for the last hashes of the audit log."""
        return self.queue.audit_anchor_file

    @property
    def tuning_file(self) -> Path:
        """File with what ``darkroom tune`` has measured."""
        return self.models.tuning_file or self.server.data_dir / "tuning.json"


AREAS: Mapping[str, type[SettingsGroup]] = {
    "server": ServerSettings,
    "gateway": GatewaySettings,
    "telemetry": TelemetrySettings,
    "models": ModelSettings,
    "queue": QueueSettings,
    "billing": BillingSettings,
    "webhooks": WebhookSettings,
    "limits": LimitSettings,
    "storage": StorageSettings,
    "weights": WeightSettings,
    "loras": LoraSettings,
    "sign_in": SignInSettings,
    "access": AccessSettings,
    "provenance": ProvenanceSettings,
    "safety": SafetySettings,
}
FIELDS: Mapping[str, FieldInfo] = {
    name: field for group in AREAS.values() for name, field in group.model_fields.items()
}
"""Every setting that is not secret, by its name without prefix, in lower case."""

AREA_OF: Mapping[str, str] = {
    name: area for area, group in AREAS.items() for name in group.model_fields
}


_All = create_model(
    "_All",
    __base__=BaseSettings,
    **cast("Any", {name: (field.annotation, field) for name, field in FIELDS.items()}),
)


class _Environment(EnvSettingsSource):
    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError as error:
            variable = PREFIX + field_name.upper()
            raise Misconfigured(f"{variable} is no JSON: {error}.") from None


def _from_environment() -> dict[str, Any]:
    """Values of the variables that are set, with JSON decoded. Raises ``Misconfigured``."""
    source = _Environment(_All, env_prefix=PREFIX)
    is_set = any(PREFIX.lower() + name in source.env_vars for name in FIELDS)
    return source() if is_set else {}  # it looks for each field in turn


class _SecretFiles(SecretsSettingsSource):
    """Files of ``secrets_dir``. Raises ``Misconfigured`` for one that cannot be read as text."""

    def __call__(self) -> dict[str, Any]:
        try:
            return super().__call__()
        except SettingsError as error:
            problem = "A file in it is not UTF-8 text."
            if isinstance(cause := error.__cause__, OSError):
                problem = f"{cause.filename} cannot be read: {cause.strerror}."
            raise Misconfigured(f"{SECRETS_DIR} is {self.secrets_dir}. {problem}") from None


class Secrets(BaseSettings):
    """Settings that are secret. The ingress reads them at its start, as do commands on its machine:
    from the environment, and those that are not there from the files of ``secrets_dir``."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, env_ignore_empty=True
    )

    secrets_dir: Path | None = Field(
        default=None,
        description="Directory with a file for each secret that the environment does not have, "
        "named as its variable.",
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="URL of PostgreSQL 15 or later. Unset: Darkroom runs its own server.",
    )
    api_key: SecretStr | None = Field(
        default=None, description="First API key, `id:secret`. Unset: Darkroom creates one."
    )
    oidc_client_secret: SecretStr | None = Field(
        default=None,
        description="Secret of Darkroom at the sign-in provider. Unset: it needs none.",
    )
    s3_access_key_id: SecretStr | None = Field(
        default=None, description="Unset: AWS's own environment variables, files and roles."
    )
    s3_secret_access_key: SecretStr | None = Field(default=None)
    signing_key: SecretStr | None = Field(
        default=None,
        description="Private key of `DARKROOM_SIGNING_CERTIFICATE`, as PEM: on the curve P-256.",
    )
    proxy_secret: SecretStr | None = Field(
        default=None,
        description="Secret in the header `X-Darkroom-Proxy-Secret` of a proxy whose "
        "`X-Darkroom-Client` is believed. `darkroom serve` makes its own.",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        # These variables are set to "" in replicas; see SECRET_NAMES.
        return value or None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        directory = env_settings().get("secrets_dir")
        if not directory:
            return init_settings, env_settings
        if not Path(directory).is_dir():
            raise Misconfigured(
                f"{SECRETS_DIR} is {directory}, which is no directory on this machine. Create it "
                "with one file for each secret, or unset it."
            )
        return init_settings, env_settings, _SecretFiles(settings_cls, secrets_dir=directory)

    def by_name(self) -> Mapping[str, str]:
        """The secrets that are set, by their variables."""
        values = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {
            PREFIX + name.upper(): value.get_secret_value()
            for name, value in values
            if isinstance(value, SecretStr)
        }


class OpenTelemetrySettings(BaseSettings):
    """OpenTelemetry's own variables that decide whether spans are exported. Its SDK reads the rest.
    Only the ingress reads them, at its start: some may be secret."""

    model_config = SettingsConfigDict(env_prefix="OTEL_", extra="ignore", frozen=True)

    exporter_otlp_endpoint: str = ""
    exporter_otlp_traces_endpoint: str = ""
    exporter_otlp_protocol: str = ""
    exporter_otlp_traces_protocol: str = ""
    traces_exporter: str = "otlp"
    sdk_disabled: str = ""
    bsp_max_queue_size: str = ""

    @property
    def traces(self) -> bool:
        """Return whether spans are exported. ``Misconfigured``: by a protocol that is not there."""
        endpoint = self.exporter_otlp_traces_endpoint or self.exporter_otlp_endpoint
        exporters = {exporter.strip() for exporter in (self.traces_exporter or "otlp").split(",")}
        disabled = self.sdk_disabled.strip().lower() == "true"
        if not endpoint or disabled or "otlp" not in exporters:
            return False
        protocol = self.exporter_otlp_traces_protocol or self.exporter_otlp_protocol
        if protocol not in ("", OTLP_PROTOCOL):
            raise Misconfigured(
                f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}, and Darkroom exports spans by "
                f"{OTLP_PROTOCOL}. Unset it or set it to {OTLP_PROTOCOL}, with the port of your "
                "collector for it, usually 4318."
            )
        return True

    @property
    def most_waiting(self) -> int:
        """Spans that may wait to be exported. ``Misconfigured`` if it is no whole number."""
        text = self.bsp_max_queue_size.strip() or "2048"
        if not text.isascii() or not text.isdecimal() or int(text) < 1:
            raise Misconfigured(
                f"OTEL_BSP_MAX_QUEUE_SIZE is {text!r}. Set it to a whole number of spans above 0."
            )
        return int(text)


class ClientSettings(BaseSettings):
    """Which Darkroom the commands of ``darkroom`` call. Nothing else reads them."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    url: str | None = Field(
        default=None, description="Origin of the Darkroom that the commands call."
    )
    context: str | None = Field(
        default=None, description="Name of the saved context that the commands use."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return value or None


SECRET_NAMES = tuple(PREFIX + name.upper() for name in Secrets.model_fields)
"""Variables that are set to "" in the processes of replicas."""

AWS_SECRET_NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
"""Variables that are set to "" in replicas too, unless they are for the mirror of weights alone:
when artifacts go to S3 they open their buckets."""

HUB_SECRET_NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""Variables that are set to "" in the ingress, which downloads no weights."""


OTLP_SECRET_NAMES = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
"""Variables that are set to "" too, because they may hold a key of the tracing service."""


def read_config(arguments: Mapping[str, object]) -> Config:
    """Settings from ``arguments`` and the environment; ``arguments`` have priority.

    Raises ``Misconfigured`` with every problem.
    """
    try:
        return Config(**arguments)
    except ValidationError as error:
        mistakes = mistakes_text(Config, error, skip=1, known=FIELDS)  # without the area
        raise Misconfigured(f"The configuration is not valid. {mistakes}.") from None


def setting_names() -> frozenset[str]:
    """Names of all variables that Darkroom reads."""
    names = (*FIELDS, *Secrets.model_fields, *ClientSettings.model_fields)
    return frozenset(PREFIX + name.upper() for name in names)


def refuse_unknown(environ: Mapping[str, str] | None = None) -> None:
    """Raise ``Misconfigured`` if a ``DARKROOM_`` variable is not a setting."""
    known = setting_names()
    variables = os.environ if environ is None else environ  # noqa: TID251 the only reader
    unknown = sorted(name for name in variables if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise Misconfigured(
            f"Unknown setting {', '.join(unknown)}. Correct or unset it. Known settings: "
            f"{', '.join(sorted(known))}."
        )
