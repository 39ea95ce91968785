"""Projects of Cog's integration tests and examples, described and served by Darkroom's own code.

A test is a ``.txtar`` file: commands with what they print, and files. Its predictions are made
here, and what it expects is compared."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import hashlib
import json
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from deployments.executors.cog.deploying import CogBundle, describe
from deployments.executors.cog.project import FILE, CogProject, read_project
from deployments.executors.cog.schema import (
    CONTEXT,
    input_schema,
    marked_output,
    output_schema,
)
from serve_app.catalog.schema.json_schema import JsonSchema
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import DarkroomError, InvalidInput
from tests.deployments.executors.examples.fal_apps import PNG, sample
from tests.deployments.executors.examples.finding import (
    DESCRIBED,
    DIFFERENT,
    REFUSED,
    SERVED,
    UNREAD,
    BorrowingEnvironments,
    Finding,
    is_small,
    settings_of,
    shorten,
)
from tests.deployments.executors.rig import ExecutorRig

CALL_WITHIN_S = 60.0
MOST_CALLS = 6
FILES_URL = "http://anywhere/files/u/"

_SECTION = re.compile(r"^-- (\S+) --$", re.MULTILINE)


@dataclass(slots=True)
class Call:
    """A prediction that a test makes."""

    given: dict[str, Any]
    refused: bool  # the test expects that
    is_http: bool
    is_made_up: bool = False  # of its schema; the test has none that is made here
    expected: list[str] = field(default_factory=list)  # patterns of what is printed


@dataclass(frozen=True, slots=True)
class Example:
    """A project with the predictions of its test."""

    name: str
    files: Mapping[str, bytes]
    calls: Sequence[Call]


def examples(folder: Path) -> Iterator[Example]:
    """Tests below ``folder``, and folders with a ``cog.yaml``."""
    for path in sorted(folder.rglob("*.txtar")):
        yield parse_example(path.stem, path.read_text("utf-8"))
    for path in sorted(folder.rglob(FILE)):
        inner = path.parent
        files = {
            file.relative_to(inner).as_posix(): file.read_bytes()
            for file in sorted(inner.rglob("*"))
            if file.is_file()
        }
        yield Example(inner.relative_to(folder).as_posix(), files, ())


def parse_example(name: str, text: str) -> Example:
    """A test from the text of its file."""
    script, *rest = _SECTION.split(text)
    pairs = zip(rest[::2], rest[1::2], strict=True)
    files = {path: content.lstrip("\n").encode() for path, content in pairs}
    calls: list[Call] = []
    last: Call | None = None
    for line in script.splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            words = []
        if words and words[0] == "stdout" and last is not None:
            last.expected += words[1:2]
        elif words and words[0] not in ("!", "stdout", "stderr", "stdin"):
            last = _call(words, refused=False)
        elif words[:1] == ["!"] and words[1:2] not in (["stdout"], ["stderr"]):
            last = _call(words[1:], refused=True)
        else:
            continue
        if last is not None and not any(call is last for call in calls):
            calls.append(last)
    return Example(name, files, calls)


def _call(words: Sequence[str], *, refused: bool) -> Call | None:
    try:
        if words[:3] == ["curl", "POST", "/predictions"]:
            body = dict(json.loads(words[3]))
            context = {CONTEXT: body[CONTEXT]} if CONTEXT in body else {}
            return Call({**(body.get("input") or {}), **context}, refused, is_http=True)
        if words[0] != "cog" or words[1] not in ("predict", "run") or "-" in words:
            return None
        if "--json" in words:
            arguments = json.loads(words[words.index("--json") + 1])
            return Call(arguments, refused, is_http=False)
    except (ValueError, IndexError):
        return None
    arguments: dict[str, Any] = {}
    for flag, pair in pairwise(words):
        if flag == "-i":
            name, _, value = pair.partition("=")
            earlier = arguments.get(name)
            arguments[name] = value if earlier is None else [*_listed(earlier), value]
    return Call(arguments, refused, is_http=False)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


async def try_project(
    example: Example, environments: BorrowingEnvironments, kept: Path
) -> Finding | None:
    """Describe a project, and make the predictions of its test. None: it has no project."""
    configurations = [path for path in example.files if PurePosixPath(path).name == FILE]
    if not configurations:
        return None
    uses = tuple(find_uses(example, configurations[0]))
    with tempfile.TemporaryDirectory(prefix="darkroom-example-") as scratch:
        folder = Path(scratch) / "project"
        for name, content in example.files.items():
            if ".." not in name and not name.startswith("/"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
        place = (folder / configurations[0]).parent
        private = [Path(scratch), kept]
        try:
            project = read_project(place)
            bundle = await describe(place, project, environments)
        except DarkroomError as error:
            why = shorten(str(error), private)
            missing = "No module named" in why
            return Finding(example.name, uses, UNREAD if missing else REFUSED, why)
        notes = shorten(settings_of(project.notes), private)
        if project.needs_gpu or not is_small(project.requirements):
            reason = "it needs a GPU" if project.needs_gpu else "its packages are large"
            why = f"{', '.join(project.targets)}; not run: {reason}."
            return Finding(example.name, uses, DESCRIBED, f"{why} {notes}".strip())
        result, why = await _served(example, project, bundle, kept, Path(scratch))
        return Finding(example.name, uses, result, f"{shorten(why, private)} {notes}".strip())


def _endpoint(project: CogProject, bundle: CogBundle, mode: str) -> Endpoint:
    options = {
        "cog": {
            "mode": mode,
            "bundle": hashlib.sha256(bundle.content).hexdigest(),
            "target": project.targets[mode],
            "requirements": list(project.requirements),
            "environment": dict(project.environment),
            "concurrency": bundle.concurrency[mode],
            "output": marked_output(bundle.document, mode),
        },
        "input_schema": input_schema(bundle.document, mode),
        "output_schema": output_schema(bundle.document, mode),
    }
    return Endpoint("apps/example", "cog", Weights(""), "json", options=options)


async def _served(
    example: Example, project: CogProject, bundle: CogBundle, kept: Path, scratch: Path
) -> tuple[str, str]:
    mode = "predict" if "predict" in project.targets else "train"
    endpoint = _endpoint(project, bundle, mode)
    calls = example.calls[:MOST_CALLS] if mode == "predict" else ()
    if not calls:
        arguments = sample(endpoint.options["input_schema"])
        calls = [Call(arguments, refused=False, is_http=False, is_made_up=True)]
    (scratch / "replica").mkdir()
    rig = ExecutorRig(scratch / "replica", code=bundle.content, apps_dir=kept.parent)
    rig.storage.objects["u/sample.png"] = PNG
    wrong: list[str] = []
    problems: list[str] = []
    await rig.replica.start()
    try:
        for number, call in enumerate(calls):
            arguments = _typed(call.given, endpoint.options["input_schema"], example, rig)
            if problem := await _called(rig, endpoint, call, arguments, f"call-{number}"):
                problems.append(problem)
                wrong.append(f"Call {number + 1} ({json.dumps(call.given)[:80]}): {problem}")
    finally:
        await rig.replica.aclose()
    if calls[0].is_made_up:
        told = problems[0] if problems else "answered"
        return (DESCRIBED if wrong else SERVED), f"An input made from its schema: {told}."
    if not wrong:
        return SERVED, f"{len(calls)} of {len(calls)} calls as expected."
    return DIFFERENT, f"{len(calls) - len(wrong)} of {len(calls)} calls as expected. {wrong[0]}"


def _typed(
    arguments: Mapping[str, Any], schema: Mapping[str, Any], example: Example, rig: ExecutorRig
) -> dict[str, Any]:
    """Input with the types of its schema, as Cog's command line makes it; files have URLs."""
    typed: dict[str, Any] = {}
    for name, value in arguments.items():
        known = schema.get("properties", {}).get(name, {})
        branches = [known, *known.get("anyOf", ())]
        kinds = {str(branch.get("type")) for branch in branches}
        several = "array" in kinds and isinstance(value, (str, list))
        values = [_scalar(item, kinds, example, rig) for item in _listed(value)]
        typed[name] = values if several or isinstance(value, list) else values[0]
    return typed


