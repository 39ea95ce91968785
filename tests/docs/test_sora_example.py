"""Code that was written for OpenAI's Videos API runs as the page says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.catalog.catalog import load
from tests.docs.pages import DOCS, block
from tests.ingress.house import DEMO
from tests.wire.served import serve

PAGE = DOCS / "how-to" / "keep-your-sora-code.md"
SERVED = load(None, demo=True, demo_dir=DEMO)


@pytest.mark.variants(1)
@pytest.mark.wire
@pytest.mark.parametrize("model", ["sora-2", "sora-2-pro", "sora-2-2025-12-08"])
def test_code_for_sora_gets_its_video(tmp_path: Path, model: str) -> None:
    code = block(PAGE, "python").replace('"sora-2"', f'"{model}"')
    with serve(catalog=SERVED) as here:
        shell = {"OPENAI_BASE_URL": f"{here.url}/openai/v1", "OPENAI_API_KEY": here.key}
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env={"PATH": os.defpath, **shell},
            cwd=tmp_path,
            check=True,
            timeout=120,
        )
    assert (tmp_path / "video.mp4").read_bytes() == b"image"
