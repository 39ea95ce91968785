"""Cog models for tests: the real package in an environment that is built once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

from deployments.executors.code import unpack
from deployments.executors.cog.deploying import CogBundle, describe
from deployments.executors.cog.project import CogProject, read_project
from deployments.executors.cog.schema import input_schema, marked_output, output_schema
from deployments.executors.environment import Environments
from serve_app.domain.endpoint import Endpoint, Weights

PROJECT = Path(__file__).with_name("project")


@dataclass(frozen=True)
class CogModel:
    """A described project, and an endpoint of it."""

    project: CogProject
    bundle: CogBundle
    mode: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.bundle.content).hexdigest()

    def endpoint(self, **more: Any) -> Endpoint:
        document = self.bundle.document
        options = {
            "cog": {
                "mode": self.mode,
                "bundle": self.digest,
                "target": self.project.targets[self.mode],
                "requirements": list(self.project.requirements),
                "environment": dict(self.project.environment),
                "concurrency": self.bundle.concurrency[self.mode],
                "output": marked_output(document, self.mode),
                **more,
            },
            "input_schema": input_schema(document, self.mode),
            "output_schema": output_schema(document, self.mode),
        }
        return Endpoint("apps/model", "cog", Weights(""), "json", options=options)


async def model(
    folder: Path,
    apps_dir: Path,
    target: str,
    mode: str = "predict",
    more: str = "",
    source: str = "",
) -> CogModel:
    """Model of the tests' project whose ``cog.yaml`` names ``target``. ``source``: all of its code,
    in place of the project's."""
    code = folder / "code"
    if not code.exists():
        copytree(PROJECT, code)
    if source:
        (code / "predict.py").write_text(source)
    written = f"build:\n  python_version: '3.11'\n{mode}: predict.py:{target}\n{more}"
    if mode == "train":
        written += "predict: predict.py:Speller\n"
    (code / "cog.yaml").write_text(written)
    project = read_project(code)
    bundle = await describe(code, project, Environments(apps_dir / "environments"))
    return CogModel(project, bundle, mode)


def unpack_model(cog_model: CogModel, folder: Path) -> Path:
    """Code of a model, unpacked to ``folder``."""
    unpack(cog_model.bundle.content, folder)
    return folder
