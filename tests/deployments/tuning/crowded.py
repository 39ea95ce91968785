"""A family for which the device is too small, and one that ends its process."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch

from deployments.families.flux import FluxFamily
from serve_app.domain.endpoint import Endpoint


class Crowded(FluxFamily):
    """Loads only in float32."""

    def load(self, endpoint: Endpoint, device: str) -> Any:
        match endpoint.options.get("dtype"):
            case "float16":
                raise torch.OutOfMemoryError("Tried to allocate 80 GB.")
            case "bfloat16":
                os.kill(os.getpid(), signal.SIGKILL)
        return super().load(endpoint, device)
