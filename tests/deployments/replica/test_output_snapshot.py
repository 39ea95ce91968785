"""Content of a snapshot with several parts, and refused snapshots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from deployments.families.base import Product
from deployments.replica import resume
from deployments.replica.resume import FinishedOutput, from_bytes, is_parts_snapshot, to_bytes
from deployments.transfer.uploader import MediaFile
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import SnapshotRefused

UNDER_WAY = b"\x00the engine's"


def ticket(key: str, media_type: str = "video/mp4") -> UploadTicket:
    return UploadTicket(key, f"http://s/{key}", media_type, 10**6)


def video(key: str, body: bytes | Path) -> FinishedOutput:
    files = [MediaFile(ticket(key), body, 64, 48), MediaFile(ticket(f"{key}p"), b"p", 4, 3)]
    output = {
        "video": {"artifact": key, "width": 64, "more": [{"artifact": f"{key}p"}]},
        "seed": 2**63,
        "prompt": "où",
    }
    return FinishedOutput(Product(output, files, units=1.5), steps=4)


def of_two(tmp_path: Path) -> bytes:
    lies = tmp_path / "video.mp4"
    lies.write_bytes(b"on the disk")
    return to_bytes([video("old/0", b"in memory"), video("old/1", lies)], UNDER_WAY)


def rewritten(body: bytes, **changes: Any) -> bytes:
    size = int.from_bytes(body[:8], "little")
    stored = json.loads(json.loads(body[8 : 8 + size])["__metadata__"]["darkroom-parts"])
    return save(load(body), metadata={"darkroom-parts": json.dumps(stored | changes)})


def test_what_comes_out_is_what_went_in_with_the_tickets_of_another_attempt(
    tmp_path: Path,
) -> None:
    body = of_two(tmp_path)
    assert is_parts_snapshot(body)
    tickets = [(ticket(f"new/{n}"), ticket(f"new/{n}p")) for n in range(3)]
    (first, second), under_way = from_bytes(body, tickets)
    assert under_way == UNDER_WAY
    assert [file.body for file in first.product.files] == [b"in memory", b"p"]
    assert [file.body for file in second.product.files] == [b"on the disk", b"p"]
    assert [file.ticket for file in second.product.files] == list(tickets[1])
    assert [(file.width, file.height) for file in first.product.files] == [(64, 48), (4, 3)]
    assert first.product.output == {
        "video": {"artifact": "new/0", "width": 64, "more": [{"artifact": "new/0p"}]},
        "seed": 2**63,
        "prompt": "où",
    }
    assert (second.product.units, second.steps) == (1.5, 4)


def test_before_the_first_is_finished_it_holds_what_is_under_way() -> None:
    assert from_bytes(to_bytes([], UNDER_WAY), []) == ([], UNDER_WAY)


def test_files_that_are_too_large_together_are_refused_with_both_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resume, "MAX_BYTES", 20)
    to_bytes([video("a", b"0" * 19)], UNDER_WAY)
    with pytest.raises(SnapshotRefused, match="22 bytes, more than the limit of 20"):
        to_bytes([video("a", b"0" * 10), video("b", b"0" * 10)], UNDER_WAY)


def test_files_that_are_gone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SnapshotRefused, match="the attempt has ended"):
        to_bytes([video("a", tmp_path / "nothing")], UNDER_WAY)


def test_the_engines_own_is_another_and_other_bytes_are_none() -> None:
    assert not is_parts_snapshot(save({"a": np.zeros(1)}, metadata={"darkroom": "{}"}))
    for body in (b"", b"anything", save({"a": np.zeros(1)}), (99).to_bytes(8, "little") + b"[]"):
        with pytest.raises(SnapshotRefused):
            is_parts_snapshot(body)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    body = of_two(tmp_path)
    enough = [(ticket("x"), ticket("y"))] * 3
    for broken, tickets in (
        (body[:-3], enough),
        (body, enough[:1]),
        (body, [(ticket("x"),)] * 3),
        (rewritten(body, format=2), enough),
        (rewritten(body, finished=None), enough),
        (rewritten(body, finished=[{}]), enough),
    ):
        with pytest.raises(SnapshotRefused):
            from_bytes(broken, tickets)
