"""How often a request that failed may be tried again, by what went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

MOST_FAILURES = 10
"""Of a request that says itself how often it may be tried again; fal's limit on attempts."""


class Cause(StrEnum):
    """What ended an attempt that another may do better, by fal's names."""

    TIMEOUT = "timeout"  # its replica answered no more: the lease ran out
    SERVER_ERROR = "server_error"  # an error that says that another attempt can help
    CONNECTION_ERROR = "connection_error"  # its replica died


@dataclass(frozen=True, slots=True)
class Retries:
    """What is left, each cause by itself."""

    timeout: int = 0
    server_error: int = 0
    connection_error: int = 0

    def left(self, cause: Cause) -> int:
        return {**asdict(self)}[cause.value]

    def after(self, cause: Cause) -> Retries:
        """One less."""
        return replace(self, **{cause.value: self.left(cause) - 1})


NONE = Retries()


def granted(
    wished: Mapping[Cause, int] | None, max_failures: int
) -> tuple[Retries | None, tuple[str, ...]]:
    """What a request gets that asks for so many, and what it is told where that is less.

    None: it asks for nothing, and the installation's rule holds. A cause that is not named has as
    many as by that rule. Those that cost a replica each are the operator's to limit; any request
    may have fewer.
    """
    if wished is None:
        return None, ()
    usual = max_failures - 1
    most = {
        Cause.TIMEOUT: usual,
        Cause.SERVER_ERROR: MOST_FAILURES - 1,
        Cause.CONNECTION_ERROR: usual,
    }
    allowed = {cause.value: min(wished.get(cause, usual), most[cause]) for cause in Cause}
    warnings = tuple(
        f"X-Fal-Retry-Config asks for {wished[cause]} retries after a {cause.value}; this "
        f"installation allows {most[cause]}."
        for cause in Cause
        if wished.get(cause, 0) > most[cause]
    )
    return Retries(**allowed), warnings
