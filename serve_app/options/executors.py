"""Options of endpoints that ``darkroom deploy`` writes, and executors read."""

from __future__ import annotations

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Misconfigured
from serve_app.options.mistakes import validate


def _checked_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"it must be an http or https URL, not {value!r}")
    return value.rstrip("/")


Url = Annotated[str, AfterValidator(_checked_url)]
Slots = Annotated[int, AfterValidator(lambda number: max(1, number))]


class DeployedOption(BaseModel):
    """Option of an endpoint with what its executor runs. Unknown keys are for others."""

    model_config = ConfigDict(frozen=True)

    @classmethod
    def of(cls, endpoint: Endpoint) -> Self:
        """Raises ``Misconfigured``, which names what is not usable."""
        try:
            return validate(cls, endpoint.executor_option, f"options.{endpoint.executor.option}")
        except ValueError as error:
            raise Misconfigured(
                f"The entry of {endpoint.id} is not usable: {error}. Deploy it again with "
                "`darkroom deploy`."
            ) from error
