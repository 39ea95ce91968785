"""Files of the page, as a browser gets them."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from serve_app.ingress.page.bundle import bundles_of, inline_files
from serve_app.ingress.page.routes import FOLDER, SCRIPT, SHEETS, STYLES, TYPES, policy, version_of
from serve_app.settings import Config
from tests.ingress.house import ORIGIN, House, build_house

FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file())
NAMES = [path.relative_to(FOLDER).as_posix() for path in FILES]
ELSEWHERE = re.compile(r"""(?:src|href|import|from|url\()\s*[=(]?\s*["']?(?:https?:)?//""")
SOURCE = re.compile(r'<script type="module" src="(?:\.\./)*page/([^"]+)">')
MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|DOMParser"
)


@pytest.fixture
async def stranger(house: House) -> AsyncIterator[httpx.AsyncClient]:
    """Client without a key."""
    transport = httpx.ASGITransport(house.app)
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        yield client


async def script_of(stranger: httpx.AsyncClient) -> str:
    """Address of the first script of the page."""
    match = SOURCE.search((await stranger.get("/")).text)
    assert match
    return f"/page/{match[1]}"


async def test_the_page_takes_no_key(stranger: httpx.AsyncClient) -> None:
    answer = await stranger.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>Darkroom</title>" in answer.text


async def test_every_file_of_the_page_is_served_with_its_type(stranger: httpx.AsyncClient) -> None:
    for name in [*NAMES, STYLES]:
        answer = await stranger.get(f"/page/{name}")
        assert answer.status_code == 200, name
        assert answer.headers["content-type"] == TYPES[f".{name.rpartition('.')[2]}"], name
        assert answer.headers["x-content-type-options"] == "nosniff", name
    head = await stranger.head(f"/page/{name}")
    assert (head.status_code, head.content) == (200, b"")


async def test_a_file_that_did_not_change_is_not_sent_again(stranger: httpx.AsyncClient) -> None:
    first = await stranger.get("/page/app.js")
    assert first.headers["cache-control"] == "no-cache"
    again = await stranger.get("/page/app.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "content-security-policy" in again.headers


@pytest.mark.parametrize("name", ["nothing.js", "..%2fsettings.py", "%2e%2e", ".", "app.js/x"])
async def test_nothing_else_is_served(stranger: httpx.AsyncClient, name: str) -> None:
    assert (await stranger.get(f"/page/{name}")).status_code == 404


async def test_the_scripts_of_a_page_are_those_of_its_version_and_no_others(
    stranger: httpx.AsyncClient,
) -> None:
    for page, script in (("/", SCRIPT), ("/v1/shared/any", "shared/shared.bundle.js")):
        text = (await stranger.get(page, headers={"accept": "text/html"})).text
        address = "/page/" + match[1] if (match := SOURCE.search(text)) else ""
        assert re.fullmatch(rf"/page/v/[0-9a-f]+/{script}", address)
        answer = await stranger.get(address)
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-cache")
        other = re.sub("/v/[0-9a-f]+/", "/v/0123456789abcdef/", address)
        refused = await stranger.get(other)
        assert refused.status_code == 404
        assert "another version" in refused.json()["message"]
        assert (await stranger.get(f"/page/{script}")).status_code == 404  # of any version


async def test_a_page_asks_for_its_first_script_once(stranger: httpx.AsyncClient) -> None:
    text = (await stranger.get("/")).text
    named = re.findall(r'(?:href|src)="(page/[^"]+bundle\.js)"', text)
    assert len(named) == 2
    assert len(set(named)) == 1


async def test_what_a_page_loads_later_is_beside_its_first_script(
    stranger: httpx.AsyncClient,
) -> None:
    base = await script_of(stranger)
    late = re.findall(r'import\("\./([^"]+)"\)', (await stranger.get(base)).text)
    assert late
    for name in (*late, "gallery/gallery.css"):
        assert (await stranger.get(base.removesuffix(SCRIPT) + name)).status_code == 200


def test_another_source_is_another_version() -> None:
    assert version_of({"a.js": b"1", "b.js": b"2"}) != version_of({"a.js": b"1", "b.js": b"3"})
    assert version_of({"a.js": b"12"}) != version_of({"a.js": b"1", "b.js": b"2"})
    assert version_of({"a.js": b"1", "b.js": b"2"}) == version_of({"b.js": b"2", "a.js": b"1"})


async def test_the_page_may_run_its_own_scripts_and_call_its_own_origin_only(
    stranger: httpx.AsyncClient,
) -> None:
    rules = _rules((await stranger.get("/")).headers["content-security-policy"])
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert rules["img-src"] == rules["media-src"] == "'self' data: blob:"
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert rules["manifest-src"] == "'self'"


@pytest.mark.parametrize("name", ["/", "/v1/shared/any"])
async def test_a_page_has_its_styles_and_first_script_inside_and_allows_only_those(
    stranger: httpx.AsyncClient, name: str
) -> None:
    answer = await stranger.get(name, headers={"accept": "text/html"})
    rules = _rules(answer.headers["content-security-policy"])
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        assert inside
        digests = (hashlib.sha256(content.encode()).digest() for content in inside)
        hashes = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
        assert rules[directive] == " ".join(["'self'", *hashes])
    assert 'rel="stylesheet"' not in answer.text
    script = await stranger.get(await script_of(stranger))
    assert _rules(script.headers["content-security-policy"])["script-src"] == "'self'"


def test_a_file_that_would_end_its_element_is_not_put_into_a_page() -> None:
    page = '<script src="page/early.js"></script>'
    with pytest.raises(ValueError, match="contains </script"):
        inline_files(page, {"early.js": "'</SCRIPT>'"})


async def test_images_may_come_from_the_public_url() -> None:
    async with build_house(public_url="https://art.example:8443/darkroom/") as house:
        async with house.client() as client:
            rules = _rules((await client.get("/")).headers["content-security-policy"])
    assert rules["img-src"] == "'self' data: blob: https://art.example:8443"
    assert rules["connect-src"] == "'self'"


STORE = {"s3_bucket": "art", "s3_downloads": "redirect"}


@pytest.mark.parametrize(
    ("settings", "origin"),
    [
        (STORE, "https://*.amazonaws.com"),
        (STORE | {"s3_endpoint_url": "http://minio:9000"}, "http://minio:9000"),
        (
            STORE
            | {
                "s3_endpoint_url": "http://minio:9000",
                "s3_public_endpoint_url": "https://s3.example",
            },
            "https://s3.example",
        ),
        (
            STORE | {"s3_endpoint_url": "https://s3.example", "s3_path_style": False},
            "https://art.s3.example",
        ),
    ],
)
def test_images_may_come_from_the_store_to_which_downloads_are_redirected(
    settings: dict[str, Any], origin: str
) -> None:
    rules = _rules(policy(Config(**settings), {}))
    assert rules["img-src"] == rules["media-src"] == f"'self' data: blob: {origin}"
    assert _rules(policy(Config(**settings | {"s3_downloads": "through"}), {}))["img-src"] == (
        "'self' data: blob:"
    )


IMAGES = {".png", ".webp"}
TEXTS = [path for path in FILES if path.suffix not in IMAGES]


async def test_the_manifest_names_icons_of_their_sizes_and_the_page_under_any_prefix(
    stranger: httpx.AsyncClient,
) -> None:
    manifest = (await stranger.get("/page/manifest.webmanifest")).json()
    assert manifest["start_url"] == manifest["scope"] == "../"
    for icon in manifest["icons"]:
        answer = await stranger.get(f"/page/{icon['src']}")
        assert answer.headers["content-type"] == icon["type"]
        if icon["type"] == "image/png":
            size = Image.open(io.BytesIO(answer.content)).size
            assert "{}x{}".format(*size) == icon["sizes"]


@pytest.mark.parametrize("path", TEXTS, ids=[path.name for path in TEXTS])
def test_nothing_is_loaded_from_elsewhere_and_no_text_becomes_markup(path: Path) -> None:
    text = path.read_text()
    assert ELSEWHERE.findall(text) == []
    assert MARKUP.findall(text) == []


def test_the_page_s_addresses_are_relative_so_that_a_proxy_may_put_it_under_a_prefix() -> None:
    index = (FOLDER / "index.html").read_text()
    named = re.findall(r'(?:href|src)="([^"#]+)"', index)
    assert named
    assert {address.removeprefix("page/") for address in named} <= {*NAMES, SCRIPT, STYLES}
    assert all(address.startswith("page/") for address in named)
    # The page of a share link is two folders below.
    shared = re.findall(r'(?:href|src)="([^"#]+)"', (FOLDER / "shared/shared.html").read_text())
    assert shared
    assert all(address.startswith("../../page/") for address in shared)


def test_every_style_sheet_is_in_the_bundle_or_loaded_by_what_it_is_for() -> None:
    texts = [file.read_text(encoding="utf-8") for file in FILES if file.suffix in (".js", ".html")]
    named = re.findall(r'"([^"]+\.css)"', "".join(texts))
    loaded = {address.removeprefix("../../").removeprefix("page/") for address in named} - {STYLES}
    assert {*SHEETS, *loaded} == {name for name in NAMES if name.endswith(".css")}


async def test_a_browser_gets_the_page_compressed(stranger: httpx.AsyncClient) -> None:
    script = await script_of(stranger)
    plain = await stranger.get(script, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    small = await stranger.get(script, headers={"accept-encoding": "gzip, br"})
    assert small.headers["content-encoding"] == "gzip"
    assert "accept-encoding" in small.headers["vary"]
    assert small.content == plain.content
    assert int(small.headers["content-length"]) < len(plain.content) / 2


async def test_a_browser_that_asks_for_the_usual_icon_gets_it(stranger: httpx.AsyncClient) -> None:
    answer = await stranger.get("/favicon.ico")
    assert answer.headers["content-type"] == "image/svg+xml"


def test_a_bundle_runs_modules_after_those_that_they_import_and_keeps_their_names_apart() -> None:
    files = {
        "app.js": 'import { one as first } from "./a/one.js";\n'
        'import * as two from "./a/two.js";\nconst kept = first + two.value;\n',
        "a/one.js": 'import { value } from "./two.js";\nconst kept = value;\n'
        "export function one() { return kept; }\n",
        "a/two.js": "const kept = 2;\nexport const value = kept;\n",
    }
    bundle = bundles_of(files, "app.js", "bundle.js")["bundle.js"]
    places = [bundle.index(f"// {name}") for name in ("a/two.js", "a/one.js", "app.js")]
    assert places == sorted(places)
    assert "const {one: first} = module1;" in bundle.replace("{ ", "{").replace(" }", "}")
    assert "const two = module0;" in bundle
    assert re.findall(r"^(?:import|export)\b.*", bundle, re.MULTILINE) == [
        "export { module0, module1, module2 };"
    ]


def test_what_is_imported_by_a_call_is_a_bundle_that_runs_no_module_again() -> None:
    files = {
        "app.js": 'import { one } from "./a/one.js";\nconst later = () => import("./b/late.js");\n',
        "a/one.js": "export const one = 1;\n",
        "b/late.js": 'import { one } from "../a/one.js";\nimport { own } from "./own.js";\n'
        "export function open() { return one + own; }\n",
        "b/own.js": "export const own = 2;\n",
    }
    bundles = bundles_of(files, "app.js", "bundle.js")
    assert set(bundles) == {"bundle.js", "b/late.bundle.js"}
    assert 'import("./b/late.bundle.js")' in bundles["bundle.js"]
    late = bundles["b/late.bundle.js"]
    assert late.startswith('import { module0 } from "../bundle.js";')
    assert "export const { open } = module3;" in late
    assert "// a/one.js" not in late
    assert "// b/own.js" in late


def test_a_bundle_leaves_out_the_comments_but_no_text_of_a_program() -> None:
    source = (
        "// Why.\n/** What it\n * is. */\nexport const one = `a /** b */ // c`;\n"
        "  /** More. */\n  // And more.\nconst two = 2;\n"
    )
    bundle = bundles_of({"app.js": source}, "app.js", "bundle.js")["bundle.js"]
    assert "const one = `a /** b */ // c`;\nconst two = 2;" in bundle


def test_a_bundle_has_no_indentation_and_comments_except_where_they_may_be_text() -> None:
    plain = "  // Why.\n  const one = 'a // b'; // why it is\n"
    program = "const two = `\n  // pip install\n  x`;\n"
    files = {
        "app.js": 'import { two } from "./b.js";\n' + plain,
        "b.js": program + "export const three = 3;\n",
    }
    bundle = bundles_of(files, "app.js", "bundle.js")["bundle.js"]
    assert "Why." not in bundle
    assert "\nconst one = 'a // b';\n" in bundle
    assert program in bundle


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ('import { a } from "./app.js";\n', "imports itself"),
        ('import a from "./app.js";\n', "not bundled"),
        ("export default 1;\n", "not bundled"),
    ],
)
def test_a_form_that_cannot_be_bundled_is_an_error(source: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        bundles_of({"app.js": source}, "app.js", "bundle.js")


async def test_the_root_still_answers_calls_as_fal_does(client: httpx.AsyncClient) -> None:
    answer = await client.post("/", json={})
    assert answer.status_code == 404
    assert answer.json()["code"] == "endpoint_not_found"


def _rules(policy: str) -> dict[str, str]:
    return dict(rule.split(" ", 1) for rule in policy.split("; "))
