"""Apps of fal's public examples, read, described and served by Darkroom's own code."""

from __future__ import annotations

import ast
import asyncio
import hashlib
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgpack

from deployments.executors.base import FILE_MARK
from deployments.executors.code import unpack
from deployments.executors.describing import bundle
from deployments.executors.python.deploying import entries
from deployments.executors.python.describing import AppClass, describe, read_source
from deployments.executors.python.fal.description import GPU_MACHINES
from deployments.executors.python.fal.source import dotted_name, files_beside, literal
from serve_app.catalog.schema.json_schema import JsonSchema
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import DarkroomError
from serve_app.domain.executors.deployable import Choices
from serve_app.domain.outcome import Failure, Outcome
from serve_app.domain.realtime import AppSessionRules
from tests.deployments.executors.examples.finding import (
    DESCRIBED,
    DIFFERENT,
    REFUSED,
    SERVED,
    UNREAD,
    BorrowingEnvironments,
    Finding,
    is_small,
    package_names,
    settings_of,
    shorten,
)
from tests.deployments.executors.python.fal.house import DeployedApp, FalRig, serving
from tests.deployments.executors.python.fal.live import Client

CALL_WITHIN_S = 90.0
ANSWERING = frozenset({"unary", "server_streaming", "bidi"})
"""Modes of sessions in which a message is answered while its client is there."""
SAMPLE_URL = "http://anywhere/files/u/sample.png"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c02"
    "0000000b4944415478da63fcff1f0003030200efa37c9f0000000049454e44ae426082"
)
"""An image with one pixel."""


def examples(folder: Path) -> Iterator[tuple[Path, AppClass]]:
    """Files below ``folder`` with the classes in them that are a ``fal.App``."""
    for path in sorted(folder.rglob("*.py")):
        if b"fal" not in path.read_bytes():
            continue
        try:
            yield from ((path, app) for app in read_source(path) if app.is_fal)
        except DarkroomError:
            continue  # `fal deploy` takes such a file by its path; it is none of the examples


async def try_app(
    root: Path, path: Path, app: AppClass, environments: BorrowingEnvironments, kept: Path
) -> Finding:
    """Describe an app, and serve it if its requirements are small. ``kept``: folder of the
    environments."""
    finding = await _tried(root, path, app, environments, kept)
    if finding.result != UNREAD:
        return finding
    # Its file imports packages that it does not list, such as a test does.
    borrowing = BorrowingEnvironments(kept, (), always=True)
    return await _tried(root, path, app, borrowing, borrowing.borrowed)


async def _tried(
    root: Path, path: Path, app: AppClass, environments: BorrowingEnvironments, kept: Path
) -> Finding:
    name = f"{path.relative_to(root).as_posix()}:{app.name}"
    uses = tuple(find_uses(path, app))
    with tempfile.TemporaryDirectory(prefix="darkroom-example-") as scratch:
        private = [Path(scratch), root, kept]
        await asyncio.to_thread(_make_repository, scratch)
        try:
            deployed = await _described(root, path, app, environments, Path(scratch), kept)
        except DarkroomError as error:
            why = shorten(str(error), private)
            missing = "No module named" in why
            return Finding(name, uses, UNREAD if missing else REFUSED, why)
        notes = shorten(settings_of(deployed.found["notes"]), private)
        paths = ", ".join(f"`{route}`" for route in deployed.endpoints)
        if reason := _why_not_run(deployed):
            return Finding(name, uses, DESCRIBED, f"{paths}; not run: {reason}. {notes}".strip())
        result, why = await _served(deployed, Path(scratch) / "replica")
        return Finding(name, uses, result, f"{shorten(why, private)} {notes}".strip())


def _make_repository(folder: str) -> None:
    """Make a git repository: fal's own tests ask for the commit when they are imported."""
    who = ("-c", "user.name=examples", "-c", "user.email=examples@localhost")
    commit = (*who, "commit", "--quiet", "--allow-empty", "--message", "Empty")
    for words in (("init", "--quiet"), commit):
        subprocess.run(("git", *words), cwd=folder, check=True)


def _why_not_run(app: DeployedApp) -> str:
    if app.found["gpu"]:
        return "it needs a GPU"
    return "" if is_small(app.found["requirements"]) else "its packages are large"


async def _described(
    root: Path,
    path: Path,
    app: AppClass,
    environments: BorrowingEnvironments,
    scratch: Path,
    kept: Path,
) -> DeployedApp:
    beside = files_beside(path, app.name, root)
    code = bundle(path, (), beside)
    unpack(code, scratch / "code")
    description = await describe(scratch / "code", path.stem, app, environments)
    whole = {**description, "class": f"{path.stem}:{app.name}"}
    stored = dict(entries(whole, Choices(None), hashlib.sha256(code).hexdigest()))
    endpoints = {
        entry["options"]["app"]["path"]: Endpoint(
            name, "python", Weights(""), "json", options=entry["options"]
        )
        for name, entry in stored.items()
    }
    return DeployedApp(code, endpoints, description, kept)


