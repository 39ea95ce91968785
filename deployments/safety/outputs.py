"""Safety policy for generated files: what is unsafe is flagged, blurred or blocked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

from deployments.families.base import Product
from deployments.safety.checkers import Checkers
from deployments.transfer.uploader import MediaFile
from serve_app.domain.errors import ContentBlocked
from serve_app.domain.media.draft import DRAFT_TYPE
from serve_app.domain.media.safety import withholds_audio

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

FRAMES = 8
"""Frames of a video that are checked, evenly spread over it."""

BLUR_SHARE = 0.06
"""Radius of a blur as a share of the image's longer side: shapes go, colours stay."""

SAFETY = "darkroom_safety"
"""Field of an output that says what checked it."""

NOT_CHECKED = "not-checked"

FLAGS = "has_nsfw_concepts"

Encode = Callable[["Image", str], bytes]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a rule decided about a file."""

    rule: str  # name of the checker
    action: str  # flag, blur, block, or pass if it was not checked
    label: str = ""
    score: float = 0.0


class OutputPolicy:
    """Rules for the files of one attempt. Call ``apply`` on an encoder's thread."""

    def __init__(self, rules: Sequence[Mapping[str, Any]], checkers: Checkers, prompt: str) -> None:
        """``rules``: those of the lease."""
        self._rules = rules
        self._checkers = checkers
        self._prompt = prompt

    def apply(self, product: Product, encode: Encode) -> tuple[Product, Sequence[Decision]]:
        """Return the product as it may be delivered, and the decisions that were not "safe".

        Raises ``ContentBlocked`` if a rule blocks a file, or if a file cannot be checked and the
        rule does not let that pass.
        """
        files: list[MediaFile] = []
        decisions: list[Decision] = []
        flagged: set[str] = set()
        seen = [0] * len(self._rules)
        for file in product.files:
            rulings: list[Decision] = []
            if file.ticket.media_type != DRAFT_TYPE:  # nobody sees it before it is finished
                for place, rule in enumerate(self._rules):
                    looked, decision = self._check_file(file, rule)
                    seen[place] += looked
                    rulings += [decision] if decision is not None else []
            decisions += rulings
            if any(ruling.action in ("flag", "blur") for ruling in rulings):
                flagged.add(file.ticket.key)
            blurs = any(ruling.action == "blur" for ruling in rulings)
            files.append(_blur(file, encode) if blurs else file)
        sizes = {media_file.ticket.key: media_file.size for media_file in files}
        output = _with_flags(product.output, flagged, sizes)
        total = sum(media_file.ticket.media_type != DRAFT_TYPE for media_file in files)
        output = {**output, SAFETY: _verdict(self._rules, seen, total)}
        return replace(product, output=output, files=files), decisions

    def _check_file(self, file: MediaFile, rule: Mapping[str, Any]) -> tuple[bool, Decision | None]:
        """Return if the rule's checker looked at the file, and the decision unless it is safe."""
        media_type = file.ticket.media_type
        if media_type.startswith("audio/"):
            return False, _unheard(rule)
        try:
            checker = self._checkers.checker(rule["checker"])
            findings = [checker.check(image, self._prompt) for image in _images(file)]
            # Raises an error if the file has no images: then it cannot be checked.
            worst = max(findings, key=lambda finding: (finding.unsafe, finding.score))
        except Exception as error:
            return False, _on_check_error(rule, error)
        if not worst.unsafe:
            return True, None
        action = str(rule["action"])
        can_blur = media_type.startswith("image/") and media_type != "image/gif"
        if action == "block" or (action == "blur" and not can_blur):
            raise ContentBlocked(
                f"The safety policy of this installation blocks the output ({rule['name']}"
                f"{f': {worst.label}' if worst.label else ''}). Change the prompt."
            )
        return True, Decision(str(rule["name"]), action, worst.label, worst.score)


