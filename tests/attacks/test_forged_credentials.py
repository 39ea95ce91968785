"""Forged signatures: of URLs, tokens, upload URLs, share links and files."""

from __future__ import annotations

import base64
import hmac
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest
from PIL import Image

from tests.attacks.attempts import Attempts
from tests.attacks.scene import ALLOWED, Scene, outcome
from tests.cli.verification.test_verify import sign_file
from tests.cluster.darkroom import eventually
from tests.ingress.api.files.private import lifecycle

pytestmark = [pytest.mark.cluster, pytest.mark.long]

CANARY = b"a lighthouse that no one else knows"
JWKS = "/.well-known/jwks.json"


def private_file(http: httpx.Client, name: str = "a.png") -> str:
    """Signed URL of a new private file."""
    headers = {"content-type": "image/png", "x-fal-file-name": name} | lifecycle("hide")
    answer = http.post("/cdn/files/upload", content=CANARY, headers=headers)
    assert answer.is_success, answer.text
    path = urlsplit(answer.json()["access_url"]).path
    signed_url = http.post("/v1/files/sign", json={"path": path, "expires_in": 3600})
    assert signed_url.is_success, signed_url.text
    return str(signed_url.json()["url"])


def altered_texts(text: str) -> Iterator[str]:
    """The text with another character at each place, and shorter, longer and empty ones."""
    for place in range(len(text)):
        yield f"{text[:place]}{'A' if text[place] != 'A' else 'B'}{text[place + 1 :]}"
    yield from (text[:-1], f"{text}A", "", text.swapcase(), f"{text}\u00e9", f"{text}%00")


def test_no_other_url_reads_a_private_file(scene: Scene, attempts: Attempts) -> None:
    with (
        scene.client(scene.victim["admin"]) as victim,
        scene.client(scene.attacker["admin"]) as attacker,
        scene.client() as nobody,
    ):
        good, other, own = (private_file(owner) for owner in (victim, victim, attacker))
        assert nobody.get(good).content == CANARY
        path, query = urlsplit(good).path, dict(parse_qsl(urlsplit(good).query))
        of_other, of_own = (dict(parse_qsl(urlsplit(url).query)) for url in (other, own))
        later = {**query, "expires": str(int(query["expires"]) + 1)}
        wrong: list[Mapping[str, Any]] = [
            *({**query, "signature": signature} for signature in altered_texts(query["signature"])),
            *(later, {**query, "expires": ""}, {"signature": query["signature"]}, {}, of_other),
            *(of_own, {**query, "id": "x"}, {**query, "expires": f"0{query['expires']}"}),
            *(
                {**query, "expires": expiry}
                for expiry in ("nan", "1e99", "-1", "\u0661", "9" * 5000)
            ),
        ]
        for parameters in wrong:
            for http in (nobody, attacker):
                answer = http.get(path, params=parameters)
                is_safe = answer.status_code in (400, 401, 403, 404, 422)
                attempts.note(f"{path} {parameters}: {answer.status_code}", held=is_safe)
        for written in spellings(path):
            answer = nobody.get(f"{scene.darkroom.url}{written}")
            attempts.note(f"{written}: {answer.status_code}", held=CANARY not in answer.content)
        assert nobody.post("/v1/files/revoke", json={"url": good}).status_code == 401
        assert victim.post("/v1/files/revoke", json={"url": good}).is_success
        eventually(lambda: nobody.get(good).status_code == 404, "it is revoked", 20)


