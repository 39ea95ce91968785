"""Where the weights of a node lie, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Crosses processes, so it holds no secret: the hub's token and the mirror's credentials are
    read where they are used, by the libraries that use them."""

    directory: Path | None = None  # None: the hub's own cache (HF_HUB_CACHE, HF_HOME)
    max_bytes: int = 0  # of what the store itself has fetched; 0: no cap
    mirror: str = ""  # s3://bucket/prefix, asked before the hub; empty: none
    mirror_endpoint_url: str = ""  # empty: AWS, or what AWS's own settings say
    mirror_profile: str = ""  # of AWS's own files; empty: its usual chain
    offline: bool = False  # nothing is fetched, and no connection is opened
