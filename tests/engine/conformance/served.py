"""A tiny pipeline, served as by its user: saved as a folder, added to a running Darkroom by
``darkroom models add``, and asked over HTTP for what its case asks for."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
from PIL import Image

from deployments.engine.interception.modular import is_modular
from deployments.engine.media.audio import write_audio
from deployments.engine.media.video_format import VideoForm
from deployments.engine.media.video_writer import VideoWriter
from serve_app.catalog.catalog import StoredEntry, build_stored
from serve_app.domain.media.data_uri import data_uri
from serve_app.domain.media.image_size import MIN_SIDE
from serve_app.options.inputs import DeclaredInput, InputType, declared_inputs
from tests.cluster.darkroom import Darkroom
from tests.engine.conformance.case import WISHES, Case
from tests.engine.conformance.derived import BUILDER, SIDES, request_of

REQUEST_S = 300.0
FPS = Fraction(8)
SHORT_S = "0.2"
STEPS = ("num_inference_steps", "prior_num_inference_steps")


def deliver(darkroom: Darkroom, case: Case, folder: Path) -> Sequence[Mapping[str, Any]]:
    """Files of a request's output. ``AssertionError``: what was answered in their place, or a file
    that cannot be read."""
    save(case, folder)
    return add_and_ask(darkroom, case, "--weights", str(folder))


def save(case: Case, folder: Path) -> None:
    """Save the case's pipeline in a folder."""
    modular = {"overwrite_modular_index": True} if is_modular(case.kind) else {}
    pipeline = case.build()
    pipeline.save_pretrained(str(folder), **modular)
    if case.name == "LLaDA2Pipeline":  # diffusers does not save what is optional
        pipeline.tokenizer.save_pretrained(str(folder / "tokenizer"))


def add_and_ask(darkroom: Darkroom, case: Case, *options: str) -> Sequence[Mapping[str, Any]]:
    """Files of a request to what ``darkroom models add`` serves by these options; or its output, if
    that is a text."""
    endpoint_id = f"house/{case.name.lower()}"
    added = darkroom.command("models", "add", endpoint_id, *options)
    assert added.returncode == 0, added.stderr
    output = answer(darkroom, endpoint_id, case)
    deleted = darkroom.command("models", "delete", endpoint_id)
    assert deleted.returncode == 0, deleted.stderr
    if output.get("output"):
        return [output]
    files = files_of(output)
    for entry in files:
        read_file(entry)
    return files


def answer(darkroom: Darkroom, endpoint_id: str, case: Case) -> Mapping[str, Any]:
    """Output of the case's request, or of its nearest that is valid."""
    body = body_of(darkroom, endpoint_id, case)
    ran = darkroom.http.post(f"/run/{endpoint_id}", json=body, timeout=REQUEST_S)
    assert ran.status_code == 200, ran.text
    return dict(ran.json())


def body_of(darkroom: Darkroom, endpoint_id: str, case: Case, steps: int = 0) -> Mapping[str, Any]:
    """Input of the case's request, or of its nearest that is valid.

    ``steps``: so many, which the endpoint is changed to take, of a video that is as short as the
    case's. 0: those of the case.
    """
    stored = darkroom.http.get(f"/v1/models/entries/{endpoint_id}").json()["entry"]
    arguments = case.arguments(WISHES[0])
    small = {name: value for name, value in arguments.items() if name.startswith("_")}
    if small:  # switches that keep the case tiny
        stored["options"] = {**stored["options"], "fixed": small}
    inputs: Mapping[str, dict[str, Any]] = stored["options"].get("inputs", {})
    numbers = {
        name: field
        for name, field in inputs.items()
        if steps and field.get("argument", name) in STEPS and "refused" not in field
    }
    for field in numbers.values():
        field["most"] = 1000
    if numbers and inputs.get("duration", {}).get("choices"):  # 6 s are an hour of steps here
        inputs["duration"].update(choices=[SHORT_S], default=SHORT_S)
    if small or numbers:
        changed = darkroom.http.put(f"/v1/models/entries/{endpoint_id}", json=stored)
        assert changed.status_code == 200, changed.text
    entry = build_stored(BUILDER, StoredEntry(endpoint_id, stored), strict=True)
    body, files = request_of(entry.endpoint, arguments)
    declared = declared_inputs(entry.endpoint)
    for name, value in files.items():
        body[name] = _given(declared[name], value)
    for name, value in body.items():
        if name in declared and declared[name].type is InputType.SIZE:
            body[name] = {side: max(MIN_SIDE, value[side]) for side in SIDES}
    return body | dict.fromkeys(numbers, steps)


def files_of(output: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for value in output.values() for entry in _entries(value)]


def _entries(value: Any) -> list[Mapping[str, Any]]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, dict) and "url" in each]


def read_file(entry: Mapping[str, Any]) -> bytes:
    """Content of a file of an output, which its type says how to read."""
    content = httpx.get(entry["url"]).raise_for_status().content
    assert len(content) == entry["file_size"]
    match entry["content_type"].partition("/")[0]:
        case "image":
            Image.open(io.BytesIO(content)).load()
        case "video" | "audio":
            with av.open(io.BytesIO(content)) as file:
                assert next(file.decode(file.streams[0])) is not None
        case _:
            assert content.startswith(b"glTF")
    return content


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
        return [as_url(declared.type, each) for each in value]
    return as_url(declared.type, value)


def as_url(kind: InputType, value: Any) -> str:
    if kind is InputType.AUDIO:
        return data_uri(_tone(), "audio/wav")
    if kind is InputType.VIDEO:
        frames = value.frames(*value.size, FPS, 1000) if hasattr(value, "frames") else value
        return data_uri(_video(frames), "video/mp4")
    png = io.BytesIO()
    value.save(png, "PNG")
    return data_uri(png.getvalue(), "image/png")


def _tone() -> bytes:
    samples = np.sin(np.arange(2 * 16_000, dtype=np.float32) / 6)[None]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tone.wav"
        write_audio(path, samples, 16_000, "audio/wav")
        return path.read_bytes()


def _video(frames: Sequence[Image.Image]) -> bytes:
    width, height = (max(16, side // 2 * 2) for side in frames[0].size)
    form = VideoForm("video/mp4", width, height, FPS, len(frames))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        with VideoWriter(path, form) as writer:
            for frame in frames:
                writer.write(np.asarray(frame.resize((width, height))))
        return path.read_bytes()
