"""Video in a real browser: it plays the files that replicas write."""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deployments.engine.media.video_format import VideoForm
from deployments.engine.media.video_writer import VideoWriter
from tests.page.reader import Reader
from tests.page.test_lightbox import video

PLAYED = """async ([output, seconds]) => {
    const { filesIn, fileFigure } = await import("/page/results/media.js");
    const files = filesIn(output);
    const figure = fileFigure(files[0], "a bar that wanders");
    document.body.append(figure);
    const video = figure.querySelector("video");
    await new Promise((resolve, reject) => {
        video.addEventListener("loadeddata", resolve, { once: true });
        video.addEventListener("error", () => reject(video.error.message), { once: true });
    });
    const ended = new Promise((resolve) => video.addEventListener("timeupdate", () => {
        if (video.currentTime > seconds / 2) resolve();
    }));
    video.muted = true;
    await video.play();
    await ended;
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    const pen = canvas.getContext("2d");
    pen.drawImage(video, 0, 0);
    return {
        files: files.length,
        width: video.videoWidth,
        height: video.videoHeight,
        duration: video.duration,
        poster: video.poster,
        muted: video.muted && video.loop,
        label: video.getAttribute("aria-label"),
        facts: figure.querySelector(".facts").textContent,
        corner: [...pen.getImageData(2, 2, 1, 1).data].slice(0, 3),
    };
}"""


@pytest.mark.variants(1)
@pytest.mark.parametrize(("name", "media_type"), [("mp4", "video/mp4"), ("webm", "video/webm")])
def test_a_video_plays_in_its_colours_with_its_poster(
    reader: Reader, tmp_path: Path, name: str, media_type: str
) -> None:
    path = tmp_path / f"video.{name}"
    green = np.full((96, 160, 3), (40, 200, 60), dtype=np.uint8)
    with VideoWriter(path, VideoForm(media_type, 160, 96, Fraction(24), 24)) as writer:
        for number in range(24):
            frame = green.copy()
            frame[40:60, number * 4 : number * 4 + 20] = (220, 40, 40)
            writer.write(frame)
    poster = BytesIO()
    Image.fromarray(green).save(poster, "JPEG")
    reader.darkroom.house.storage.objects |= {
        f"a/video.{name}": path.read_bytes(),
        "a/poster.jpg": poster.getvalue(),
    }
    output = {
        "video": {
            "url": f"/files/a/video.{name}",
            "content_type": media_type,
            "width": 160,
            "height": 96,
            "duration": 1.0,
        },
        "poster": {"url": "/files/a/poster.jpg", "content_type": "image/jpeg"},
        "seed": 1,
    }
    played = reader.page.evaluate(PLAYED, [output, 1.0])
    assert played["files"] == 1
    assert played["muted"]
    assert (played["width"], played["height"]) == (160, 96)
    assert played["duration"] == pytest.approx(1.0, abs=0.03)
    assert played["poster"].endswith("/files/a/poster.jpg")
    assert played["label"] == "a bar that wanders"
    assert played["facts"].startswith("160 × 96 · 1 s")
    assert np.abs(np.array(played["corner"]) - (40, 200, 60)).max() < 12


FIGURES = """async ([url, count]) => {
    const { filesIn, fileFigure } = await import("/page/results/media.js");
    const host = document.createElement("div");
    document.getElementById("work").before(host);
    for (let number = 0; number < count; number += 1) {
        const [file] = filesIn({ video: { url, content_type: "video/webm" } });
        const sheet = document.createElement("article");
        sheet.className = "sheet";
        sheet.dataset.test = number;
        sheet.append(fileFigure(file, "a bar"));
        host.append(sheet);
    }
}"""
MOVES = """video => video.currentTime > 0 && !video.paused
    || new Promise((resolve) => video.addEventListener("timeupdate", () => resolve(true)))"""


@pytest.mark.long
def test_the_newest_video_plays_in_sight_and_others_under_the_mouse(
    reader: Reader, tmp_path: Path
) -> None:
    reader.darkroom.house.storage.objects["a/film.webm"] = video(tmp_path / "film.webm")
    reader.page.evaluate(FIGURES, ["/files/a/film.webm", 2])
    newest, other = (reader.page.locator(f'[data-test="{at}"] video') for at in range(2))
    assert newest.evaluate(MOVES)
    assert other.evaluate("video => video.paused")
    other.hover()
    assert other.evaluate(MOVES)
    reader.page.locator('[data-test="0"]').evaluate("sheet => { sheet.style.marginTop = '-200vh' }")
    newest.evaluate(
        "video => video.paused || new Promise((resolve) => "
        "video.addEventListener('pause', resolve, { once: true }))"
    )
