"""Valid bodies, frames and lines that are damaged. Needs neither torch nor FFmpeg."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import msgpack

from serve_app.domain.audit.chain import SealedAct
from serve_app.queue.audit_log import chain_acts

JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(64)


def bodies() -> Sequence[bytes]:
    body = {
        "prompt": "a red \u2028 circle",
        "image_size": {"width": 512, "height": 768},
        "loras": [{"path": "https://example.org/a.safetensors", "scale": 0.8}],
        "seed": 42, "guidance_scale": 3.5e0, "sync_mode": True, "image_url": None,
    }  # fmt: skip
    return [json.dumps(body).encode(), b"{}", b'[1, 2, {"a": "\\u00e9\\ud83d\\ude00"}]', b'"text"']


def frames() -> Sequence[bytes]:
    frame = {
        "prompt": "a red circle", "image": JPEG, "steps": 4, "scale": 1.5,
        "nested": {"a": [1, None, {"b": [True, -1, 2**63]}]},
    }  # fmt: skip
    odd = {"at": msgpack.Timestamp(1, 2), "own": msgpack.ExtType(5, b"x")}
    return [msgpack.packb(value) for value in (frame, {}, odd, [1], {"image": b"\xff\xd8\xff"})]


def audit_lines() -> Sequence[bytes]:
    at = datetime(2026, 5, 1, tzinfo=UTC)
    acts = [
        SealedAct(0, n, at, "key", "10.0.0.7", "endpoint.pause", "e", {"n": n}, "", "")
        for n in range(3)
    ]
    return ["".join(entry.line for entry in chain_acts(None, acts)).encode()]
