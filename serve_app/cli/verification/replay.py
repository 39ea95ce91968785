"""An image is drawn again from what its manifest says, and compared."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from PIL import Image, ImageChops

from darkroom import images
from serve_app.cli.connection.client import ApiFailure, Client
from serve_app.cli.connection.server import Server
from serve_app.cli.generation.files import content_of, outputs
from serve_app.domain.errors import InvalidInput
from serve_app.domain.media.images import read_image
from serve_app.provenance.reader import SignatureState, verify

ALONE = {"X-Darkroom-Deterministic": "1", "X-Darkroom-Cache": "no"}
COMPARED = ("endpoint", "model", "loras", "seed", "steps", "versions")
"""Facts that decide the pixels."""


@dataclass(frozen=True, slots=True)
class Replay:
    """Difference between a file and the image that was drawn again."""

    most: int  # largest difference of a channel of a pixel, of 255
    changed: float  # share of the pixels that differ
    deterministic: bool  # the file's own request was
    differing_facts: Sequence[str] = ()  # such as versions
    facts_known: bool = True  # False: the server signs no files, so what differs is not known

    @property
    def equal(self) -> bool:
        return self.most == 0

    @property
    def words(self) -> str:
        if self.equal:
            return "drawn again, every pixel is equal"
        unsaid = "" if self.facts_known else "; the server signs no files, so it does not say why"
        text = (
            f"drawn again, {self.changed:.1%} of the pixels differ, by at most {self.most} of 255"
        )
        if not self.deterministic:
            text += "; the file's request was not deterministic, so small differences are usual"
        return text + unsaid


Draw = Callable[[str, dict[str, Any]], Iterable[bytes]]
"""Makes the images of a request to an endpoint with an input."""


def replay(draw: Draw, file: Path, facts: Mapping[str, Any]) -> Replay:
    """Draw the image again and compare it with the file.

    Raises ``InvalidInput`` if the manifest does not say enough, or the file is no image.
    """
    body = _body(file, facts)
    try:
        with file.open("rb") as opened:
            before = images.read_image(opened)
    except (images.ImageError, OSError):
        raise InvalidInput(f"{file} is no image that can be compared.") from None
    contents = draw(str(facts["endpoint"]), body)
    measured = [(_difference(before, content), content) for content in contents]
    if not measured:
        raise ApiFailure(f"{facts['endpoint']} returned no image.")
    (most, changed), nearest = min(measured, key=lambda measurement: measurement[0])
    now = _facts_of(nearest, file.suffix)
    differing = tuple(_differing(facts, now))
    return Replay(most, changed, bool(facts.get("deterministic")), differing, bool(now))


def _body(file: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Input of the request that made the file. ``InvalidInput``: the manifest does not have it."""
    description = facts.get("description")
    if (
        not isinstance(description, dict)
        or not facts.get("endpoint")
        or "prompt" not in description
    ):
        raise InvalidInput(
            f"The manifest of {file} has no prompt, so the image cannot be drawn again. Prompts "
            "are in manifests of described files only (DARKROOM_DESCRIBE_FILES)."
        )
    described = cast("Mapping[str, Any]", description)
    settings: Mapping[str, Any] = described.get("settings") or {}
    missing = {*map(str, described.get("left_out") or ())}
    # Manifests of older versions do not say what was left out.
    if facts.get("loras") and not all("path" in lora for lora in settings.get("loras") or [{}]):
        missing.add("loras")
    if missing or "seed" not in facts:
        names = ", ".join(sorted(missing) or ["seed"])
        raise InvalidInput(
            f"The manifest of {file} does not have the whole input, so the image cannot be drawn "
            f"again: {names}. URLs and inlined files are left out of manifests, since they may be "
            "secret."
        )
    return {"prompt": described["prompt"], "seed": facts["seed"], **settings}


def drawn_by(server: Server) -> Draw:
    """Draw on a server: alone, and without an earlier outcome.

    Raises ``ApiFailure`` if it fails there, and ``Misconfigured`` if the server does not answer for
    longer than a restart takes.
    """

    def draw(endpoint: str, body: dict[str, Any]) -> Iterator[bytes]:
        with Client(server) as client:
            submitted = client.submit(endpoint, body, headers=ALONE)
            *_, last = client.follow(submitted)
            for output in outputs(client.output(submitted, last)):
                yield content_of(client, output)

    return draw


def _difference(before: Image.Image, content: bytes) -> tuple[int, float]:
    """Largest difference of a channel, and the share of pixels that differ."""
    after = read_image(content, "image")
    if after.size != before.size:
        return 255, 1.0
    channels = ImageChops.difference(before, after).split()
    most = ImageChops.lighter(ImageChops.lighter(channels[0], channels[1]), channels[2])
    histogram = most.histogram()
    largest = max(level for level, count in enumerate(histogram) if count)
    return largest, 1 - histogram[0] / (after.width * after.height)


def _facts_of(content: bytes, suffix: str) -> Mapping[str, Any]:
    """What the manifest of an image says that was drawn again; empty if it is not signed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"again{suffix}"
        path.write_bytes(content)
        verification = verify(path)
    return {} if verification.verdict is SignatureState.UNSIGNED else verification.generation


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    if not after:
        return []
    differences: list[str] = []
    for name in COMPARED:
        if name == "versions":
            old, new = before.get(name, {}), after.get(name, {})
            differences += [
                f"{key} {old.get(key, 'unknown')} then, {new.get(key, 'unknown')} now"
                for key in sorted({*old, *new})
                if old.get(key) != new.get(key)
            ]
        elif before.get(name) != after.get(name):
            differences.append(f"{name} {before.get(name)} then, {after.get(name)} now")
    return differences
