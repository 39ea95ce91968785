"""Checks manifests of Kubernetes without a cluster.

    python -m tests.kubernetes.schemas ray.io_rayservices.yaml

checks the RayServices of the chart's examples against KubeRay's own custom resource definition, and
says what does not fit. The tests use the schemas beside this file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from tests.kubernetes.helm import EXAMPLES, INSTALLATION, Manifest, example, manifests

HERE = Path(__file__).parent


def problems(manifest: Manifest) -> list[str]:
    """What an API server with KubeRay's definition refuses or, for unknown fields, ignores."""
    return _said(_validator(manifest["apiVersion"], manifest["kind"]), manifest)


@cache
def _validator(api_version: str, kind: str) -> Draft202012Validator:
    definitions = json.loads((HERE / "builtin_kinds.json").read_text())["$defs"]
    if api_version == "ray.io/v1":
        schema = yaml.safe_load((HERE / "ray_service.yaml").read_text())
        return Draft202012Validator(schema | {"$defs": definitions | schema["$defs"]})
    custom = yaml.safe_load((HERE / "custom_kinds.yaml").read_text())["$defs"]
    if kind in custom:
        return Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": definitions | custom})
    group, _, version = api_version.rpartition("/")
    name = f"io.k8s.api.{group.removesuffix('.k8s.io') or 'core'}.{version}.{kind}"
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": {name: {}} | definitions})


def _said(validator: Draft202012Validator, manifest: Manifest) -> list[str]:
    return [
        f"{'.'.join(str(part) for part in error.path)}: {error.message}"
        for error in validator.iter_errors(manifest)
    ]


def definition(path: Path) -> Draft202012Validator:
    """Schema of a custom resource definition, with unknown fields as mistakes: an API server drops
    them in silence."""
    versions = yaml.safe_load(path.read_text())["spec"]["versions"]
    (schema,) = [
        version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1"
    ]
    for node in _objects(schema):
        if node.get("type") == "object" and "properties" in node:
            node.setdefault("additionalProperties", False)
        if node.get("x-kubernetes-int-or-string"):
            node.pop("type", None)
    schema["properties"]["metadata"] = {"type": "object"}
    return Draft202012Validator(schema)


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    children = schema.values() if isinstance(schema, dict) else schema
    if isinstance(schema, dict):
        yield schema
    if isinstance(schema, dict | list):
        for child in children:
            yield from _objects(child)


def main() -> int:
    validator = definition(Path(sys.argv[1]))
    mistakes = [
        f"{name}: {problem}"
        for name in EXAMPLES
        for manifest in manifests(example(name), INSTALLATION)
        if manifest["kind"] == "RayService"
        for problem in _said(validator, manifest)
    ]
    sys.stdout.write("".join(line + "\n" for line in mistakes))
    return 1 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
