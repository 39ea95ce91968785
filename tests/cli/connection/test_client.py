"""Commands report connection problems and unexpected responses in one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from serve_app.cli.connection.client import ApiFailure, Client
from serve_app.cli.connection.installation import Installation
from serve_app.domain.errors import Misconfigured
from serve_app.free_ports import free_port


@contextmanager
def answering(
    status: int,
    body: str,
    keys: list[str | None] | None = None,
    *,
    location: str = "",
    content_type: str = "",
) -> Iterator[str]:
    """Origin of a server that gives the same response to every call, like HAProxy without an
    ingress. ``keys`` gets the credentials of each call. ``location``: where redirects lead."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if keys is not None:
                keys.append(self.headers["Authorization"])
            self.send_response(status)
            if location:
                self.send_header("location", location)
            if content_type:
                self.send_header("content-type", content_type)
            self.end_headers()
            self.wfile.write(body.encode())

        def do_PUT(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Log nothing to the terminal."""

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def client(url: str, data_dir: Path) -> Client:
    (data_dir / "run.json").write_text(json.dumps({"url": url}))
    (data_dir / "api_key").write_text("id:secret")
    return Client(Installation(data_dir))


def test_a_page_of_haproxy_is_not_taken_for_an_answer_of_the_ingress(tmp_path: Path) -> None:
    page = "<html><body><h1>503 Service Unavailable</h1></body></html>"
    with answering(503, page) as url, client(url, tmp_path) as asking:
        with pytest.raises(Misconfigured, match="answers 503, but not Darkroom's ingress"):
            asking.readiness()
        with pytest.raises(ApiFailure, match="503: <html>"):
            asking.get("/v1/status")
        with pytest.raises(ApiFailure, match="could not be fetched: 503"):
            asking.download(f"{url}/files/image.png")
    with answering(200, page) as url, client(url, tmp_path) as asking:
        with pytest.raises(Misconfigured, match="answers 200, but not Darkroom's ingress"):
            asking.readiness()
        with pytest.raises(ApiFailure, match="answered 200, but not as Darkroom"):
            asking.get("/v1/status")


def test_where_nothing_answers_is_named(tmp_path: Path) -> None:
    url, elsewhere = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    with client(url, tmp_path) as asking:
        for ask in (asking.readiness, lambda: asking.get("/v1/status")):
            with pytest.raises(Misconfigured, match=f"Nothing answers at {url} "):
                ask()
        for fetch in (asking.download, asking.preview):
            with pytest.raises(Misconfigured, match=f"Nothing answers at {elsewhere}/a.png"):
                fetch(f"{elsewhere}/a.png")


def test_a_page_in_html_is_not_taken_for_a_log(tmp_path: Path) -> None:
    page = answering(200, "<html>Sign in</html>", content_type="text/html; charset=utf-8")
    with page as url, client(url, tmp_path) as calls:
        lines = calls.lines("/v1/audit/export")
        with pytest.raises(ApiFailure, match="answered a page in HTML"), lines:
            raise AssertionError
        with pytest.raises(ApiFailure, match="answered a page in HTML"):
            calls.get("/v1/keys")


@pytest.mark.parametrize("body", ["{}", "[]", "null", ""])
def test_any_json_of_another_server_is_no_word_that_something_was_done(
    tmp_path: Path, body: str
) -> None:
    with answering(200, body) as url, client(url, tmp_path) as calls:
        for call in (calls.get, calls.put, calls.delete):
            with pytest.raises(ApiFailure, match=f"{url} answered 200, but not as Darkroom"):
                call("/v1/endpoints/a/pause")


def test_an_argument_that_no_address_can_have_is_said_in_a_sentence(tmp_path: Path) -> None:
    with answering(200, "{}") as url, client(url, tmp_path) as calls:
        with pytest.raises(Misconfigured, match="An argument cannot be sent"):
            calls.get("/v1/requests", tenant="x" * 70_000)
        lines = calls.lines("/v1/audit/export", tenant="x" * 70_000)
        with pytest.raises(Misconfigured, match="An argument cannot be sent"), lines:
            raise AssertionError


def test_only_darkroom_gets_the_key_when_files_are_fetched(tmp_path: Path) -> None:
    own: list[str | None] = []
    foreign: list[str | None] = []
    with answering(200, "a file", own) as url, answering(200, "a file", foreign) as other:
        with client(url, tmp_path) as asking:
            for origin in (url, other):
                assert asking.download(f"{origin}/files/image.png") == b"a file"
                asking.save(f"{origin}/files/image.png", tmp_path / "image.png")
    assert own == ["Key id:secret", "Key id:secret"]
    assert foreign == [None, None]


def test_a_redirect_of_a_file_is_followed_and_another_server_does_not_get_the_key(
    tmp_path: Path,
) -> None:
    own: list[str | None] = []
    foreign: list[str | None] = []
    target = tmp_path / "image.png"
    with (
        answering(200, "a file", foreign) as bucket,
        answering(307, "", own, location=f"{bucket}/image.png?signature=x") as url,
        client(url, tmp_path) as asking,
    ):
        assert asking.download(f"{url}/files/image.png") == b"a file"
        asking.save(f"{url}/files/image.png", target)
    assert target.read_bytes() == b"a file"
    assert own == ["Key id:secret", "Key id:secret"]
    assert foreign == [None, None]


@pytest.mark.parametrize("status", [202, 204, 304, 307])
def test_an_answer_that_is_no_file_is_not_taken_for_one(tmp_path: Path, status: int) -> None:
    target = tmp_path / "image.png"
    with answering(status, "") as url, client(url, tmp_path) as asking:
        with pytest.raises(ApiFailure, match=f"could not be fetched: {status}"):
            asking.download("/files/image.png")
        with pytest.raises(ApiFailure, match=f"could not be fetched: {status}"):
            asking.save("/files/image.png", target)
    assert not target.exists()


def test_redirects_in_a_circle_are_an_error_in_a_sentence(tmp_path: Path) -> None:
    with answering(307, "", location="/again") as url, client(url, tmp_path) as asking:
        with pytest.raises(Misconfigured, match=r"could not be fetched.*redirects"):
            asking.download("/files/image.png")
        with pytest.raises(Misconfigured, match=r"could not be fetched.*redirects"):
            asking.save("/files/image.png", tmp_path / "image.png")


def test_a_file_that_cannot_be_read_is_said_before_anything_is_uploaded(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with client(url, tmp_path) as asking:
        with pytest.raises(Misconfigured, match="cannot be read: Is a directory"):
            asking.upload(tmp_path)