def _scalar(value: Any, kinds: set[str], example: Example, rig: ExecutorRig) -> Any:
    if not isinstance(value, str):
        return value
    if value.startswith("@") and value[1:] in example.files:
        rig.storage.objects[f"u/{value[1:]}"] = example.files[value[1:]]
        return FILES_URL + value[1:]
    if kinds & {"integer", "number", "boolean"}:
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value


async def _called(
    rig: ExecutorRig, endpoint: Endpoint, call: Call, arguments: Mapping[str, Any], name: str
) -> str:
    """Make one prediction. Empty if all is as the test expects."""
    try:
        checked, _ = JsonSchema(endpoint).validate(arguments)
        async with asyncio.timeout(CALL_WITHIN_S / (2 if call.is_made_up else 1)):
            lease_key = rig.offer(name, lease_endpoint=endpoint, lease_input=checked)
            outcome = await rig.outcome(lease_key)
    except InvalidInput as error:
        return "" if call.refused else f"refused: {error}"
    except TimeoutError:
        return "no answer within a minute"
    if call.refused:
        return "" if outcome.failure else "answered, though it should be refused"
    output = (outcome.output or {}).get("output")
    failed = outcome.failure.message if outcome.failure else ""
    if failed and not any("failed" in pattern for pattern in call.expected):
        return f"failed: {failed}"
    printed = _printed(output, failed, is_http=call.is_http)
    shown = "artifact" in json.dumps(output)  # where a file lies is Darkroom's own
    checked_for = [
        pattern
        for pattern in call.expected
        # Metrics and logs of an answer have other places here.
        if not call.is_http or any(f'"{key}"' in pattern for key in ("status", "output", "error"))
    ]
    missing = [pattern for pattern in checked_for if not shown and not _matches(pattern, printed)]
    return f"expected {missing[0]}, answered {printed[0][:120]}" if missing else ""


