"""Code of an app that looks for secrets of the installation and of other apps.

It runs as the same user as all of Darkroom, so it reads what any process of that user may. What is
promised is how little is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.attacks.attempts import Attempts
from tests.attacks.scene import SIGN_IN_SECRET, Scene

pytestmark = [pytest.mark.cluster, pytest.mark.long]  # two apps are deployed and started

KEPT = "a-secret-that-another-app-names"
APP = """
import os
from pathlib import Path

import darkroom


def read(path: Path) -> str:
    try:
        return path.read_bytes().replace(b"\\0", b"\\n").decode(errors="replace")
    except OSError:
        return ""


def link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


class Looks(darkroom.App):
    name = "{name}"
    secrets = {secrets}

    @darkroom.endpoint("/")
    def look(self) -> dict[str, object]:
        processes = [each for each in Path("/proc").iterdir() if each.name.isdigit()]
        return {{
            "pid": os.getpid(),
            "home": str(Path.home()),
            "open": [link(each) for each in Path("/proc/self/fd").iterdir()],
            "variables": {{each.name: read(each / "environ") for each in processes}},
            "commands": {{each.name: read(each / "cmdline") for each in processes}},
        }}
"""


def deploy_and_run(scene: Scene, folder: Path, name: str, *secrets: str) -> dict[str, Any]:
    """What an app sees that names these secrets."""
    path = folder / f"{name}.py"
    path.write_text(APP.format(name=name, secrets=[*secrets]))
    done = scene.darkroom.command("deploy", str(path), "--name", f"house/{name}")
    assert done.returncode == 0, done.stderr
    answer = scene.darkroom.http.post(f"/run/house/{name}", json={}, timeout=300)
    assert answer.is_success, answer.text
    return answer.json()


def processes(variables: dict[str, str], text: str) -> set[int]:
    return {int(pid) for pid, content in variables.items() if text in content}


def test_an_app_finds_no_secret_of_the_installation_or_of_another_app(
    scene: Scene, attempts: Attempts, tmp_path: Path
) -> None:
    http, data_dir = scene.darkroom.http, scene.darkroom.data_dir
    put = http.put("/v1/secrets/KEPT_KEY", params={"installation": True}, json={"value": KEPT})
    assert put.is_success, put.text
    other = deploy_and_run(scene, tmp_path, "keeps", "KEPT_KEY")
    seen = deploy_and_run(scene, tmp_path, "looks")
    own = str(seen["pid"])
    secrets = {
        "the password of the database": (data_dir / "postgres" / "password").read_text().strip(),
        "the first key": scene.darkroom.key.partition(":")[2],
        "the secret of the sign-in": SIGN_IN_SECRET,
        "the secret of another app": KEPT,
    }
    # Who starts Darkroom has what it was started with. An app's process has the app's secrets.
    known = {
        "the secret of the sign-in": {scene.darkroom.process.pid},
        "the secret of another app": {other["pid"], psutil.Process(other["pid"]).ppid()},
    }
    read = processes(seen["variables"], KEPT)
    attempts.note(f"the variables of others are read: {read}", held=other["pid"] in read)
    for what, secret in secrets.items():
        is_safe = secret not in seen["variables"][own]
        attempts.note(f"{what} is a variable of the app", held=is_safe)
        holders = processes(seen["variables"], secret) - known.get(what, set())
        attempts.note(f"{what} is a variable of {holders}", held=not holders)
        holders = processes(seen["commands"], secret)
        attempts.note(f"{what} is in the command of {holders}", held=not holders)
    names = {line.partition("=")[0] for line in seen["variables"][own].splitlines()}
    settings = {name for name in names if name.startswith(("DARKROOM_", "AWS_", "HF_TOKEN"))}
    attempts.note(f"settings of the app: {settings}", held=not settings)
    elsewhere = [
        path for path in seen["open"] if path.startswith(str(data_dir)) and "apps" not in path
    ]
    attempts.note(f"open files of the app: {elsewhere}", held=not elsewhere)
    attempts.note(f"one home: {seen['home']}", held=seen["home"] != other["home"])
    for pid in (seen["pid"], other["pid"]):
        ports = [connection.laddr for connection in psutil.Process(pid).net_connections("inet")]
        attempts.note(f"connections of the app {pid}: {ports}", held=not ports)
