"""Parameters of a call, which are OpenAI's or fields of its endpoint."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from serve_app.catalog.fields.pydantic_schema import invalid_input
from serve_app.domain.errors import InvalidInput
from serve_app.ingress.submission.model_lookup import EndpointFields


class Parameters(BaseModel):
    """OpenAI's parameters of a call. Others are kept, because they may be fields of the endpoint,
    such as ``seed``."""

    model_config = ConfigDict(extra="allow")

    @classmethod
    def read(cls, body: object) -> Self:
        """Parse the body. ``InvalidInput`` names the parameter."""
        if not isinstance(body, dict):
            raise InvalidInput("The body must be a JSON object with the call's parameters.")
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            raise invalid_input(error) from None

    @staticmethod
    def go_on(fields: EndpointFields) -> bool:
        """Check that the call goes on to OpenAI, so that the endpoint takes its parameters."""
        return fields.endpoint.family == "openai"

    def own_fields(self, fields: EndpointFields) -> dict[str, Any]:
        """Fields that only the endpoint knows. ``InvalidInput``: it does not either."""
        more = self.model_extra or {}
        for name in more:
            if not fields.accepts(name):
                message = "Neither a supported parameter nor a field of the endpoint"
                raise InvalidInput.of_field(name, message, "unknown_parameter")
        return dict(more)


def not_here(parameter: str, because: str) -> InvalidInput:
    """Refusal of a parameter that the endpoint cannot apply."""
    message = f"Not supported here: {because}"
    return InvalidInput.of_field(parameter, message, "feature_not_supported")
