"""What people write first: FastAPI, one model, a lock."""

from __future__ import annotations

import threading
from typing import Any

import uvicorn
from fastapi import FastAPI, Response

from benchmarks.peers.drawing import Drawing, parse_arguments
from benchmarks.wishes import Wish


def application(drawing: Drawing) -> FastAPI:
    web = FastAPI()
    one_at_a_time = threading.Lock()

    @web.post("/draw")
    def draw(wanted: dict[str, Any]) -> Response:
        with one_at_a_time:
            (file,) = drawing.draw([Wish.of_json(wanted)])
        return Response(file, media_type="image/png")

    return web


if __name__ == "__main__":
    arguments = parse_arguments()
    uvicorn.run(
        application(Drawing(arguments.threads)),
        host="127.0.0.1",
        port=arguments.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
    )
