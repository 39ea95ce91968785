"""Input files: allowed and forbidden sources."""

import asyncio
import base64
from random import Random

import httpx2
import pytest

from deployments.transfer.fetcher import OWN_TRIES, Fetcher, OwnFiles, OwnStorage, fetcher_client
from deployments.transfer.uploader import Backoff, StorageRetry
from serve_app.domain.errors import InvalidInput
from serve_app.domain.name_resolution import NameResolver
from tests.deployments.web import PRIVATE, PUBLIC, Web

FIELD = "image_url"
BODY = b"an image's bytes"


@pytest.fixture
def web():
    return Web()


async def assert_refused(fetcher, url, match, kind="file_download_error", **more):
    with pytest.raises(InvalidInput, match=match) as caught:
        await fetcher.fetch(url, FIELD, **more)
    (problem,) = caught.value.problems
    assert (problem.loc, problem.type) == (("body", FIELD), kind)
    return problem.context


async def test_a_file_is_fetched_from_the_address_that_was_checked(web):
    web.answers["example.com/a.png"] = httpx2.Response(200, content=BODY)
    assert await web.fetcher().fetch("https://example.com/a.png?x=1", FIELD) == BODY
    (request,) = web.requests
    assert str(request.url) == f"https://{PUBLIC}/a.png?x=1"
    assert request.headers["host"] == "example.com"
    assert request.extensions["sni_hostname"] == "example.com"


@pytest.mark.parametrize(
    "url",
    [
        "http://inside.example.com/",
        "http://127.0.0.1/",
        "http://[::1]:8000/",
        "http://[::ffff:10.0.0.1]/",
        "http://169.254.169.254/latest/meta-data/",
    ],
)
async def test_private_addresses_are_refused_unless_allowed(web, url):
    await assert_refused(web.fetcher(), url, "DARKROOM_ALLOW_PRIVATE_URLS")
    assert web.requests == []
    await assert_refused(web.fetcher(allow_private=True), url, "404")
    assert len(web.requests) == 1


async def test_one_private_address_among_public_ones_is_enough_to_refuse(web):
    web.names["example.com"] = [PUBLIC, PRIVATE]
    await assert_refused(web.fetcher(), "http://example.com/", "private")


@pytest.mark.parametrize(
    "url", ["http://0x7f000001/", "http://2130706433/", "http://017700000001/", "http://localhost/"]
)
async def test_other_spellings_of_loopback_are_refused(web, url):
    client = httpx2.AsyncClient(transport=httpx2.MockTransport(web.answer))
    fetcher = Fetcher(client, NameResolver(), max_bytes=1000, timeout_s=5.0, allow_private=False)
    await assert_refused(fetcher, url, "private|not known")
    assert web.requests == []


async def test_a_redirect_is_followed_and_checked_anew(web):
    web.answers["example.com/a"] = httpx2.Response(302, headers={"location": "/b"})
    web.answers["example.com/b"] = httpx2.Response(200, content=BODY)
    assert await web.fetcher().fetch("http://example.com/a", FIELD) == BODY
    web.answers["example.com/b"] = httpx2.Response(
        302, headers={"location": "http://inside.example.com/"}
    )
    await assert_refused(web.fetcher(), "http://example.com/a", "private")
    web.answers["example.com/b"] = httpx2.Response(302, headers={"location": "file:///etc/passwd"})
    await assert_refused(web.fetcher(), "http://example.com/a", "http")


async def test_a_name_that_resolves_anew_does_not_get_past_the_check(web):
    web.names["example.com"] = [[PUBLIC], [PRIVATE]]
    web.answers["example.com/a"] = httpx2.Response(200, content=BODY)
    assert await web.fetcher().fetch("http://example.com/a", FIELD) == BODY
    assert {request.url.host for request in web.requests} == {PUBLIC}


async def test_redirects_in_a_circle_end(web):
    web.answers["example.com/a"] = httpx2.Response(302, headers={"location": "/a"})
    await assert_refused(web.fetcher(), "http://example.com/a", "redirects")


@pytest.mark.parametrize(
    "url", ["ftp://example.com/", "file:///etc/passwd", "image.png", "", "http://", "http://a:b"]
)
async def test_what_is_no_url_of_the_web_is_refused(web, url):
    await assert_refused(web.fetcher(), url, "http:, https: or data:")


async def test_problems_are_reported(web):
    await assert_refused(web.fetcher(), "http://nowhere.example/", "nowhere.example is not known")
    await assert_refused(web.fetcher(), "http://example.com/", "answered 404")
    web.answers["example.com/cut"] = httpx2.ReadError("the line is dead")
    await assert_refused(web.fetcher(), "http://example.com/cut", "the line is dead")


async def test_a_file_over_the_limit_is_not_read_to_its_end(web):
    read = []

    async def endless():
        while True:
            read.append(1)
            yield b"x" * 100

    web.answers["example.com/a"] = httpx2.Response(200, content=endless())
    context = await assert_refused(
        web.fetcher(), "http://example.com/a", "larger than 1000 bytes", "file_too_large"
    )
    assert context == {"max_size": 1000}
    assert len(read) <= 12


