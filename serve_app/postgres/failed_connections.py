"""Reasons why no connection to a PostgreSQL server that can write is made, in words."""

from __future__ import annotations

import re
from dataclasses import dataclass

READ_ONLY = (
    "The server only reads: it is a standby, or was demoted. Waiting for a primary. With several "
    "hosts in DARKROOM_DATABASE_URL, the primary among them is found."
)
REFUSALS = "password authentication failed", "no pg_hba.conf entry", "does not exist"
"""psycopg gives no SQLSTATE of a connection that was refused, only the server's message."""

_READS = "session is read-only"
_FAILURE = re.compile(
    r"^- host: '?(?P<host>.*?)'?, port: '?(?P<port>.*?)'?, hostaddr: .*?: (?P<error>.*)$", re.M
)
"""A server of several, in psycopg's message about all of them."""


@dataclass(frozen=True, slots=True)
class FailedConnection:
    """Why no connection was made. ``refused``: each server refuses the role, its password or the
    database, which waiting does not change."""

    reason: str
    refused: bool = False


def failed_connection(error: Exception) -> FailedConnection:
    """Failure by the error that psycopg raised for one server, or for all of an address."""
    text = str(error).strip() or type(error).__name__
    of_servers = {
        f"{match['host']}:{match['port']}": match["error"].rpartition(" failed: ")[2]
        for match in _FAILURE.finditer(text)
    }
    if len(of_servers) < 2:
        text = READ_ONLY if _READS in text else text.splitlines()[0]
        return FailedConnection(text, _refuses(text))
    standbys = [server for server, why in of_servers.items() if why == _READS]
    away = {server: why for server, why in of_servers.items() if why != _READS}
    if not away:
        return FailedConnection(READ_ONLY)
    if not standbys:
        all_ = "; ".join(f"{server} ({why})" for server, why in away.items())
        return FailedConnection(f"No server answers: {all_}.", all(map(_refuses, away.values())))
    missing = "; ".join(f"{server} does not answer ({why})" for server, why in away.items())
    reading = "; ".join(f"{server} only reads" for server in standbys)
    return FailedConnection(
        f"No server takes writes: {missing}; {reading} (a standby, or demoted). Start the primary, "
        "or promote the standby."
    )


def _refuses(text: str) -> bool:
    return any(refusal in text for refusal in REFUSALS)
