"""Files of weights that are none, or lie about themselves."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.attacks.attempts import Attempts
from tests.attacks.bystander import watch_bystander
from tests.attacks.scene import ALLOWED, Scene, outcome
from tests.attacks.test_forged_requests import LORA, PROMPT, state_of
from tests.cluster.darkroom import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.long]

TENSOR = "transformer.proj_out.lora_A.weight"


def with_header(header: bytes, content: bytes = b"", length: int | None = None) -> bytes:
    size = len(header) if length is None else length
    return struct.pack("<Q", size) + header + content


def tensors(content: int = 8, **entries: Any) -> bytes:
    """File with these entries, and ``content`` bytes behind its header."""
    return with_header(json.dumps(entries).encode(), bytes(content))


def entry(shape: Any, begin: Any, end: Any, dtype: str = "F32", **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self._path),)


def zip_pickle(pickled: bytes) -> bytes:
    """As ``torch.save`` writes it, with names that lead elsewhere."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("../../../escaped", b"x")
        archive.writestr("/tmp/escaped", b"x")  # noqa: S108
    return written.getvalue()


def hostile(trap: Path) -> Mapping[str, bytes]:
    """Files by what is wrong with them. The first few are registered in a short run too."""
    pickled = pickle.dumps(Runs(trap))
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    many = {f"t{n}": entry([0], 0, 0) for n in range(60_000)}
    return {
        "pickle": pickled,
        "zip": zip_pickle(pickled),
        "overlapping": tensors(8, a=entry([2], 0, 8), b=entry([2], 0, 8)),
        "much metadata": tensors(
            8,
            __metadata__={f"modelspec.{n}": "x" * 100_000 for n in range(15)},
            **{TENSOR: entry([2], 0, 8)},
        ),
        "words of half a character": tensors(
            8, __metadata__={"modelspec.trigger_phrase": "\ud800"}, a=entry([2], 0, 8)
        ),
        "nothing": b"",
        "length of 2^63": with_header(b"{}", length=2**63),
        "length of 2^64 - 1": with_header(b"{}", length=2**64 - 1),
        "length of 1 GB": with_header(b"{}", length=2**30),
        "length of none": with_header(b"{}", length=0),
        "no JSON": with_header(b"{" + b"x" * 100),
        "a list": with_header(b"[1]"),
        "deep": with_header(deep),
        "deep list": with_header(b'{"a":' + b"[" * 100_000),
        "a name twice": with_header(b'{"a":1,"a":2}'),
        "a number of many digits": with_header(b'{"a":' + b"9" * 100_000 + b"}"),
        "no UTF-8": with_header(b'{"\xff":1}'),
        "a hole": tensors(16, a=entry([2], 8, 16)),
        "behind its end": tensors(8, a=entry([2**40], 0, 2**42)),
        "negative shape": tensors(8, a=entry([-2], 0, 8)),
        "negative place": tensors(8, a=entry([2], -8, 0)),
        "backwards": tensors(8, a=entry([2], 8, 0)),
        "NaN": with_header(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', bytes(8)),
        "Infinity": tensors(8, a=entry([float("inf")], 0, 8)),
        "fraction": tensors(8, a=entry([2.0], 0, 8)),
        "truth": tensors(8, a=entry([True], 0, 4)),
        "overflow": tensors(8, a=entry([2**62, 4, 2**62], 0, 8)),
        "nothing of much": tensors(0, a=entry([0, 2**62], 0, 0)),
        "many dimensions": tensors(4, a=entry([1] * 10_000, 0, 4)),
        "unknown type": tensors(8, a=entry([2], 0, 8, dtype="F4_OBJECT")),
        "more keys": tensors(8, a=entry([2], 0, 8, code="import os")),
        "an entry of text": tensors(8, a="x"),
        "many tensors": tensors(0, **many),
        "long name": tensors(8, **{"x" * 10**6: entry([2], 0, 8)}),
        "name with a way out": tensors(8, **{"../../../x": entry([2], 0, 8)}),
        "name with NUL": tensors(8, **{"a\0b": entry([2], 0, 8)}),
        "metadata of numbers": tensors(8, __metadata__={"a": 1}, a=entry([2], 0, 8)),
        "NaN values": with_header(json.dumps({TENSOR: entry([2], 0, 8)}).encode(), b"\xff" * 8),
        "GGUF": b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63),
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    }


