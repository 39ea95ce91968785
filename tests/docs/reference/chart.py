"""The file by which the Helm chart divides settings among Serve applications."""

from __future__ import annotations

import json

from serve_app.settings import FIELDS, PoolConfig
from serve_app.settings.parts import LIVE, OF_REPLICAS, ONLY_OF_REPLICAS
from serve_app.settings.pools import BOUNDS, OWN_OF_CANARY


def page() -> str:
    """Names of settings and of keys of pools, as JSON."""
    names = {
        "settings": FIELDS.keys() - {"pools"},  # which the chart has in classes of nodes
        "not_of_ingress": ONLY_OF_REPLICAS | LIVE | {"families"},
        "of_replicas": OF_REPLICAS,
        "pool": PoolConfig.model_fields.keys(),
        "bounds": BOUNDS,
        "own_of_canary": OWN_OF_CANARY,
    }
    return json.dumps({name: sorted(keys) for name, keys in names.items()}, indent=1) + "\n"
