"""Meshes as GLB, the binary form of glTF 2.0 (Khronos; ISO/IEC 12113)."""

from __future__ import annotations

import json
import struct

import torch
from torch import Tensor

FLOAT, UNSIGNED_INT = 5126, 5125  # types of components
ATTRIBUTES, INDICES = 34962, 34963  # targets of views of a buffer
MATT = {"metallicFactor": 0.0, "roughnessFactor": 1.0}


def encode_glb(positions: Tensor, faces: Tensor, colours: Tensor) -> bytes:
    """A mesh with colours at its vertices.

    ``positions``: vertices × 3, with z upwards; in glTF, y is. ``faces``: triangles × 3, indices of
    vertices, counter-clockwise seen from outside. ``colours``: vertices × 3, linear, 0 to 1.
    """
    x, y, z = positions.detach().float().cpu().unbind(-1)
    points = torch.stack([x, z, -y], dim=-1)
    shades = colours.detach().float().cpu().clamp(0, 1)
    corners = faces.detach().cpu().to(torch.int32).flatten()  # below 2**31, so unsigned too
    arrays = (points, shades, corners)
    lengths = [array.numel() * array.element_size() for array in arrays]
    starts = [sum(lengths[:place]) for place in range(len(arrays))]
    document = {
        "asset": {"version": "2.0", "generator": "Darkroom"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [
            {
                "primitives": [
                    {"attributes": {"POSITION": 0, "COLOR_0": 1}, "indices": 2, "material": 0}
                ]
            }
        ],
        "materials": [{"pbrMetallicRoughness": MATT}],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": FLOAT,
                "count": len(points),
                "type": "VEC3",
                "min": points.amin(0).tolist(),
                "max": points.amax(0).tolist(),
            },
            {"bufferView": 1, "componentType": FLOAT, "count": len(shades), "type": "VEC3"},
            {
                "bufferView": 2,
                "componentType": UNSIGNED_INT,
                "count": len(corners),
                "type": "SCALAR",
            },
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": start, "byteLength": length, "target": target}
            for start, length, target in zip(
                starts, lengths, (ATTRIBUTES, ATTRIBUTES, INDICES), strict=True
            )
        ],
        "buffers": [{"byteLength": sum(lengths)}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    body = b"".join(array.numpy().tobytes() for array in arrays)  # little-endian, as all machines
    chunks = (
        struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(body), b"BIN\0")
    )
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks) + len(body)) + chunks + body
