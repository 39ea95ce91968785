"""Setting of ComfyUI, which the operator installs."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve_app.domain.executors.comfyui import ComfyUiConfig
from serve_app.paths import AbsolutePath

Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
NodeName = Annotated[str, Field(pattern=r"^[\w.-]+$")]


class ComfyUiSettings(BaseModel):
    """ComfyUI as a process of each replica that needs it, or at an address."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: AbsolutePath | None = Field(
        default=None, description="Folder with ComfyUI's main.py, on every node."
    )
    python: AbsolutePath | None = Field(
        default=None,
        description="Python of ComfyUI's environment. Unset: `venv/bin/python` in its folder.",
    )
    address: str | None = Field(
        default=None,
        pattern=r"^https?://[^/]+/?$",
        description="Origin of a ComfyUI that runs elsewhere, instead of `path`.",
    )
    models: AbsolutePath | None = Field(
        default=None,
        description="Folder with models, in subfolders by ComfyUI's names, such as `checkpoints`.",
    )
    nodes: dict[NodeName, Commit] = Field(
        default_factory=dict,
        description="Custom nodes that are loaded: folder in `custom_nodes` to its git commit. "
        "All others are not loaded.",
    )
    arguments: tuple[str, ...] = Field(
        default=(), description="Further arguments of ComfyUI, such as `--lowvram`."
    )
    start_timeout_s: float = Field(
        default=300, gt=0, description="Longest time until ComfyUI answers."
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.address is None):
            raise ValueError("it should have a path or an address, and not both")
        return self

    def config(self) -> ComfyUiConfig:
        """The same, as replicas read it."""
        return ComfyUiConfig(
            path=self.path,
            python=self.python,
            address=self.address or "",
            models=self.models,
            nodes=self.nodes,
            arguments=self.arguments,
            start_timeout_s=self.start_timeout_s,
        )
