"""ICC profiles, made here: of primaries, as displays and cameras have them, and of inks."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np

P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060))
BT2020 = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
SRGB = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
GAMMA = 2.2
D65, D50 = (0.9505, 1.0, 1.0888), (0.9642, 1.0, 0.8249)
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def to_xyz(primaries: Sequence[tuple[float, float]]) -> np.ndarray:
    """Matrix from linear levels of the primaries and white D65 to XYZ under D50."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    whole = columns * np.linalg.solve(columns, D65)
    ratio = (BRADFORD @ D50) / (BRADFORD @ D65)
    return np.linalg.solve(BRADFORD, np.diag(ratio) @ BRADFORD) @ whole


def linear(levels: np.ndarray) -> np.ndarray:
    """Light of levels of sRGB, both from 0 to 1."""
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def light_in(primaries: Sequence[tuple[float, float]], srgb: np.ndarray) -> np.ndarray:
    """Light (0 to 1) of the primaries for levels of sRGB: [..., 3]."""
    light = linear(srgb) @ (np.linalg.solve(to_xyz(primaries), to_xyz(SRGB))).T
    return light.clip(0, 1)


def levels_in(primaries: Sequence[tuple[float, float]], srgb: np.ndarray) -> np.ndarray:
    """Levels (0 to 1) with gamma 2.2 of the primaries for those of sRGB: [..., 3]."""
    return light_in(primaries, srgb) ** (1 / GAMMA)


def coded_levels(
    primaries: Sequence[tuple[float, float]], transfer: int, srgb: np.ndarray
) -> np.ndarray:
    """The same with a transfer function by its code in ITU-T H.273: 13 of sRGB, 1 of BT.709."""
    light = light_in(primaries, srgb)
    if transfer == 13:
        return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.where(light < 0.018, light * 4.5, 1.099 * light**0.45 - 0.099)


def lab(srgb: Sequence[int]) -> np.ndarray:
    """L*, a* and b* of a colour of sRGB."""
    relative = to_xyz(SRGB) @ linear(np.array(srgb) / 255) / D50
    x, y, z = np.where(relative > 0.008856, np.cbrt(relative), 7.787 * relative + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def of_primaries(primaries: Sequence[tuple[float, float]]) -> bytes:
    """Profile of a display with gamma 2.2."""
    curve = b"curv" + struct.pack(">IIH2x", 0, 1, round(GAMMA * 256))
    tags = {f"{name}TRC": curve for name in "rgb"} | {"wtpt": _xyz(D50)}
    columns = to_xyz(primaries).T
    tags |= {f"{name}XYZ": _xyz(column) for name, column in zip("rgb", columns, strict=True)}
    return _profile("mntr", "RGB ", "XYZ ", tags)


def of_grey() -> bytes:
    """Profile of levels that are light itself."""
    return _profile("mntr", "GRAY", "XYZ ", {"kTRC": b"curv" + bytes(8), "wtpt": _xyz(D50)})


def of_inks(corners: Mapping[tuple[int, int, int, int], Sequence[int]]) -> bytes:
    """Profile of a printer. ``corners``: colours of sRGB by what of C, M, Y and K is full; all
    others are black."""
    table = bytearray()
    for number in range(16):
        inks = tuple((number >> bit) & 1 for bit in (3, 2, 1, 0))
        light, a, b = lab(corners.get(inks, (0, 0, 0)))
        table += bytes((round(light * 2.55), round(a + 128), round(b + 128)))
    head = struct.pack(">4B9i", 4, 3, 2, 0, *(65536 * n for n in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    straight = bytes(range(256))
    lut = b"mft1\0\0\0\0" + head + straight * 4 + bytes(table) + straight * 3
    return _profile("prtr", "CMYK", "Lab ", {"A2B0": lut, "A2B1": lut, "wtpt": _xyz(D50)})


def _xyz(values: Sequence[float] | np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def _profile(kind: str, space: str, connection: str, tags: Mapping[str, bytes]) -> bytes:
    at, table, data = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name.encode() + struct.pack(">II", at + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    head = bytearray(128)
    struct.pack_into(
        ">I4xI4s4s4s", head, 0, at + len(data), 0x02400000, *_ascii(kind, space, connection)
    )
    head[36:40] = b"acsp"
    head[68:80] = _xyz(D50)[8:]
    return bytes(head) + table + data


def _ascii(*words: str) -> list[bytes]:
    return [word.encode() for word in words]