def _verdict(rules: Sequence[Mapping[str, Any]], seen: Sequence[int], total: int) -> str:
    """What the output says: the checkers that looked at its files, and those that did not."""
    looked = {
        _checker_name(rule) + (f" in {count} of {total} files" if count < total else ""): None
        for rule, count in zip(rules, seen, strict=True)
        if count
    }
    if not looked:
        return NOT_CHECKED
    missing = {
        _checker_name(rule): None for rule, count in zip(rules, seen, strict=True) if not count
    }
    rest = f"; not checked: {', '.join(missing)}" if missing else ""
    return f"checked: {', '.join(looked)}{rest}"


def _checker_name(rule: Mapping[str, Any]) -> str:
    """Name of the checker, with its weights if it has some of the hub."""
    checker = rule["checker"]
    of = f" ({checker['repository']}@{checker['revision']})" if checker.get("repository") else ""
    return f"{rule['name']}{of}"


def _unheard(rule: Mapping[str, Any]) -> Decision | None:
    """Decision about audio, which no checker hears. ``flag`` withholds nothing, so it passes.

    Requests that make only audio were refused at their submit, unless the catalogue did not know.
    """
    if rule["action"] == "flag":
        return None
    if withholds_audio(rule):
        raise ContentBlocked(
            "The output is audio, which no checker of this installation hears, and its safety "
            f"policy delivers nothing unchecked ({rule['name']}). The operator can let audio pass."
        )
    return Decision(str(rule["name"]), "pass")


def _on_check_error(rule: Mapping[str, Any], error: Exception) -> Decision:
    log.warning("The checker %s failed.", rule["name"], exc_info=error)
    if rule["on_error"] != "pass":
        raise ContentBlocked(
            f"The output could not be checked ({rule['name']}), and the safety policy of this "
            "installation delivers nothing unchecked. Operators find the reason in the log."
        ) from error
    return Decision(str(rule["name"]), "pass")


def _images(file: MediaFile) -> Iterator[Image]:
    """Image of a file, or frames of a video."""
    media_type = file.ticket.media_type
    if media_type.startswith("image/") and media_type != "image/gif":
        if file.image is not None:
            yield file.image
            return
        from darkroom.images import read_image  # noqa: PLC0415

        yield read_image(BytesIO(file.in_memory()))
        return
    from deployments.engine.media.video_reader import sampled_frames  # noqa: PLC0415

    with BytesIO(file.body) if isinstance(file.body, bytes) else file.body.open("rb") as content:
        yield from sampled_frames(content, FRAMES)


def _blur(file: MediaFile, encode: Encode) -> MediaFile:
    from PIL import ImageFilter  # noqa: PLC0415

    (image,) = _images(file)
    radius = max(4.0, BLUR_SHARE * max(image.size))
    blurred = image.filter(ImageFilter.GaussianBlur(radius))
    body = encode(blurred, file.ticket.media_type)
    return replace(file, body=body, image=blurred)


def _with_flags(
    output: Mapping[str, Any], flagged: set[str], sizes: Mapping[str, int]
) -> dict[str, Any]:
    """``output`` with a flag for each image, in their order, and the sizes of the files. What its
    app or its provider has flagged stays so."""
    new_output: dict[str, Any] = with_sizes(output, sizes)
    images, before = new_output.get("images"), new_output.get(FLAGS)
    if FLAGS in new_output and isinstance(images, list):
        named = [image.get("artifact") if isinstance(image, Mapping) else None for image in images]
        own = before if isinstance(before, list) and len(before) == len(named) else ()
        kept = {number for number, flag in enumerate(own) if flag is True}
        new_output[FLAGS] = [key in flagged or number in kept for number, key in enumerate(named)]
    return new_output


def with_sizes(value: Any, sizes: Mapping[str, int]) -> Any:
    """``value`` of an output with the sizes of files by their keys."""
    if isinstance(value, list):
        return [with_sizes(item, sizes) for item in value]
    if not isinstance(value, Mapping):
        return value
    known = {name: with_sizes(inner, sizes) for name, inner in value.items()}
    if "file_size" in known and known.get("artifact") in sizes:
        known["file_size"] = sizes[known["artifact"]]
    return known
