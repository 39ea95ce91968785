"""Check of the sample counts that an MP4, M4A or MOV file claims.

FFmpeg makes an entry of its index for each sample that the tables of the file claim, before it
reads any. Tables can claim them in a few bytes: a file of 2 kB with 50 million samples took 3.7 GB.
"""

from __future__ import annotations

from collections.abc import Iterator
from mmap import mmap
from struct import unpack_from

MAX_SAMPLES = 2_000_000
"""Samples of all tracks: 11 hours of AAC at 48 kHz, and 140 MB of index."""

MAX_BOXES = 100_000
"""Boxes that are looked at. A file of ten minutes in fragments of a second has some thousands."""

MAX_DEPTH = 16
"""Boxes around a box. A track's tables have five."""

_CONTAINERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"})


def refusal(body: bytes | mmap) -> str | None:
    """Reason not to let FFmpeg read the file; None if its counts are within the limits."""
    samples = 0
    for number, (kind, start, end, depth) in enumerate(_boxes(body, 0, len(body))):
        if number >= MAX_BOXES:
            return f"it has more than {MAX_BOXES} boxes"
        if depth > MAX_DEPTH:
            return f"it has boxes in more than {MAX_DEPTH} others"
        if kind == b"cmov":
            return "its header is compressed"
        samples += _sample_count(body[start : min(end, start + 12)], kind, len(body))
        if samples > MAX_SAMPLES:
            return f"it claims more than {MAX_SAMPLES} samples"
    return None


def _sample_count(table: bytes, kind: bytes, file_bytes: int) -> int:
    """Number of samples that a table claims (ISO/IEC 14496-12, 8.7.3 and 8.8.8).

    Samples of PCM do not count: each is in the file, with two bytes or more.
    """
    if kind == b"trun" and len(table) >= 8:
        return unpack_from(">I", table, 4)[0]
    if kind in (b"stsz", b"stz2") and len(table) >= 12:
        size, count = unpack_from(">II", table, 4)
        pcm = kind == b"stsz" and size >= 2 and size * count <= file_bytes
        return 0 if pcm else count
    return 0


def _boxes(
    body: bytes | mmap, start: int, end: int, depth: int = 0
) -> Iterator[tuple[bytes, int, int, int]]:
    """Iterate over (type, start of the content, end, depth) of the boxes, and of those inside
    them."""
    while start + 8 <= end:
        size, kind = unpack_from(">I4s", body, start)
        content = start + 8
        if size == 1 and content + 8 <= end:
            (size,) = unpack_from(">Q", body, content)
            content += 8
        elif size == 0:
            size = end - start
        # A box that is longer than the one around it is read by FFmpeg as far as there are bytes.
        after = min(start + size, end)
        if after < content:
            return
        yield kind, content, after, depth
        if kind in _CONTAINERS:
            yield from _boxes(body, content, after, depth + 1)
        start = after