def spellings(path: str) -> Iterator[str]:
    """Other ways to write a path, without its signature."""
    tail = path.removeprefix("/files/")
    yield from (f"/files//{tail}", f"/files/./{tail}", f"/files/u/../{tail}", f"//files/{tail}")
    yield from (f"/files/%2e%2e/files/{tail}", f"/files/{tail}/", f"/files/{tail}%00", path.upper())
    yield from (f"/files/{tail.replace('/', '%2F')}", f"/files/{tail.replace('p/', 'P/', 1)}")
    yield from (f"/files/{tail};x", f"/files/u/%2e%2e/{tail}", f"/shared/files/{tail}")


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def tokens(good: str, jwks: bytes, key: str) -> Iterator[str]:
    """Forgeries of a token, with what an attacker knows."""
    head, body, signature = good.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    more = {**claims, "apps": ["test/probe", "*"], "exp": claims["exp"] + 10**6}
    for algorithm in ("none", "None", "NONE", "nOnE", ""):
        yield f"{part({'alg': algorithm})}.{part(more)}."
        yield f"{part({'alg': algorithm})}.{part(more)}.{signature}"
    public = json.loads(jwks)["keys"][0]
    raw = base64.urlsafe_b64decode(public["x"] + "==")
    for secret in (jwks, raw, public["x"].encode(), json.dumps(public).encode(), b"", key.encode()):
        for algorithm in ("HS256", "HS384", "HS512"):
            text = f"{part({'alg': algorithm})}.{part(more)}"
            digest = hmac.digest(secret, text.encode(), f"sha{algorithm[2:]}")
            yield f"{text}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
    jwk = {"kty": "oct", "k": base64.urlsafe_b64encode(b"x" * 32).decode().rstrip("=")}
    for extra in ({"jwk": jwk}, {"jku": "http://127.0.0.1:9/jwks"}, {"kid": "/dev/null"}):
        text = f"{part({'alg': 'HS256', **extra})}.{part(more)}"
        for secret in (b"x" * 32, b"\0", b""):
            digest = hmac.digest(secret, text.encode(), "sha256")
            yield f"{text}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
    yield f"{part({'alg': 'EdDSA'})}.{part(more)}.{signature}"
    yield f"{part({'alg': 'HS256', 'crit': ['exp'], 'b64': False})}.{body}.{signature}"
    for name in ("sub", "key", "apps", "exp", "iss"):
        yield f"{head}.{part({**claims, name: None})}.{signature}"
    yield f"{head}.{part({**claims, 'sub': 'victim'})}.{signature}"
    yield from (f"{head}.{body}.{forged}" for forged in altered_texts(signature[:12]))
    yield from (f"{head}.{body}", f"{head}.{body}.{signature}.{signature}", "..", ".", "a.b.c")


def test_no_forged_token_is_taken(scene: Scene, attempts: Attempts) -> None:
    """Of browsers, of uploads, of streams and of replicas."""
    with scene.client(scene.attacker["submit"]) as http, scene.client() as nobody:
        browsers = http.post("/rest/tokens/", json={"allowed_apps": [ALLOWED]}).json()
        with scene.client(scene.attacker["admin"]) as admin:
            uploads = admin.post("/rest/storage/auth/token").json()["token"]
        jwks = nobody.get(JWKS).content
        private = any("d" in jwk for jwk in json.loads(jwks)["keys"])
        attempts.note("JWKS with a private key", held=not private)
        reader = f"darkroom-reader.{base64.urlsafe_b64encode(b'victim').decode()}.9999999999.AAAA"
        for good in (browsers, uploads):
            for token in (*tokens(good, jwks, scene.attacker["submit"]), reader):
                for is_safe, what in try_token(nobody, token):
                    attempts.note(f"{token}: {what}", held=is_safe)
        for token in (browsers, uploads):  # good ones, for something else than they are for
            for method, path in (
                *(("GET", "/v1/requests"), ("GET", "/v1/keys"), ("POST", "/queue/test/probe")),
                *(("POST", "/v1/keys"), ("POST", "/rest/tokens/"), ("GET", "/v1/usage")),
            ):
                for headers in ({"Authorization": f"Bearer {token}"}, {"x-api-key": token}):
                    answer = nobody.request(method, path, json={}, headers=headers)
                    is_safe = answer.status_code in (401, 403)
                    attempts.note(f"{method} {path}: {answer.status_code}", held=is_safe)


def try_token(nobody: httpx.Client, token: str) -> Iterator[tuple[bool, str]]:
    """Calls that take tokens, by whether they refuse this one."""
    try:
        headers = httpx.Headers({"Authorization": f"Bearer {token}"}, encoding="utf-8")
    except UnicodeEncodeError:
        return
    calls = [
        ("POST", "/cdn/files/upload", {}, headers),
        ("POST", f"/run/{ALLOWED}/stream?{urlencode({'fal_jwt_token': token})}", {}, None),
        ("GET", "/v1/requests", None, headers),
    ]
    for method, path, body, sent in calls:
        answer = nobody.request(method, path, json=body, headers=sent)
        is_safe = answer.status_code in (400, 401, 403, 422)
        yield is_safe, f"{method} {path[:40]}: {answer.status_code} {answer.text[:80]}"