async def test_a_server_that_never_ends_is_given_up(web):
    async def hang():
        await asyncio.sleep(60)

    web.answers["example.com/a"] = hang
    await assert_refused(web.fetcher(timeout_s=0.05), "http://example.com/a", "longer than 0.05 s")


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64," + base64.b64encode(BODY).decode(),
        "data:image/png;base64," + base64.b64encode(BODY).decode().rstrip("="),
        "DATA:;base64," + base64.b64encode(BODY).decode().replace("+", "%2B"),
        "data:image/png;base64," + base64.encodebytes(BODY * 9).decode(),
        "data:image/png," + BODY.decode().replace(" ", "%20"),
    ],
)
async def test_data_uris_are_read(web, uri):
    assert (await web.fetcher().fetch(uri, FIELD)).startswith(BODY)


async def test_broken_and_large_data_uris_are_refused(web):
    await assert_refused(web.fetcher(), "data:image/png;base64,!!!", "data: URI")
    await assert_refused(web.fetcher(), "data:image/png", "comma")
    await assert_refused(web.fetcher(max_bytes=3), "data:,four", "larger than 3", "file_too_large")


KEY = "r/0195-a/1/secret.png"


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "darkroom.example", "example.com"])
async def test_our_own_files_come_from_our_own_storage_by_any_name(web, host):
    web.answers[f"ingress:8000/files/{KEY}"] = httpx2.Response(200, content=BODY)
    url = f"http://{host}/files/{KEY}"
    assert await web.fetcher().fetch(url, FIELD, OwnFiles("http://ingress:8000")) == BODY
    assert [request.url.host for request in web.requests] == ["ingress"]


async def test_storage_may_send_on_to_where_it_keeps_our_files(web):
    web.answers[f"ingress:8000/files/{KEY}"] = httpx2.Response(
        307, headers={"location": "http://10.0.0.9/bucket/key"}
    )
    web.answers["10.0.0.9/bucket/key"] = httpx2.Response(200, content=BODY)
    url = f"http://localhost/files/{KEY}"
    assert await web.fetcher().fetch(url, FIELD, OwnFiles("http://ingress:8000")) == BODY


async def test_a_storage_of_someone_else_sends_on_to_no_private_address(web):
    place = f"ingress:8000/files/{KEY}"
    url, files = f"http://localhost/files/{KEY}", OwnFiles("http://ingress:8000", trusted=False)
    web.answers["10.0.0.9/bucket/key"] = httpx2.Response(200, content=BODY)
    web.answers[place] = httpx2.Response(307, headers={"location": "http://10.0.0.9/bucket/key"})
    await assert_refused(web.fetcher(), url, "private address", files=files)
    assert len(web.requests) == 1
    web.answers["example.com/key"] = httpx2.Response(200, content=BODY)
    web.answers[place] = httpx2.Response(307, headers={"location": "https://example.com/key"})
    assert await web.fetcher().fetch(url, FIELD, files) == BODY


async def test_a_file_that_is_not_ours_is_fetched_as_any_other(web):
    web.answers["example.com/files/a.png"] = httpx2.Response(200, content=BODY)
    url = "https://example.com/files/a.png"
    assert await web.fetcher().fetch(url, FIELD, OwnFiles("http://ingress:8000")) == BODY
    assert [request.url.host for request in web.requests] == ["ingress", PUBLIC]


async def test_a_file_of_ours_that_is_no_more_is_reported_as_such(web):
    url = f"http://127.0.0.1:8000/files/{KEY}"
    await assert_refused(
        web.fetcher(), url, "our storage has no such file", files=OwnFiles("http://ingress:8000")
    )


QUICK = Backoff(Random(1), first_s=0.001, most_s=0.01)  # noqa: S311
OURS_URL = f"http://127.0.0.1:8000/files/{KEY}"


@pytest.mark.parametrize(
    "problem", [503, 500, 429, httpx2.ConnectError("no"), httpx2.ReadError("")]
)
async def test_a_storage_of_ours_that_comes_back_sends_the_file(web, problem):
    problems = [problem] * 3

    async def answer():
        if not problems:
            return httpx2.Response(200, content=BODY)
        status = problems.pop()
        if isinstance(status, int):
            return httpx2.Response(status)
        raise status

    web.answers[f"ingress:8000/files/{KEY}"] = answer
    fetcher = web.fetcher(own=OwnStorage(backoff=QUICK))
    assert await fetcher.fetch(OURS_URL, FIELD, OwnFiles("http://ingress:8000")) == BODY
    assert len(web.requests) == 4


