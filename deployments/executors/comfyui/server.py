"""Where ComfyUI runs: as a supervised process of a replica, or at an address of the operator's."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deployments.executors.comfyui.client import ComfyUiClient
from deployments.executors.server_process import HOST, Launch, ServerProcess
from serve_app.domain.errors import AppNotStarted, Misconfigured
from serve_app.domain.executors.comfyui import ComfyUiConfig

STORED_KINDS = ("checkpoints", "diffusion_models", "loras", "text_encoders", "vae")
"""Kinds of models that ComfyUI looks for among the weights of Darkroom's store."""

NODES = "custom_nodes"
SHIPPED_NODES = ("websocket_image_save.py",)
"""Modules of custom nodes that are ComfyUI's own."""

STOP_GRACE_S = 5.0


class LocalComfyUi:
    """A ComfyUI process, with folders of its own for files and with the operator's models."""

    def __init__(
        self, config: ComfyUiConfig, home: Path, weights: Path | None, *, gpu: bool
    ) -> None:
        """``weights``: directory of Darkroom's store. ``gpu``: False runs it on the CPU."""
        self._config = config
        self._home = home
        self._weights = weights
        self._gpu = gpu
        self._process = ServerProcess("ComfyUI", home)

    @property
    def alive(self) -> bool:
        return self._process.alive

    @property
    def end(self) -> str:
        return self._process.how

    @property
    def files(self) -> Path | None:
        return self._home

    async def start(self) -> str:
        config, path = self._config, self._config.path
        if path is None or not (path / "main.py").is_file():
            raise AppNotStarted(
                f"There is no ComfyUI at {path} on this node: the setting `comfyui` should name "
                "the folder with its main.py."
            )
        try:
            await asyncio.to_thread(check_nodes, path, config.nodes)
        except Misconfigured as error:
            raise AppNotStarted(error.message) from error
        await asyncio.to_thread(self._make_folders)
        python = config.python or path / "venv" / "bin" / "python"
        if not os.access(python, os.X_OK):
            raise AppNotStarted(
                f"There is no Python for ComfyUI at {python}: the setting `comfyui` should name "
                "that of its environment."
            )
        command = [str(python), *self._words(path)]
        await self._process.start(
            lambda port: Launch([*command, "--listen", HOST, "--port", str(port)]), path
        )
        address = f"http://{HOST}:{self._process.port}"
        client = ComfyUiClient(address)
        try:
            await self._process.ready(client.ready, config.start_timeout_s)
        except AppNotStarted:
            await self._process.aclose(0)
            raise
        finally:
            await client.aclose()
        return address

    async def aclose(self, grace_s: float) -> None:
        await self._process.aclose(grace_s)

    def _make_folders(self) -> None:
        for name in ("input", "output", "user", "temp"):
            (self._home / name).mkdir(parents=True, exist_ok=True)
        # JSON is YAML.
        models = model_paths(self._config.models, self._weights)
        (self._home / "models.yaml").write_text(json.dumps(models), encoding="utf-8")

    def _words(self, path: Path) -> Sequence[str]:
        config, home = self._config, self._home
        words = [str(path / "main.py"), "--disable-auto-launch", "--disable-api-nodes"]
        words += ["--preview-method", "auto", "--preview-size", "256"]
        for name in ("input", "output", "user"):
            words += [f"--{name}-directory", str(home / name)]
        words += ["--temp-directory", str(home)]  # it adds a folder `temp`
        words += ["--database-url", "sqlite:///:memory:"]
        words += ["--extra-model-paths-config", str(home / "models.yaml")]
        words += ["--disable-all-custom-nodes"]
        words += ["--whitelist-custom-nodes", *SHIPPED_NODES, *config.nodes]
        return (*words, *([] if self._gpu else ["--cpu"]), *config.arguments)


class RemoteComfyUi:
    """A ComfyUI that the operator runs."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.alive = True
        self.end = "does not answer"
        self.files: Path | None = None

    async def start(self) -> str:
        client = ComfyUiClient(self._address)
        try:
            if not await client.ready():
                raise AppNotStarted(f"No ComfyUI answers at {self._address}.")
        finally:
            await client.aclose()
        return self._address

    async def aclose(self, grace_s: float) -> None:
        """Do nothing: it is not ours."""


def comfyui_server(
    config: ComfyUiConfig | None, home: Path, weights: Path | None, *, gpu: bool
) -> LocalComfyUi | RemoteComfyUi:
    """The ComfyUI of an installation. ``home``: for the files of a process.

    Raises ``AppNotStarted`` if the operator has named none.
    """
    if config is None:
        raise AppNotStarted(
            "This installation has no ComfyUI. The operator names its folder or its address in the "
            "setting `comfyui`."
        )
    if config.address:
        return RemoteComfyUi(config.address)
    return LocalComfyUi(config, home, weights, gpu=gpu)


async def node_classes(
    config: ComfyUiConfig, weights: Path | None
) -> Mapping[str, Mapping[str, Any]]:
    """Classes of the nodes of a ComfyUI by name. One at a path is started for that.

    ``Misconfigured`` says why it cannot be.
    """
    with TemporaryDirectory(prefix="darkroom-comfyui-") as home:
        server = comfyui_server(config, Path(home), weights, gpu=False)
        try:
            client = ComfyUiClient(await server.start())
            try:
                return await client.classes()
            finally:
                await client.aclose()
        except AppNotStarted as error:
            raise Misconfigured(error.message) from error
        finally:
            await server.aclose(STOP_GRACE_S)


def check_nodes(path: Path, pinned: Mapping[str, str]) -> None:
    """Check that each listed package of custom nodes is there, at its commit. Raises
    ``Misconfigured``."""
    for name, commit in pinned.items():
        folder = path / NODES / name
        current = _commit(folder) if folder.is_dir() else None
        if current != commit:
            is_there = f"is at {current or 'no commit'}" if folder.is_dir() else "is not there"
            raise Misconfigured(
                f"The setting `comfyui` lists the custom nodes {name} at {commit}, but {folder} "
                f"{is_there}. Check out that commit, or change the setting."
            )


def _commit(folder: Path) -> str | None:
    """Commit that is checked out in a git repository, read without git."""
    try:
        head = (folder / ".git" / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        loose = folder / ".git" / name
        if loose.is_file():
            return loose.read_text().strip()
        packed = (folder / ".git" / "packed-refs").read_text()
    except OSError:
        return None
    match = re.search(rf"^([0-9a-f]{{40}}) {re.escape(name)}$", packed, re.MULTILINE)
    return match[1] if match else None


def model_paths(models: Path | None, weights: Path | None) -> Mapping[str, Mapping[str, str]]:
    """ComfyUI's description of folders with models: the operator's, by its subfolders' names, and
    Darkroom's store, whose files are found with the path below it as their name."""
    described: dict[str, Mapping[str, str]] = {}
    if models is not None and models.is_dir():
        inner = sorted(path.name for path in models.iterdir() if path.is_dir())
        described["operator"] = {"base_path": str(models)} | {name: name for name in inner}
    if weights is not None and weights.is_dir():
        described["darkroom"] = dict.fromkeys(STORED_KINDS, str(weights))
    return described