def _printed(output: Any, failed: str, *, is_http: bool) -> Sequence[str]:
    """What Cog would print of an output, in its ways of writing JSON."""
    if is_http:
        body = {"status": "failed" if failed else "succeeded", "output": output, "error": failed}
        return [json.dumps(body, separators=(",", ":"))]
    plain = output if isinstance(output, str) else "\n".join(map(str, _listed(output)))
    whole = {"status": "failed" if failed else "succeeded", "output": output, "error": failed}
    return [
        plain,
        *(json.dumps(answer, indent=2) for answer in (output, whole)),
        *(json.dumps(answer, separators=(",", ":")) for answer in (output, whole)),
        *("".join(map(str, _listed(output))),),
    ]


def _matches(pattern: str, printed: Sequence[str]) -> bool:
    try:
        return any(re.search(pattern, text, re.MULTILINE) for text in printed)
    except re.error:
        return True  # a pattern of Go's


def find_uses(example: Example, configuration: str) -> Iterator[str]:
    """What a project uses of Cog: keys of its ``cog.yaml`` and names of the package."""
    try:
        settings = yaml.safe_load(example.files[configuration]) or {}
        build = settings.get("build") or {}
        yield from (key for key in settings if key not in ("build", "image"))
        yield from (f"build.{key}" for key in build if key != "python_version")
    except (yaml.YAMLError, AttributeError):
        pass
    names: set[str] = set()
    for name, content in example.files.items():
        if not name.endswith(".py"):
            continue
        try:
            tree = ast.parse(content)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cog":
                names |= {alias.name for alias in node.names}
    yield from sorted(names)