@pytest.mark.parametrize("problem", [httpx2.Response(503), httpx2.ConnectError("no")])
async def test_a_storage_of_ours_that_stays_away_is_no_fault_of_the_input(web, problem):
    web.answers[f"ingress:8000/files/{KEY}"] = problem
    fetcher = web.fetcher(own=OwnStorage(backoff=QUICK))
    with pytest.raises(StorageRetry):
        await fetcher.fetch(OURS_URL, FIELD, OwnFiles("http://ingress:8000"))
    assert [request.url.host for request in web.requests] == ["ingress"] * OWN_TRIES


async def test_a_storage_of_ours_that_hangs_or_breaks_off_is_no_fault_of_the_input(web):
    async def hang():
        await asyncio.sleep(60)

    async def broken():
        yield BODY
        raise httpx2.ReadError("the line is dead")

    web.answers[f"ingress:8000/files/{KEY}"] = hang
    with pytest.raises(StorageRetry):
        await web.fetcher(timeout_s=0.05).fetch(OURS_URL, FIELD, OURS)
    web.answers[f"ingress:8000/files/{KEY}"] = httpx2.Response(200, content=broken())
    received = []
    with pytest.raises(StorageRetry):
        await web.fetcher(own=OwnStorage(backoff=QUICK)).stream(
            OURS_URL, FIELD, received.append, OURS
        )
    assert received == [BODY]  # what was passed on is not passed on again


async def test_each_try_at_our_own_storage_is_counted_and_no_other_server(web):
    own, ours = OwnStorage(backoff=QUICK), OwnFiles("http://ingress:8000")
    answers = [httpx2.Response(503), httpx2.Response(200, content=BODY)]

    async def answer():
        return answers.pop(0)

    async def hang():
        await asyncio.sleep(60)

    fetcher = web.fetcher(own=own)
    web.answers[f"ingress:8000/files/{KEY}"] = answer
    await fetcher.fetch(OURS_URL, FIELD, ours)
    web.answers["example.com/a.png"] = httpx2.Response(200, content=BODY)
    await fetcher.fetch("https://example.com/a.png", FIELD, ours)
    web.answers[f"ingress:8000/files/{KEY}"] = hang
    with pytest.raises(StorageRetry):
        await web.fetcher(timeout_s=0.05, own=own).fetch(OURS_URL, FIELD, ours)
    counts = own.calls.counts()["storage_calls"]
    assert counts == {("read", "error"): 1, ("read", "done"): 1, ("read", "timeout"): 1}


@pytest.mark.parametrize("path", ["/files/../metrics", "/files/%2e%2e/metrics", "/files//a", "/v1"])
async def test_nothing_but_files_is_asked_of_the_ingress(web, path):
    await assert_refused(
        web.fetcher(), f"http://10.0.0.1{path}", "private", files=OwnFiles("http://ingress")
    )
    assert web.requests == []


async def test_the_real_client_follows_nothing_and_takes_no_proxy():
    async with fetcher_client() as client:
        assert not client.trust_env
        assert not client.follow_redirects


PRIVATE_PATH = "/files/p/rules/r/0195/1/a.png"
OURS = OwnFiles("http://ingress:8000", "token")


async def test_a_private_file_of_ours_is_read_with_the_token_of_the_attempt(web):
    web.answers[f"ingress:8000{PRIVATE_PATH}"] = httpx2.Response(200, content=BODY)
    assert await web.fetcher().fetch(f"http://a.example{PRIVATE_PATH}", FIELD, OURS) == BODY
    (request,) = web.requests
    assert request.headers["authorization"] == "Bearer token"


async def test_a_signed_url_of_ours_keeps_its_signature(web):
    web.answers[f"ingress:8000{PRIVATE_PATH}"] = httpx2.Response(200, content=BODY)
    url = f"http://a.example{PRIVATE_PATH}?expires=1&signature=x-_"
    assert await web.fetcher().fetch(url, FIELD, OURS) == BODY
    assert web.requests[0].url.query == b"expires=1&signature=x-_"


async def test_neither_public_files_nor_other_servers_get_the_token(web):
    web.answers[f"ingress:8000/files/{KEY}"] = httpx2.Response(200, content=BODY)
    await web.fetcher().fetch(f"http://a.example/files/{KEY}?x=1", FIELD, OURS)
    web.answers[f"ingress:8000{PRIVATE_PATH}"] = httpx2.Response(
        307, headers={"location": f"http://bucket{PRIVATE_PATH}"}
    )
    web.answers[f"bucket{PRIVATE_PATH}"] = httpx2.Response(200, content=BODY)
    assert await web.fetcher().fetch(f"http://a.example{PRIVATE_PATH}", FIELD, OURS) == BODY
    sent = [(request.url.host, "authorization" in request.headers) for request in web.requests]
    assert sent == [("ingress", False), ("ingress", True), ("bucket", False)]


async def test_a_private_file_that_may_not_be_read_is_reported_as_such(web):
    web.answers[f"ingress:8000{PRIVATE_PATH}"] = httpx2.Response(403)
    url = f"http://example.com{PRIVATE_PATH}"
    await assert_refused(web.fetcher(), url, "private, and may not be read", files=OURS)
    assert [request.url.host for request in web.requests] == ["ingress"]
