"""Wrapper script with which Ray starts HAProxy."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

import fal_client.client
import httpx
import pytest

from serve_app.cli.serve import haproxy
from serve_app.free_ports import free_port

pytestmark = pytest.mark.skipif(not haproxy.available(), reason="no HAProxy for this machine")

LOG = "    log 127.0.0.1:514 local0 info\n"
CONFIG = f"""global
{LOG}defaults
    log global
frontend prometheus
    bind :9101
frontend http_frontend
    bind *:8000
    default_backend b
backend b
    server s 127.0.0.1:9101
listen stats
  bind *:8404
"""

SLOW_CLIENT = """
defaults
    mode http
    timeout connect 60s
    timeout client 600s
    timeout server 600s
frontend http_frontend
    bind 127.0.0.1:{port}
    http-request return status 200
"""


@pytest.fixture
def started_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run the script with ``CONFIG`` and return the configuration that HAProxy read."""
    monkeypatch.setenv("RAY_SERVE_HAPROXY_METRICS_PORT", "9101")
    monkeypatch.setenv("RAY_SERVE_HAPROXY_STATS_PORT", "8404")
    monkeypatch.delenv("RAY_SERVE_HAPROXY_LOG_TARGET", raising=False)

    def start(
        *trusted: IPv4Network | IPv6Network,
        config_text: str = CONFIG,
        http: tuple[str, int] | None = None,
    ) -> str:
        config = tmp_path / "haproxy.cfg"
        config.write_text(config_text)
        script = haproxy.write_script(tmp_path, trusted, secret="s3cret", http=http)
        result = subprocess.run(
            [script, "-c", "-f", config], check=False, capture_output=True, text=True, timeout=30
        )
        assert "unknown" not in result.stderr.lower(), result.stderr
        assert "[ALERT]" not in result.stderr, result.stderr
        return config.read_text()

    return start


def test_the_command_that_clusters_name_as_the_binary_runs_haproxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = Path(sys.executable).with_name("darkroom-haproxy")
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(command))  # as cluster.yaml does
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG)
    checked = subprocess.run(
        [command, "-c", "-f", config], check=False, capture_output=True, text=True, timeout=60
    )
    assert checked.returncode == 0, checked.stderr
    assert "timeout http-request 30s" in config.read_text()


def test_only_the_ports_of_its_metrics_and_statistics_are_kept_to_loopback(
    started_with: Callable[[], str],
) -> None:
    read = started_with()
    assert [line.strip() for line in read.splitlines() if "bind" in line] == [
        "bind 127.0.0.1:9101",
        "bind *:8000",
        "bind 127.0.0.1:8404",
    ]
    assert "server s 127.0.0.1:9101" in read


@pytest.mark.parametrize(
    ("host", "bind"),
    [
        ("127.0.0.1", "127.0.0.1:8000"),
        ("0.0.0.0", "*:8000"),  # noqa: S104 as asked for
        ("::", ":::8000 v4v6"),
        ("::1", "::1:8000"),
        ("192.0.2.7", "192.0.2.7:8000"),
    ],
)
def test_haproxy_listens_where_it_should_although_serve_is_given_loopback(
    started_with: Callable[..., str], host: str, bind: str
) -> None:
    config = CONFIG.replace("bind *:8000", "bind 127.0.0.1:8000")
    read = started_with(config_text=config, http=(host, 8000))
    assert f"    bind {bind}\n" in read
    assert read.count(":8000") == 1
    assert started_with(config_text=read, http=(host, 8000)) == read


