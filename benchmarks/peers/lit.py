"""LitServe, with its batching. It reads the annotations of its methods, and not as strings."""

from collections.abc import Sequence
from typing import Any

import litserve
from fastapi import Response

from benchmarks.peers.drawing import Drawing, parse_arguments
from benchmarks.wishes import Wish


class Draws(litserve.LitAPI):
    """Takes a wish as JSON, gives a PNG file."""

    def __init__(self, threads: int, batch: int, wait_s: float) -> None:
        super().__init__(max_batch_size=batch, batch_timeout=wait_s, api_path="/draw")
        self._torch_threads = threads

    def setup(self, device: str) -> None:  # noqa: ARG002 LitServe's
        self._drawing = Drawing(self._torch_threads)

    def decode_request(self, request: dict[str, Any]) -> Wish:
        return Wish.of_json(request)

    def batch(self, inputs: Sequence[Wish]) -> list[Wish]:
        return list(inputs)

    def predict(self, x: list[Wish]) -> list[bytes]:
        return self._drawing.draw(x)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="image/png")


if __name__ == "__main__":
    arguments = parse_arguments()
    api = Draws(arguments.threads, arguments.batch, arguments.wait_ms / 1000)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=600)
    server.run(
        host="127.0.0.1",
        port=arguments.port,
        num_api_servers=1,
        generate_client_file=False,
        access_log=False,
    )
