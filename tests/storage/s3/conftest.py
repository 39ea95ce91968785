from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from serve_app.storage.s3.storage import S3Storage
from tests.storage.s3_servers import S3Server


@pytest.fixture(params=["moto", "s3rver", "swift"])
def server(request: pytest.FixtureRequest) -> S3Server:
    return request.getfixturevalue(f"{request.param}_server")


@pytest.fixture
async def storage(server: S3Server) -> AsyncIterator[S3Storage]:
    async with server.storage(server.new_bucket()) as storage:
        yield storage
