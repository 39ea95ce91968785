"""Where ComfyUI runs: its custom nodes are pinned, and it finds the models of Darkroom's store."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from deployments.executors.comfyui.server import LocalComfyUi, model_paths
from serve_app.domain.errors import AppNotStarted
from serve_app.domain.executors.comfyui import ComfyUiConfig

PINNED, OTHER = "a" * 40, "b" * 40
NAME = "ComfyUI-Nodes"


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    """Folder of a ComfyUI that writes its arguments, and ends."""
    folder = tmp_path / "ComfyUI"
    folder.mkdir()
    (folder / "main.py").write_text(
        "import json, pathlib, sys\n"
        "pathlib.Path(__file__).with_name('arguments.json').write_text(json.dumps(sys.argv[1:]))\n"
    )
    return folder


def checked_out(comfyui: Path, head: str, packed: str = "") -> None:
    repository = comfyui / "custom_nodes" / NAME / ".git"
    repository.mkdir(parents=True, exist_ok=True)
    (repository / "HEAD").write_text(f"{head}\n")
    (repository / "packed-refs").write_text(f"# pack-refs\n{packed}\n")


async def refusal(comfyui: Path, weights: Path | None = None) -> str:
    config = ComfyUiConfig(path=comfyui, python=Path(sys.executable), nodes={NAME: PINNED})
    server = LocalComfyUi(config, comfyui.parent / "home", weights, gpu=False)
    with pytest.raises(AppNotStarted) as raised:
        await server.start()
    await server.aclose(0)
    return raised.value.message


async def test_custom_nodes_at_another_commit_stop_the_start(comfyui: Path) -> None:
    arguments = comfyui / "arguments.json"
    message = await refusal(comfyui)
    assert f"lists the custom nodes {NAME} at {PINNED}, but" in message
    assert "is not there. Check out that commit, or change the setting." in message
    for head, packed in ((OTHER, ""), ("ref: refs/heads/main", f"{OTHER} refs/heads/main")):
        checked_out(comfyui, head, packed)
        assert f"is at {OTHER}" in await refusal(comfyui)
    checked_out(comfyui, "ref: refs/heads/gone")
    assert "is at no commit" in await refusal(comfyui)
    assert not arguments.exists()


async def test_comfyui_loads_only_the_pinned_nodes_and_knows_the_stored_weights(
    comfyui: Path, tmp_path: Path
) -> None:
    checked_out(comfyui, "ref: refs/heads/main", f"{PINNED} refs/heads/main")
    weights = tmp_path / "weights"
    weights.mkdir()
    await refusal(comfyui, weights)  # it ends at once
    words = json.loads((comfyui / "arguments.json").read_text())
    assert "--disable-all-custom-nodes" in words
    listed = words.index("--whitelist-custom-nodes") + 1
    assert words[listed : listed + 3] == ["websocket_image_save.py", NAME, "--cpu"]
    with open(words[words.index("--extra-model-paths-config") + 1]) as file:  # noqa: ASYNC230, PTH123
        stored = json.load(file)["darkroom"]
    assert stored["checkpoints"] == stored["loras"] == stored["vae"] == str(weights)


def test_the_operators_models_are_found_by_the_names_of_their_folders(tmp_path: Path) -> None:
    for folder in ("checkpoints", "upscale_models"):
        (tmp_path / "models" / folder).mkdir(parents=True)
    paths = model_paths(tmp_path / "models", tmp_path / "gone")
    assert paths == {
        "operator": {
            "base_path": str(tmp_path / "models"),
            "checkpoints": "checkpoints",
            "upscale_models": "upscale_models",
        }
    }
