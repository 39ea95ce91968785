"""Program over fal's Python client that knows nothing of Darkroom. It prints a JSON line a call.

``ALIASES_PORT`` in the environment points fal's names to that port of this machine, as aliases in
DNS would point them to port 443.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from typing import Any

PROBE = "test/probe"


def alias(port: int) -> None:
    real = socket.getaddrinfo

    def aliased(host: Any, service: Any, *more: Any, **named: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if name.endswith((".fal.run", ".fal.ai", ".fal.media")) or name == "fal.run":
            return real("127.0.0.1", port, *more, **named)
        return real(host, service, *more, **named)

    socket.getaddrinfo = aliased


def report(name: str, call: Callable[[], Any]) -> None:
    try:
        line = {"value": call()}
    except Exception as error:  # print what a caller would see
        line = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps({"name": name, **line}), flush=True)  # noqa: T201


def main() -> None:
    import fal_client  # noqa: PLC0415 it reads the environment, so the aliases must be set first

    def cancelled() -> str:
        handle = fal_client.submit(PROBE, {"sleep_s": 60})
        handle.cancel()
        try:
            handle.get()
        except fal_client.FalClientHTTPError as error:
            return str(error.error_type)
        return "not cancelled"

    def heard(*, use_jwt: bool) -> Any:
        with fal_client.realtime(PROBE, use_jwt=use_jwt) as session:
            for number in range(2):
                session.send({"echo": number, "request_id": f"r-{number}"})
            return [[(got := session.recv() or {})["echo"], got["request_id"]] for _ in range(2)]

    def streamed() -> Any:
        return [event.get("echo") for event in fal_client.stream(PROBE, {"echo": 4})][-1]

    report("run", lambda: fal_client.run(PROBE, {"echo": 1})["echo"])
    report("subscribe", lambda: fal_client.subscribe(PROBE, {"echo": 2})["echo"])
    report("submit", lambda: fal_client.submit(PROBE, {"echo": 3}).response_url)
    report("cancel", cancelled)
    report("stream", streamed)
    report("realtime", lambda: heard(use_jwt=False))
    if "FAL_RUN_HOST" not in os.environ:  # noqa: TID251 otherwise it goes to fal, see docs/how-to/use-other-clients.md
        report("realtime with a token", lambda: heard(use_jwt=True))
        report("upload", lambda: fal_client.upload(b"abc", "image/png"))


if __name__ == "__main__":
    aliases = os.environ.get("ALIASES_PORT")  # noqa: TID251 set by the test
    if aliases is not None:
        alias(int(aliases))
    main()
