"""Calls between deployments on a machine whose environment names a proxy."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from ray._private.grpc_utils import init_grpc_channel

from serve_app.serve_grpc import bypass_proxies


@pytest.fixture
def port() -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    number = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield number
    server.stop(grace=None).wait()


def connects(port: int, within_s: float) -> bool:
    with init_grpc_channel(f"127.0.0.1:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=within_s)
        except grpc.FutureTimeoutError:
            return False
    return True


def test_a_replica_reaches_the_ingress_where_the_environment_names_a_proxy(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing is there
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    assert not connects(port, within_s=1.0), "else this shows nothing"
    bypass_proxies(os.environ)  # noqa: TID251 gRPC reads them there
    assert connects(port, within_s=20.0)


def test_names_that_need_no_proxy_and_the_user_s_own_choice_are_kept() -> None:
    environment = {"no_proxy": "internal.example"}
    bypass_proxies(environment)
    assert environment["no_grpc_proxy"].startswith("internal.example,")
    environment["no_grpc_proxy"] = "10.0.0.0/8"
    bypass_proxies(environment)
    assert environment["no_grpc_proxy"] == "10.0.0.0/8"