def test_no_guessed_secret_opens_a_share_or_an_upload(scene: Scene, attempts: Attempts) -> None:
    with scene.client(scene.victim["admin"]) as victim, scene.client() as nobody:
        begun = victim.post(
            "/rest/storage/upload/initiate", json={"file_name": "a.png"}, headers=lifecycle("hide")
        ).json()
        url, _, secret = begun["upload_url"].rpartition("/")
        request_id = victim.post("/queue/test/probe", json={"artifacts": 1}).json()["request_id"]
        outcome(victim, request_id)
        share = victim.post(f"/v1/requests/{request_id}/share", json={}).json()["url"]
        token = share.rpartition("/")[2]
        for guess in altered_texts(secret):
            answer = nobody.put(f"{url}/{guess}", content=b"not the victim's")
            attempts.note(f"PUT {guess}: {answer.status_code}", held=answer.status_code >= 400)
        for guess in altered_texts(token):
            answer = nobody.get(f"/v1/shared/{guess}")
            attempts.note(f"share {guess}: {answer.status_code}", held=answer.status_code >= 400)
        assert victim.put(begun["upload_url"], content=CANARY).is_success
        again = nobody.put(begun["upload_url"], content=b"not the victim's")
        attempts.note(f"a second PUT: {again.status_code}", held=again.status_code >= 400)
        assert victim.get(begun["file_url"]).content == CANARY


def generate_image(http: httpx.Client) -> bytes:
    body = {"prompt": "a red circle", "output_format": "png", "num_inference_steps": 1}
    submitted = http.post(f"/queue/{ALLOWED}", json=body).json()
    assert outcome(http, submitted["request_id"])["state"] == "succeeded"
    result = http.get(submitted["response_url"]).json()
    return http.get(result["images"][0]["url"]).content


def test_no_forged_file_is_trusted(scene: Scene, attempts: Attempts) -> None:
    """Each check is a process, so few bytes are changed."""
    with scene.client(scene.victim["admin"]) as http:
        genuine = generate_image(http)

        def verdict(content: bytes) -> tuple[int, str]:
            answer = http.post("/v1/verify", content=content, headers={"content-type": "image/png"})
            return answer.status_code, str(answer.json().get("verdict"))

        assert verdict(genuine) == (200, "trusted")
        plain = io.BytesIO()
        Image.open(io.BytesIO(genuine)).save(plain, "PNG")
        manifest, rest = chunks(genuine), chunks(plain.getvalue())
        of_c2pa = [chunk for chunk in manifest if chunk[4:8] == b"caBX"]
        forgeries = {
            "signed by another": sign_file(plain.getvalue()),
            "its manifest on other bytes": b"".join([*rest[:2], *of_c2pa, *rest[2:]]),
            "a text added": b"".join([*manifest[:-1], TEXT, manifest[-1]]),
            "cut off": genuine[: len(genuine) // 2],
            **{
                f"a bit of {chunk[4:8]!r} changed": genuine.replace(chunk, flip_bit(chunk))
                for chunk in manifest[1:-1]
                if chunk[4:8] in (b"IHDR", b"IDAT")
            },
        }
        for what, content in forgeries.items():
            response = verdict(content)
            is_safe = response[1] != "trusted" and response[0] < 500
            attempts.note(f"{what}: {response}", held=is_safe)


_COMMENT = b"tEXtComment\0abc"
TEXT = b"\0\0\0\x0b" + _COMMENT + zlib.crc32(_COMMENT).to_bytes(4, "big")


def chunks(png: bytes) -> list[bytes]:
    """The signature of a PNG file, and its chunks."""
    parts, at = [png[:8]], 8
    while at < len(png):
        size = int.from_bytes(png[at : at + 4], "big") + 12
        parts.append(png[at : at + size])
        at += size
    return parts


def flip_bit(chunk: bytes) -> bytes:
    """The chunk with a bit of its content changed, and the sum of it that fits."""
    at = 8 + (len(chunk) - 12) // 2
    body = chunk[4:at] + bytes([chunk[at] ^ 1]) + chunk[at + 1 : -4]
    return chunk[:4] + body + zlib.crc32(body).to_bytes(4, "big")
