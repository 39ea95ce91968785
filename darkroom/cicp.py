"""Colours that an image file describes by codes of ITU-T H.273, and not by an ICC profile.

PNG has them in its chunk ``cICP`` (W3C PNG, third edition, 11.3.2.6), AVIF in its box ``colr``
(ISO/IEC 14496-12, 12.1.5).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import BinaryIO

_CODES = {
    "PNG": re.compile(rb"\0\0\0\x04cICP(.)(.)", re.DOTALL),
    "AVIF": re.compile(rb"colrnclx\0(.)\0(.)", re.DOTALL),
}
"""Where a file has the codes of its primaries and of its transfer function."""

_White = tuple[float, float, float]
_D50: _White = (0.9642, 1.0, 0.8249)

_PRIMARIES: Mapping[int, tuple[_White, _White, _White]] = {
    9: ((0.67348, 0.27904, -0.00194), (0.16566, 0.67534, 0.02998), (0.12505, 0.04561, 0.79685)),
    12: ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)),
}
"""XYZ of red, green and blue of BT.2020 and Display P3, adapted to white D50 as in ICC profiles."""

_BT709 = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
_CURVES: Mapping[int, tuple[float, ...]] = {
    **dict.fromkeys((1, 6, 14, 15), _BT709),
    13: (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045),
}
"""Parameters g, a, b, c and d of ICC's ``parametricCurveType`` 3."""


_BEGINNING_BYTES = 2**16
"""Both stand before the pixels."""


def coded_profile(file: BinaryIO, format: str | None) -> bytes | None:
    """ICC profile of the colours that a file, which is left at its position, describes by codes.
    None: it has no codes, or those of sRGB or of HDR. ``format``: Pillow's name.
    """
    if (codes := _CODES.get(format or "")) is None:
        return None
    position = file.tell()
    file.seek(0)
    found = codes.search(file.read(_BEGINNING_BYTES))
    file.seek(position)
    if found is None:
        return None
    columns, curve = _PRIMARIES.get(found[1][0]), _CURVES.get(found[2][0])
    return None if columns is None or curve is None else _profile(columns, curve)


def _profile(columns: tuple[_White, ...], curve: tuple[float, ...]) -> bytes:
    """Profile of a display (ICC.1:2022, 8.4.3)."""
    light = b"para\0\0\0\0\0\x03\0\0" + _fixed_point(*curve)
    tags = {b"wtpt": _xyz(_D50)}
    for name, column in zip((b"r", b"g", b"b"), columns, strict=True):
        tags |= {name + b"XYZ": _xyz(column), name + b"TRC": light}
    at, table, data = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, content in tags.items():
        table += struct.pack(">4sII", tag, at + len(data), len(content))
        data += content
    head = struct.pack(
        ">I4xI4s4s4s12x4s28x12s48x",
        at + len(data), 0x04400000, b"mntr", b"RGB ", b"XYZ ", b"acsp", _fixed_point(*_D50),
    )  # fmt: skip
    return head + table + data


def _xyz(values: _White) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed_point(*values)


def _fixed_point(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))
