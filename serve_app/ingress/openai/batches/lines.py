"""Validation of an input file: every line, before anything is queued."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from serve_app.domain.batches.batch import BatchError, BatchLine
from serve_app.domain.errors import InvalidInput
from serve_app.ingress.http.body import parse, reject_unstorable
from serve_app.ingress.services.cpu_executor import in_cpu_thread

MAX_LINES = 50_000
"""OpenAI's limit."""
MAX_CUSTOM_ID = 200  # an idempotency key has 255, and begins with the id of the batch
MAX_ERRORS = 100
PIECE_BYTES = 1 << 20
"""Bytes of lines that are parsed at once, in a thread."""


@dataclass(frozen=True, slots=True)
class RawLine:
    """Line of a file with its number, from 1, and its position."""

    line: int
    start: int
    content: bytes


async def split(chunks: AsyncIterator[bytes], max_line: int) -> AsyncIterator[Sequence[RawLine]]:
    """Lines that are not blank, in pieces. A line longer than ``max_line`` is the last one, and is
    cut after that many bytes and one."""
    rest, start, number = b"", 0, 0
    piece: list[RawLine] = []
    size = 0
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for content in whole:
            number += 1
            if content.strip():
                piece.append(RawLine(number, start, content[: max_line + 1]))
                size += len(content)
            start += len(content) + 1
        if len(rest) > max_line:
            break
        if size >= PIECE_BYTES:
            yield piece
            piece, size = [], 0
    if rest.strip():
        piece.append(RawLine(number + 1, start, rest[: max_line + 1]))
    if piece:
        yield piece


@dataclass(slots=True)
class FileCheck:
    """Check of the lines of one file, in their order."""

    endpoint: str
    max_line: int
    total: int = 0
    errors: list[BatchError] = field(default_factory=list[BatchError])
    _lines: dict[str, int] = field(default_factory=dict[str, int])  # by custom_id

    async def check(self, piece: Sequence[RawLine]) -> Sequence[BatchLine]:
        """Valid lines among these. The problems of the others are added to ``errors``."""
        return await in_cpu_thread(self._check_all, piece)

    @property
    def is_done(self) -> bool:
        """True if more lines change nothing."""
        return len(self.errors) >= MAX_ERRORS or self.total > MAX_LINES

    def end(self) -> None:
        """Check the file as a whole, after its last line."""
        if self.total == 0 and not self.errors:
            self.errors.append(BatchError("empty_file", "The input file has no lines."))
        if self.total > MAX_LINES:
            message = f"The input file has more than {MAX_LINES} lines. Split it into several."
            self.errors.append(BatchError("too_many_lines", message))

    def _check_all(self, piece: Sequence[RawLine]) -> Sequence[BatchLine]:
        lines: list[BatchLine] = []
        for raw in piece:
            if self.is_done:
                break
            self.total += 1
            try:
                custom_id = self._check_line(raw)
            except _LineRefused as refused:
                self.errors.append(refused.error)
                continue
            lines.append(BatchLine(raw.line, custom_id, raw.start, len(raw.content)))
        return lines

    def _check_line(self, raw: RawLine) -> str:
        if len(raw.content) > self.max_line:
            message = (
                f"The line exceeds the limit of {self.max_line} bytes (DARKROOM_MAX_BODY_BYTES). "
                "Send images as URLs."
            )
            raise _line_refusal("line_too_long", message, raw)
        try:
            value = parse(raw.content)
        except InvalidInput as error:
            what = error.message.removeprefix("The body is not valid JSON: ")
            message = f"This line is not parseable as valid JSON: {what}"
            raise _line_refusal("invalid_json_line", message, raw) from None
        if not isinstance(value, dict):
            raise _line_refusal("invalid_json_line", "This line is not a JSON object.", raw)
        fields = cast("dict[str, Any]", value)
        custom_id = self._custom_id(fields, raw)
        if fields.get("method") != "POST":
            raise _line_refusal("invalid_method", "`method` should be POST.", raw, "method")
        if fields.get("url") != self.endpoint:
            shown = json.dumps(fields.get("url"))[:200]
            message = f"`url` is {shown}, and the batch is for {self.endpoint}: they must be equal."
            raise _line_refusal("mismatched_url", message, raw, "url")
        if not isinstance(fields.get("body"), dict):
            raise _line_refusal(
                "missing_required_parameter", "`body` should be an object.", raw, "body"
            )
        try:
            reject_unstorable(fields["body"], ("body",))
        except InvalidInput as error:
            raise _line_refusal("invalid_body", error.message, raw, "body") from None
        self._lines[custom_id] = raw.line
        return custom_id

    def _custom_id(self, fields: dict[str, Any], raw: RawLine) -> str:
        custom_id = fields.get("custom_id")
        if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID:
            message = f"`custom_id` should be a text of 1 to {MAX_CUSTOM_ID} characters."
            raise _line_refusal("missing_required_parameter", message, raw, "custom_id")
        try:
            reject_unstorable(custom_id, ("custom_id",))
        except InvalidInput as error:
            raise _line_refusal("invalid_custom_id", error.message, raw, "custom_id") from None
        if (earlier := self._lines.get(custom_id)) is not None:
            message = f"Line {earlier} has the same `custom_id`: it must be unique in the file."
            raise _line_refusal("duplicate_custom_id", message, raw, "custom_id")
        return custom_id


class _LineRefused(Exception):
    def __init__(self, error: BatchError) -> None:
        super().__init__(error.message)
        self.error = error


def _line_refusal(code: str, message: str, raw: RawLine, param: str | None = None) -> _LineRefused:
    return _LineRefused(BatchError(code, message, raw.line, param))
