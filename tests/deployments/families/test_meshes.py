"""Meshes of Shap-E are delivered as GLB."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.engine.engine import Engine
from tests.engine.conformance.case import WISHES
from tests.engine.conformance.derived import run_request
from tests.engine.conformance.zoo import cases

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

TYPES = {5126: "<f4", 5125: "<u4"}
WIDTHS = {"VEC3": 3, "SCALAR": 1}


def arrays_of(glb: bytes) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Document of a GLB file, and its accessors' values."""
    magic, version, length = struct.unpack_from("<4sII", glb)
    assert (magic, version, length) == (b"glTF", 2, len(glb))
    size, kind = struct.unpack_from("<I4s", glb, 12)
    assert (kind, size % 4) == (b"JSON", 0)
    document = json.loads(glb[20 : 20 + size])
    body_size, kind = struct.unpack_from("<I4s", glb, 20 + size)
    body = glb[28 + size :]
    assert (kind, len(body), len(body) % 4) == (b"BIN\0", body_size, 0)
    arrays: list[NDArray[Any]] = []
    for accessor in document["accessors"]:
        view = document["bufferViews"][accessor["bufferView"]]
        content = body[view["byteOffset"] :][: view["byteLength"]]
        values = np.frombuffer(content, TYPES[accessor["componentType"]])
        arrays.append(values.reshape(-1, WIDTHS[accessor["type"]]))
        assert len(arrays[-1]) == accessor["count"]
    return document, arrays


@pytest.mark.parametrize("name", ["ShapEPipeline", "ShapEImg2ImgPipeline"])
def test_a_mesh_is_that_of_diffusers(name: str) -> None:
    case = cases()[name]
    pipeline = case.build()
    with Engine(pipeline, device="cpu", threads=1) as engine:
        product = run_request(case, pipeline, engine)
    (file,) = product.files
    assert file.ticket.media_type == "model/gltf-binary"
    assert product.output["model_mesh"]["file_size"] == file.size
    document, (points, colours, corners) = arrays_of(file.in_memory())
    arguments = case.arguments(WISHES[0]) | {"output_type": "mesh"}
    (mesh,) = case.build()(**arguments).images
    assert len(mesh.faces) > 100
    x, y, z = mesh.verts.detach().numpy().T
    assert np.array_equal(points, np.stack([x, z, -y], axis=1))
    assert np.array_equal(corners.reshape(-1, 3), mesh.faces.numpy())
    assert np.allclose(colours[:, 0], mesh.vertex_channels["R"].detach().numpy())
    (position, _, _) = document["accessors"]
    assert position["min"] == points.min(0).tolist()
    assert position["max"] == points.max(0).tolist()