async def _served(app: DeployedApp, folder: Path) -> tuple[str, str]:
    """Call each endpoint once, with what its schema gives as an example. Those that take sessions
    only get it as the first message of one."""
    answered: list[str] = []
    opened: list[str] = []
    failed: list[str] = []
    async with serving(app, folder) as rig:
        rig.rig.storage.objects["u/sample.png"] = PNG
        for path, endpoint in app.endpoints.items():
            arguments = sample(endpoint.options["input_schema"])
            try:
                async with asyncio.timeout(CALL_WITHIN_S):
                    if endpoint.takes_requests:
                        JsonSchema(endpoint).validate(arguments)
                        outcome = await rig.call(path, **arguments)
                    else:
                        outcome = await _met(rig, path, endpoint, arguments)
            except (DarkroomError, TimeoutError) as error:
                failed.append(f"`{path}`: {error or 'no answer in time'}")
                continue
            if outcome.failure is None:
                (answered if endpoint.takes_requests else opened).append(f"`{path}`")
            else:
                failed.append(f"`{path}`: {outcome.failure.message}")
    why = f"answered {', '.join(answered) or 'none'}." if answered or not opened else ""
    if opened:
        why += f" Sessions at {', '.join(opened)}."
    if failed:
        why += f" Failed: {' '.join(failed)}"
    return (SERVED if answered or opened else DIFFERENT), why.strip()


async def _met(rig: FalRig, path: str, endpoint: Endpoint, arguments: Mapping[str, Any]) -> Outcome:
    """Outcome of a session with one message, which is answered, unless the app waits for more. In
    msgpack, else in JSON: which one an app reads, it decides itself."""
    rules = AppSessionRules.of(endpoint)
    if rules is None or rules.mode not in ANSWERING:
        client = Client(rig, path)
        await client.wait_for_lease()
        return await client.leave()
    outcome = await _answered(Client(rig, path), msgpack.packb(dict(arguments)) or b"")
    if outcome.failure is None:
        return outcome
    return await _answered(Client(rig, path), json.dumps(arguments).encode())


async def _answered(client: Client, message: bytes) -> Outcome:
    await client.send(message)
    raw = await client.heard()
    outcome = await client.leave()
    try:
        heard = json.loads(raw) if raw is not None else None
    except ValueError:
        heard = None  # msgpack; errors are JSON
    if isinstance(heard, dict) and "error" in heard:
        return Outcome(failure=Failure("session", str(heard), retryable=False))
    return outcome


def find_uses(path: Path, app: AppClass) -> Iterator[str]:
    """What an app uses of fal: its kind of machine, decorators, toolkit; and its packages."""
    tree = ast.parse(path.read_bytes())
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == app.name)
    machine = literal(tree, node, "machine_type")
    if machine is not None:
        yield "GPU" if str(machine) in GPU_MACHINES or isinstance(machine, list) else "CPU"
    names: set[str] = set()
    for child in ast.walk(node):
        if isinstance(child, ast.Attribute) and dotted_name(child).startswith("fal."):
            names.add(dotted_name(child))
    names.discard("fal.App")
    yield from sorted(names)
    inside = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    for child in tree.body:
        if isinstance(child, ast.ImportFrom) and (child.module or "").startswith("fal."):
            # Models outside of the class have the toolkit's files.
            is_tool = str(child.module).startswith(("fal.toolkit", "fal.distributed"))
            yield from (alias.name for alias in child.names if is_tool or alias.name in inside)
    if app.requirements:
        listed = package_names(app.requirements)
        named = [
            package for package in listed if "/" not in package and not package.startswith("-")
        ]
        more = f" and {len(named) - 4} more" if len(named) > 4 else ""
        yield "requirements: " + ", ".join(named[:4]) + more


def sample(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Input with all required fields of a schema."""
    fields = schema.get("properties", {})
    return {
        name: _value(fields.get(name, {}), schema.get("$defs", {}))
        for name in schema.get("required", ())
    }


def _value(field: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
    if "$ref" in field:
        field = known.get(str(field["$ref"]).rpartition("/")[2], {})
    if FILE_MARK in field:
        return SAMPLE_URL
    for key in ("default", "const"):
        if key in field:
            return field[key]
    for key in ("examples", "enum", "anyOf", "oneOf"):
        if field.get(key):
            first = field[key][0]
            return _value(first, known) if key in ("anyOf", "oneOf") else first
    kind = field.get("type")
    if kind == "object":
        return sample({**field, "$defs": known})
    number = max(field.get("minimum", 1), 1)
    values = {"integer": int(number), "number": number, "boolean": True, "array": []}
    return values.get(str(kind), "hello")
