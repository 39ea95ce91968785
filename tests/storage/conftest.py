from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.storage.s3_servers import S3Server, moto, s3rver, swift


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    with moto() as server:
        yield server


@pytest.fixture(scope="session")
def s3rver_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3rver(tmp_path_factory.mktemp("s3rver")) as server:
        yield server


@pytest.fixture(scope="session")
def swift_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with swift(tmp_path_factory.mktemp("swift")) as server:
        yield server
