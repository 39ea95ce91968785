"""Fake web for a fetcher, without a socket."""

import httpx2

from deployments.transfer.fetcher import Fetcher

PUBLIC, PRIVATE = "93.184.216.34", "10.0.0.7"


class Web:
    """Host names and the content of their URLs; requests look as they would at the servers."""

    def __init__(self):
        self.names = {"example.com": [PUBLIC], "inside.example.com": [PRIVATE]}
        self.answers = {}
        self.requests = []

    async def resolve(self, host, port):
        addresses = self.names.get(host, [host] if host[0].isdigit() or ":" in host else None)
        if not addresses:
            raise OSError("not known")
        return addresses.pop(0) if isinstance(addresses[0], list) else addresses

    async def answer(self, request):
        self.requests.append(request)
        name = request.headers["host"] + request.url.path
        answer = self.answers.get(name, httpx2.Response(404))
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            return await answer()
        return answer

    def fetcher(self, **changes):
        client = httpx2.AsyncClient(transport=httpx2.MockTransport(self.answer))
        options = {"max_bytes": 1000, "timeout_s": 5.0, "allow_private": False, **changes}
        return Fetcher(client, self.resolve, **options)
