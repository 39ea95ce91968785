"""What sets a secret: a value that endpoints use by name, such as the key of a hosted provider. It
is stored encrypted, and never shown."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from serve_app.domain.errors import InvalidInput
from serve_app.domain.executors.secrets import MAX_VALUE_BYTES, name_problem, value_problem
from serve_app.ingress.resources.calls import Call, Calls, Special
from serve_app.ingress.resources.plain import full
from serve_app.resources.secrets import SECRETS, SecretStatus

MAX_BODY_BYTES = 8 * MAX_VALUE_BYTES  # JSON may escape each byte


class NewSecret(BaseModel):
    """Value of a secret."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    value: str = Field(min_length=1, description=f"At most {MAX_VALUE_BYTES} bytes.")

    @field_validator("value")
    @classmethod
    def _short(cls, value: str) -> str:
        if len(value.encode()) > MAX_VALUE_BYTES:
            raise ValueError(f"should have at most {MAX_VALUE_BYTES} bytes")
        return value


calls = Calls(SECRETS)
ROUTES = calls.routes


@calls.put(
    "Set or replace a secret. Requests that begin from now on use it",
    NewSecret,
    Special(max_bytes=MAX_BODY_BYTES),
)
async def set_secret(call: Call, name: str, new: NewSecret) -> SecretStatus:
    if (problem := name_problem(name)) is not None:
        raise InvalidInput.of_field("name", problem)
    if (problem := value_problem(name, new.value)) is not None:
        raise InvalidInput.of_field("value", problem)
    stored = await call.services.secrets.put(call.owner, name, new.value, call.actor)
    if stored is None:
        raise full(SECRETS)
    return stored
