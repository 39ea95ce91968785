"""Ingress over a real directory, in a process of its own, so that its memory can be measured.

usage: python -m tests.wire.upload_server DIRECTORY; prints its URL and a key, and ends with its
standard input.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvicorn

from serve_app.storage.directory import DirectoryStorage
from serve_app.telemetry.clock import SystemClock
from tests.ingress.house import build_house


async def main(directory: Path) -> None:
    storage = DirectoryStorage(directory, b"k" * 32, "http://127.0.0.1", SystemClock())
    async with build_house(storage=storage, replica=False) as house:
        config = uvicorn.Config(
            house.app, host="127.0.0.1", port=0, log_config=None, lifespan="off", ws="none"
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while True:
            if server.started or serving.done():
                break
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        sys.stdout.write(f"http://127.0.0.1:{port} {house.key}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = True
        await serving


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
