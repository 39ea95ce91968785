"""Settings of torch's allocator on a GPU. Importing this module does not import torch.

By default torch's allocator takes a piece of the GPU's memory for each size that does not fit into
the pieces that it has. Requests choose their sizes, and weights come and go, so free memory ends up
in pieces of which none is large enough. With ``expandable_segments`` it takes pages, which it maps
one behind another and gives back one by one, so what is free is free for any size, as the engine's
memory accounts assume. Errors and accounts stay as they are: too little memory is still
``torch.OutOfMemoryError``, and reserved bytes are those of mapped pages.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

SETTING = "PYTORCH_ALLOC_CONF"
OLDER_NAMES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""Names that torch reads too, for one kind of device."""

EXPANDABLE = "expandable_segments:True"


def use_expandable_segments(
    environ: MutableMapping[str, str] = os.environ,  # noqa: TID251 torch's setting, not Darkroom's
) -> None:
    """Let torch's allocator use expandable segments, unless the operator has configured it.

    Call it before a GPU is used: torch reads the variable when it first allocates there.
    """
    if not any(name in environ for name in (SETTING, *OLDER_NAMES)):
        environ[SETTING] = EXPANDABLE
