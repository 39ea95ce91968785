"""Renders the chart as Helm does: ``helm.go`` has its functions for templates, in Debian's Go.

    python -m tests.kubernetes.helm charts/darkroom/examples/one-gpu-node.yaml VALUES.yaml

prints the manifests, for machines without Helm.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "darkroom"
EXAMPLES = ("one-gpu-node", "many-gpu-nodes")
GOCODE = Path("/usr/share/gocode")
"""Go packages of Debian."""
MISSING = (
    "There is no Go with sprig, which the tests of the chart need. On Debian: apt-get update && "
    "apt-get install -y --no-install-recommends golang-go golang-github-masterminds-sprig-dev"
)

Values = dict[str, Any]
Manifest = dict[str, Any]


INSTALLATION: Values = {
    "image": {"repository": "registry.example.org/darkroom"},
    "settings": {
        "public_url": "https://darkroom.example.org",
        "s3_bucket": "darkroom-example",
        "s3_region": "eu-central-1",
    },
    "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "darkroom-tls"},
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "public", "namespace": "gateways"}]},
    "metrics": {
        "podMonitors": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True},
    },
}
"""Values of one's own, with all that the chart can add."""


class Refused(Exception):
    """Helm would refuse the values; the message is what it says."""


def manifests(*values: Values, release: str = "darkroom") -> list[Manifest]:
    """Manifests that ``helm template`` prints with these values, the later ones over the earlier
    ones. Raises ``Refused``."""
    text = _rendered(values, release)
    return [
        manifest
        for template in text
        for manifest in yaml.load_all(template, yaml.CSafeLoader)
        if manifest
    ]


def require() -> None:
    """Skip the tests on a machine without Go. In CI they fail."""
    if _go() is None and os.environ.get("CI") == "true":  # noqa: TID251
        pytest.fail(MISSING)
    if _go() is None:
        pytest.skip(MISSING, allow_module_level=True)


def example(name: str) -> Values:
    return dict(yaml.safe_load((CHART / "examples" / f"{name}.yaml").read_text()))


def merge_values(below: Values, above: Mapping[str, Any]) -> Values:
    """Values of two files, as Helm merges them: mappings by key, and null removes a key."""
    values = dict(below)
    for key, value in above.items():
        before = values.get(key)
        if value is None:
            values.pop(key, None)
        elif isinstance(before, dict) and isinstance(value, dict):
            values[key] = merge_values(before, value)
        else:
            values[key] = value
    return values


def _rendered(layers: Sequence[Values], release: str) -> list[str]:
    """Text of each template's manifests."""
    values: Values = yaml.safe_load((CHART / "values.yaml").read_text())
    for layer in layers:
        values = merge_values(values, layer)
    schema = json.loads((CHART / "values.schema.json").read_text())
    problems = [
        f"{'.'.join(str(part) for part in error.path) or '(root)'}: {error.message}"
        for error in Draft7Validator(schema).iter_errors(values)
    ]
    if problems:
        raise Refused("\n".join(problems))
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    seen = {
        # As Helm shows the fields of Chart.yaml.
        "Chart": {key[0].upper() + key[1:]: value for key, value in chart.items()},
        "Release": {
            "Name": release,
            "Namespace": "darkroom",
            "Service": "Helm",
            "Revision": 1,
            "IsInstall": True,
            "IsUpgrade": False,
        },
        "Values": values,
        "Templates": _texts(CHART / "templates"),
        "Files": _texts(CHART / "files"),
    }
    ran = subprocess.run(
        [_renderer()],
        input=json.dumps(seen),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if ran.returncode:
        raise Refused(ran.stderr)
    rendered: dict[str, str] = json.loads(ran.stdout)
    return [text for name, text in sorted(rendered.items()) if name.endswith(".yaml")]


def _texts(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(CHART).as_posix(): path.read_text() for path in files}


def _go() -> str | None:
    has_sprig = (GOCODE / "src" / "github.com" / "Masterminds" / "sprig").is_dir()
    return shutil.which("go") if has_sprig else None


@cache
def _renderer() -> Path:
    """The compiled program. Compiling takes 4 s."""
    go = _go()
    if go is None:
        raise FileNotFoundError(MISSING)
    folder = tempfile.TemporaryDirectory(prefix="darkroom-helm-")
    atexit.register(folder.cleanup)
    program = Path(folder.name) / "helm"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(GOCODE)}  # noqa: TID251
    source = Path(__file__).with_suffix(".go")
    subprocess.run([go, "build", "-o", program, source], env=environment, check=True, timeout=300)
    return program


def main() -> int:
    values = [yaml.safe_load(Path(path).read_text()) for path in sys.argv[1:]]
    yaml.safe_dump_all(manifests(*values), sys.stdout, sort_keys=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
