"""What the tests of other authors' clients serve: images, videos, speech and transcripts."""

from __future__ import annotations

from pathlib import Path

from serve_app.catalog.catalog import Catalog, load
from tests.ingress.house import DEMO, OTHERS

_MEDIA = load(Path(__file__).with_name("media_models.yaml"), demo=True, demo_dir=DEMO)
MEDIA = Catalog({entry.endpoint.id: entry for entry in (*OTHERS, *_MEDIA)})