def test_calls_go_to_no_syslog_that_is_not_configured(
    started_with: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LOG not in started_with()
    monkeypatch.setenv("RAY_SERVE_HAPROXY_LOG_TARGET", "127.0.0.1:514")
    assert LOG in started_with()


def test_the_headers_of_a_call_have_to_arrive_within_a_time(
    started_with: Callable[..., str],
) -> None:
    read = started_with()
    assert "defaults\n    timeout http-request 30s\n" in read
    assert started_with(config_text=read) == read, "a second start changes nothing"


def test_half_a_header_is_cut_after_that_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(haproxy, "HEADERS_S", 1)
    port = free_port()
    config = tmp_path / "haproxy.cfg"
    config.write_text(SLOW_CLIENT.format(port=port))
    script = haproxy.write_script(tmp_path, secret="s3cret")
    with subprocess.Popen([script, "-db", "-f", config], stdin=subprocess.DEVNULL) as process:
        try:
            with connect(port, process) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: darkroom\r\nX-Slow: hal")
                assert client.recv(1000).startswith(b"HTTP/1.1 408 ")
                while client.recv(1000):
                    pass  # until it closes the connection
        finally:
            process.terminate()


def test_an_haproxy_that_stands_still_gives_way_to_the_next_one(tmp_path: Path) -> None:
    port, config = free_port(), tmp_path / "haproxy.cfg"
    config.write_text(SLOW_CLIENT.format(port=port))
    script = haproxy.write_script(tmp_path, secret="s3cret")
    command = [script, "-db", "-f", config, "-dR"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as frozen:
        connect(port, frozen).close()
        frozen.send_signal(signal.SIGSTOP)
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
            try:
                assert frozen.wait(60) == -signal.SIGKILL
                connect(port, process).close()
                assert httpx.get(f"http://127.0.0.1:{port}").status_code == 200
            finally:
                frozen.kill()
                process.terminate()


def test_an_haproxy_goes_on_while_its_configuration_is_checked(tmp_path: Path) -> None:
    port, config = free_port(), tmp_path / "haproxy.cfg"
    config.write_text(SLOW_CLIENT.format(port=port))
    script = haproxy.write_script(tmp_path, secret="s3cret")
    with subprocess.Popen([script, "-db", "-f", config], stdin=subprocess.DEVNULL) as process:
        try:
            connect(port, process).close()
            check = [script, "-c", "-f", config]
            subprocess.run(check, check=True, capture_output=True, timeout=60)
            assert httpx.get(f"http://127.0.0.1:{port}").status_code == 200
        finally:
            process.terminate()


def connect(port: int, process: subprocess.Popen[bytes]) -> socket.socket:
    """Connection to HAProxy, as soon as it listens."""
    while process.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=60)
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise AssertionError(f"HAProxy has ended with {process.returncode}")


def test_a_proxy_in_front_is_believed_only_if_it_is_trusted(
    started_with: Callable[..., str],
) -> None:
    removes = "    http-request del-header x-forwarded- -m beg"
    assert f"frontend http_frontend\n{removes}\n" in started_with()
    trusting = started_with(ip_network("10.0.0.5"), ip_network("fd00::/8"))
    assert f"{removes} unless {{ src 10.0.0.5/32 fd00::/8 }}\n" in trusting


def test_the_ingress_learns_the_client_and_that_haproxy_says_it(
    started_with: Callable[..., str],
) -> None:
    read = started_with()
    client = "    http-request set-header x-darkroom-client %[src] unless"
    assert f"{client} {{ req.hdr(x-darkroom-proxy-secret) -m str s3cret }}\n" in read
    assert "    http-request set-header x-darkroom-proxy-secret s3cret\n" in read
    assert started_with(config_text=read) == read, "a second start changes nothing"


WITHOUT_ROUTES = """
defaults
    mode http
    timeout connect 60s
    timeout client 600s
    timeout server 600s
    errorfile 502 {folder}/500.http
    errorfile 503 {folder}/500.http
    errorfile 504 {folder}/500.http
    retries 0
frontend http_frontend
    bind 127.0.0.1:{port}
    use_backend nobody if {{ path /nobody }}
    default_backend default_backend
backend nobody
    server s 127.0.0.1:1
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path \\'%[path]\\' not found."
"""


@pytest.mark.parametrize("path", ["/queue/test/small", "/nobody"])
def test_without_an_ingress_that_answers_a_call_is_to_be_repeated(
    tmp_path: Path, path: str
) -> None:
    port, config = free_port(), tmp_path / "haproxy.cfg"
    config.write_text(WITHOUT_ROUTES.format(port=port, folder=tmp_path))
    (tmp_path / "500.http").write_text("HTTP/1.1 500 Internal Server Error\r\n\r\n")  # Ray's
    script = haproxy.write_script(tmp_path, secret="s3cret")
    for _ in range(2):  # as at a start, and at a reload
        with subprocess.Popen([script, "-db", "-f", config], stdin=subprocess.DEVNULL) as process:
            try:
                connect(port, process).close()
                answer = httpx.post(f"http://127.0.0.1:{port}{path}")
            finally:
                process.terminate()
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert "does not answer" in answer.json()["detail"]
        assert fal_client.client._is_ingress_error(answer), "fal's client repeats it"


COMMAND = "from serve_app.cli.serve.haproxy import main; main()"


def test_its_own_command_changes_the_answers_and_no_headers(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(WITHOUT_ROUTES.format(port=free_port(), folder=tmp_path))
    command = [sys.executable, "-c", COMMAND, "-c", "-f", str(config)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    read = config.read_text()
    assert read.count(f"{tmp_path}/unavailable.http") == 4
    assert "header" not in read


HEALTH_CHECKED = """
defaults
    mode http
    timeout connect 60s
    timeout client 600s
    timeout server 600s
    errorfile 502 {folder}/500.http
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend b
backend b
    option httpchk GET /-/healthz
    http-check expect status 200
    default-server fastinter 100ms downinter 100ms fall 2 rise 2 inter 300ms check
    server s 127.0.0.1:{server} check observe layer4 error-limit 3 on-error mark-down
"""


class Ingress:
    """Server whose health check gets ``health`` as its status, or no answer if that is None. Other
    calls get 200 when ``answers`` is set."""

    def __init__(self) -> None:
        self.health: int | None = 200
        self.answers = threading.Event()
        self.called = threading.Event()
        ingress = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path != "/-/healthz":
                    ingress.called.set()
                    ingress.answers.wait(60)
                elif ingress.health is None:
                    ingress.answers.wait(60)
                    return
                status = ingress.health if self.path == "/-/healthz" else 200
                with suppress(ConnectionError):
                    self.send_response(status or 200)
                    self.end_headers()

        Handler.log_message = lambda *_: None  # type: ignore[method-assign]
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True


@pytest.fixture
def ingress(tmp_path: Path) -> Iterator[tuple[Ingress, str]]:
    """A server, and the URL of HAProxy before it."""
    backend, port, config = Ingress(), free_port(), tmp_path / "haproxy.cfg"
    threading.Thread(target=backend.server.serve_forever, daemon=True).start()
    config.write_text(
        HEALTH_CHECKED.format(folder=tmp_path, port=port, server=backend.server.server_port)
    )
    script = haproxy.write_script(tmp_path, secret="s3cret")
    with subprocess.Popen([script, "-db", "-f", config], stdin=subprocess.DEVNULL) as process:
        try:
            connect(port, process).close()
            yield backend, f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            backend.answers.set()
            backend.server.shutdown()
            backend.server.server_close()


def test_calls_to_an_ingress_that_is_frozen_are_answered_when_its_health_check_is_not(
    ingress: tuple[Ingress, str],
) -> None:
    frozen, url = ingress
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(httpx.get, url, timeout=60)
        assert frozen.called.wait(60)
        frozen.health = None
        answer = call.result()
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


def test_an_ingress_that_drains_gets_no_new_calls_and_ends_those_that_it_has(
    ingress: tuple[Ingress, str],
) -> None:
    drains, url = ingress
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(httpx.get, url, timeout=60)
        assert drains.called.wait(60)
        drains.health = 503
        backend = f"{url}/-/healthz"  # which this HAProxy passes on
        while httpx.get(backend, timeout=60).headers.get("server") is not None:
            time.sleep(0.05)
        drains.answers.set()
        assert call.result().status_code == 200


WRITE = """
import sys
from pathlib import Path
from serve_app.cli.serve import haproxy
tmp, *others = map(Path, sys.argv[1:])
try:
    print(haproxy.write_script(tmp, secret=None, others=others))
except Exception as error:
    print(error)
"""


def test_where_no_program_can_run_in_one_directory_the_script_lies_in_another(
    tmp_path: Path,
) -> None:
    noexec, data = tmp_path / "tmp", tmp_path / "data"
    noexec.mkdir()
    data.mkdir()
    mounted = [
        *("unshare", "-rm", "sh", "-ec"),
        'mount -t tmpfs -o noexec tmpfs "$0"; exec "$@"',
        str(noexec),
    ]
    if subprocess.run([*mounted, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")

    def written(*others: Path) -> str:
        command = [*mounted, sys.executable, "-c", WRITE, noexec, *others]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert written(data) == str(data / "haproxy")
    assert f"No programs can run in {noexec} (mounted with `noexec`)" in written()