NAMES = (
    *("../../../escaped.safetensors", "/tmp/escaped.safetensors", "..\\escaped.safetensors"),  # noqa: S108
    *("a/../../escaped.safetensors", "\u202egpj.safetensors", "CON.safetensors", ".safetensors"),
    *("escaped.safetensors\0.png", "x" * 5000 + ".safetensors", "~root.safetensors"),
)
PATHS = ("../../escaped.safetensors", "x\0y")


ELSEWHERE = (Path("/tmp/escaped"), Path("/tmp/escaped.safetensors"))  # noqa: S108


def upload_file(http: httpx.Client, content: bytes, name: str = "x.safetensors") -> httpx.Response:
    named = {"file_name": name, "content_type": "application/octet-stream"}
    place = http.post("/rest/storage/upload/initiate", json=named)
    if place.is_success:
        sent = http.put(place.json()["upload_url"], content=content)
        assert sent.is_success, sent.text
    return place


def test_no_file_of_a_request_is_unpickled_or_believed(
    scene: Scene, attempts: Attempts, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    with watch_bystander(scene, attempts), scene.client(scene.attacker["admin"]) as http:
        sent: dict[str, str] = {}
        for what, content in hostile(trap).items():
            url = upload_file(http, content).json()["file_url"]
            body = PROMPT | {"loras": [{"path": url}]}
            answer = http.post(f"/queue/{LORA}", json=body)
            assert answer.is_success, answer.text
            sent[what] = answer.json()["request_id"]
            listed = http.get("/v1/loras", params={"limit": 1})
            attempts.note(f"list with {what}: {listed.status_code}", held=listed.is_success)
        for what, request_id in sent.items():
            ended = outcome(http, request_id)
            error = ended["error"] or {}
            is_safe = ended["state"] == "failed" and error["code"] == "invalid_input"
            attempts.note(f"{what}: {ended['state']} {error}", held=is_safe)
    attempts.note("a file has run code", held=not trap.exists())


def test_no_name_of_a_file_leads_elsewhere(scene: Scene, attempts: Attempts) -> None:
    below = scene.darkroom.data_dir.parent
    with scene.client(scene.attacker["admin"]) as http:
        for name in NAMES:
            place = upload_file(http, b"escaped", name)
            is_safe = place.is_success or place.status_code == 422
            attempts.note(f"{name[:50]!r}: {place.status_code} {place.text[:200]}", held=is_safe)
        url = upload_file(http, b"escaped").json()["file_url"]
        for path in PATHS:
            body = {"name": "escaped", "base": ALLOWED, "files": {path: url}}
            answer = http.post("/v1/weights", json=body)
            what = f"{path[:50]!r}: {answer.status_code} {answer.text[:200]}"
            if answer.is_success:
                state = state_of(http, "escaped")
                attempts.note(f"{what} {state}", held=state["state"] == "refused")
                assert http.delete("/v1/weights/escaped").is_success
            else:
                attempts.note(what, held=answer.status_code in (400, 422))
        stored = scene.darkroom.data_dir / "artifacts"
        escaped = [file for file in below.rglob("*escaped*") if not file.is_relative_to(stored)]
        written = [*escaped, *(file for file in ELSEWHERE if file.exists())]
        attempts.note(f"written to {written}", held=not written)


def begins_check(http: httpx.Client, body: Mapping[str, Any]) -> bool:
    """Register weights. False: as many of the tenant's are being checked as may be."""
    answer = http.post("/v1/weights", json=body)
    if "of your weights are being checked" in answer.text:
        return False
    assert answer.is_success, answer.text
    return True


@pytest.mark.parametrize("count", [1, pytest.param(None, marks=pytest.mark.long)])
def test_no_registered_file_is_unpickled_or_believed(
    scene: Scene, attempts: Attempts, tmp_path: Path, count: int | None
) -> None:
    """Each is checked by a process, which takes seconds."""
    trap = tmp_path / "trap"
    with watch_bystander(scene, attempts), scene.client(scene.attacker["admin"]) as http:
        names: dict[str, str] = {}
        for number, (what, content) in enumerate([*hostile(trap).items()][:count]):
            url = upload_file(http, content).json()["file_url"]
            names[what] = f"hostile-{count or 'all'}-{number}"
            body = {"name": names[what], "base": ALLOWED, "source": url}
            eventually(partial(begins_check, http, body), f"{what} is checked")
        for what, name in names.items():
            state = state_of(http, name)
            is_safe = state["state"] == "refused" and len(state["problem"]) > 20
            attempts.note(f"{what}: {state}", held=is_safe)
    attempts.note("a file has run code", held=not trap.exists())
