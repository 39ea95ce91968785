"""Meshes of the family ``generic``: the output with a file.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from deployments.families.base import (
    GenerationCall,
    GenerationResult,
    MediaFile,
    Product,
    demo_facts,
    file_entry,
    first_output,
)
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.options.results import MODEL_MESH

CHANNELS = "RGB"
"""Names of the channels of a vertex's colour."""


def deliver_mesh(
    endpoint: Endpoint,
    call: GenerationCall,
    generated: GenerationResult,
    tickets: Sequence[UploadTicket],
) -> Product:
    """Encode the only mesh of a call, as the renderer of Shap-E makes it."""
    import torch  # noqa: PLC0415

    from deployments.engine.media.meshes import encode_glb  # noqa: PLC0415

    (mesh,) = first_output(generated.result, "images")
    colours = torch.stack([mesh.vertex_channels[channel] for channel in CHANNELS], dim=-1)
    file = MediaFile(tickets[0], encode_glb(mesh.verts, mesh.faces, colours))
    output = {
        MODEL_MESH: file_entry(file),
        "timings": {"inference": round(generated.inference_s, 4)},
        "seed": call.output_facts["seed"],
        "prompt": call.output_facts["prompt"],
        **demo_facts(endpoint, call.output_facts["prompt"]),
    }
    return Product(output, [file])
