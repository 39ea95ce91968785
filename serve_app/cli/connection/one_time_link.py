"""One-time links that open the page signed in, and their QR codes for a phone."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

from serve_app.cli.connection.client import Client


def offer_link(client: Client, **wish: float) -> Mapping[str, Any]:
    """New one-time link: its ``path`` and ``expires_at``. The token is in the fragment, which
    browsers do not send; the page exchanges it for a key of its own. ``wish``: ``valid_s``."""
    return dict(client.post("/v1/sign-in/links", wish))


def network_lines(link: str) -> Iterator[str]:
    """Lines for a terminal: a link that other machines can open, and its QR code."""
    yield f"From a phone or another machine: {link}\n"
    yield qr_code(link)
    if link.startswith("http:"):
        yield "Without HTTPS, others on the network can read the key that the browser gets."


def qr_code(text: str) -> str:
    """QR code in half blocks, for a dark terminal."""
    import segno  # noqa: PLC0415 only terminals need it

    drawn = io.StringIO()
    segno.make(text, error="l", micro=False).terminal(drawn, border=2, compact=True)
    return drawn.getvalue()
