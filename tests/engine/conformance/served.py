"""Serves a tiny pipeline of each class as its user would, and prints what a request delivers.

    python -m tests.engine.conformance.served [TITLE …]

Each pipeline is saved as a folder, added to a running Darkroom by `darkroom models add`, and asked
over HTTP for what its case asks for. The exit status is 1 if one delivers nothing.
"""

from __future__ import annotations

import base64
import io
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
from PIL import Image

from deployments.engine.media.audio import write_audio
from serve_app.catalog.catalog import StoredEntry, build_stored
from serve_app.domain.media.image_size import MIN_SIDE
from serve_app.options.inputs import DeclaredInput, InputType, declared_inputs
from tests.cluster.darkroom import Darkroom
from tests.engine.conformance.__main__ import be_quiet, say
from tests.engine.conformance.case import WISHES, Case
from tests.engine.conformance.derived import BUILDER, NOT_TRIED, SIDES, refusal, request_of
from tests.engine.conformance.zoo import cases

POOL = {"families": ["generic", "video", "audio"], "slots": 1, "num_cpus": 0.1}
REQUEST_S = 300.0
FPS = 8


class Refused(Exception):
    """The endpoint could not be added, or its request failed."""


def main() -> int:
    be_quiet()
    chosen = {title: cases()[title] for title in sys.argv[1:]} or {
        title: case for title, case in cases().items() if case.name not in NOT_TRIED
    }
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        darkroom = Darkroom(Path(folder) / "data", pools={"studio": POOL})
        try:
            darkroom.start()
            for title, case in chosen.items():
                if refusal(case) is not None:
                    continue
                began = time.monotonic()
                try:
                    outcome = deliver(darkroom, case, Path(folder) / case.name)
                except Refused as error:
                    failed += 1
                    outcome = f"FAILED: {error}"
                say(f"{title}: {outcome} ({time.monotonic() - began:.1f} s)")
        finally:
            darkroom.clear_away()
    return 1 if failed else 0


def deliver(darkroom: Darkroom, case: Case, folder: Path) -> str:
    """What a request to the endpoint delivers, in words."""
    try:
        save(case, folder)
    except Exception as error:  # of the case's own components, or of diffusers
        return f"not tried, since it cannot be saved: {error}".splitlines()[0]
    endpoint_id = f"house/{case.name.lower()}"
    try:
        added = darkroom.command("models", "add", endpoint_id, "--weights", str(folder))
        if added.returncode != 0:
            raise Refused(added.stderr.strip())
        output = answer(darkroom, endpoint_id, case)
    finally:
        darkroom.http.delete(f"/v1/models/entries/{endpoint_id}", params={"force": "true"})
        shutil.rmtree(folder, ignore_errors=True)
    files = [entry for value in output.values() for entry in _entries(value)]
    if not files:
        raise Refused(f"no file in {output}")
    return ", ".join(_described(entry) for entry in files)


def save(case: Case, folder: Path) -> None:
    pipeline = case.build()
    modular = {"overwrite_modular_index": True} if case.name.endswith("ModularPipeline") else {}
    pipeline.save_pretrained(str(folder), **modular)


def answer(darkroom: Darkroom, endpoint_id: str, case: Case) -> Mapping[str, Any]:
    """Output of the case's request, or of its nearest that is valid."""
    stored = darkroom.http.get(f"/v1/models/entries/{endpoint_id}").json()["entry"]
    arguments = case.arguments(WISHES[0])
    small = {name: value for name, value in arguments.items() if name.startswith("_")}
    if small:  # switches that keep the case tiny
        stored["options"] = {**stored["options"], "fixed": small}
        changed = darkroom.http.put(f"/v1/models/entries/{endpoint_id}", json=stored)
        if changed.status_code != 200:
            raise Refused(changed.text)
    entry = build_stored(BUILDER, StoredEntry(endpoint_id, stored), strict=True)
    body, files = request_of(entry.endpoint, arguments)
    declared = declared_inputs(entry.endpoint)
    for name, value in files.items():
        body[name] = _given(declared[name], value)
    for name, value in body.items():
        if name in declared and declared[name].type is InputType.SIZE:
            body[name] = {side: max(MIN_SIDE, value[side]) for side in SIDES}
    ran = darkroom.http.post(f"/run/{endpoint_id}", json=body, timeout=REQUEST_S)
    if ran.status_code != 200:
        raise Refused(f"{ran.status_code}: {ran.text[:600]}")
    return dict(ran.json())


def _entries(value: Any) -> list[Mapping[str, Any]]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, dict) and "url" in each]


def _described(entry: Mapping[str, Any]) -> str:
    content = httpx.get(entry["url"]).raise_for_status().content
    kind = entry["content_type"]
    if kind.startswith("image/"):
        return f"{kind} {Image.open(io.BytesIO(content)).size}"
    if kind.startswith(("video/", "audio/")):
        with av.open(io.BytesIO(content)) as file:
            streams = [stream.type for stream in file.streams]
            return f"{kind} {'+'.join(streams)} {(file.duration or 0) / 1e6:.2f} s"
    return f"{kind} {len(content)} bytes"


def _given(declared: DeclaredInput, value: Any) -> Any:
    """The file of a field as a request gives it."""
    if declared.fields:
        return [
            {
                name: _given(field, item[name]) if field.is_file else item[name]
                for name, field in declared.fields.items()
                if name in item
            }
            for item in value
        ]
    if isinstance(value, list):
        return [_data_uri(declared.type, each) for each in value]
    return _data_uri(declared.type, value)


def _data_uri(kind: InputType, value: Any) -> str:
    if kind is InputType.AUDIO:
        return _uri("audio/wav", _tone())
    if kind is InputType.VIDEO:
        frames = value.frames(*value.size, FPS, 1000) if hasattr(value, "frames") else value
        return _uri("video/mp4", _video(frames))
    png = io.BytesIO()
    value.save(png, "PNG")
    return _uri("image/png", png.getvalue())


def _uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _tone() -> bytes:
    times = np.arange(2 * 16_000) / 16_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tone.wav"
        samples = np.sin(times * 440 * 2 * np.pi)[None].astype(np.float32)
        write_audio(path, samples, 16_000, "audio/wav")
        return path.read_bytes()


def _video(frames: list[Image.Image]) -> bytes:
    written = io.BytesIO()
    with av.open(written, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height = (max(16, side // 2 * 2) for side in frames[0].size)
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            sized = frame.resize((stream.width, stream.height))
            container.mux(stream.encode(av.VideoFrame.from_image(sized)))
        container.mux(stream.encode())
    return written.getvalue()


if __name__ == "__main__":
    sys.exit(main())
