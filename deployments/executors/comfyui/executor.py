"""Executor of ComfyUI workflows: one ComfyUI per replica, which runs one prompt at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Protocol, cast

import aiohttp

from deployments.executors.base import (
    PATH_KEY,
    Event,
    ExecutorWork,
    LoggedLine,
    MadeFile,
    MadeOutput,
    PreviewPicture,
)
from deployments.executors.comfyui.client import (
    ComfyUiClient,
    ComfyUiEvent,
    ComfyUiRefused,
    SavedFile,
)
from deployments.executors.comfyui.interface import kind_of
from deployments.executors.comfyui.workflow import (
    EXTRA_FIELD,
    FILES_FIELD,
    ComfyUiWorkflow,
    SubmittedPrompt,
    folder_of,
    job,
)
from serve_app.domain.errors import InvalidInput, OutOfMemory, PipelineFailed, ReplicaDied
from serve_app.domain.media.images import read_header
from serve_app.domain.progress import Progress, Stage

log = logging.getLogger(__name__)

POLL_S = 0.5
"""Interval of questions about a prompt when no event can say how it ended."""

ENDS_WITHIN_CHECKS = 20  # of a process whose port is closed, each after a fifth of ``POLL_S``

DESCRIBE_EVERY_S = 300.0
"""Age from which the description of its nodes and models is renewed after a request: there may be
new models."""

Describe = Callable[[bytes], Awaitable[None]]
"""Function that stores a description of nodes and models for clients of ComfyUI."""

SHOWING = frozenset({"SaveImageWebsocket"})
"""Classes of nodes whose pictures are results, and are saved nowhere."""

LOST = "ComfyUI has lost the request: it was restarted, or its history was cleared."


class ComfyUiServer(Protocol):
    """Where ComfyUI runs: a process of this replica, or an address."""

    @property
    def alive(self) -> bool: ...

    @property
    def end(self) -> str:
        """How it ended."""
        ...

    @property
    def files(self) -> Path | None:
        """Folder with its folders ``input`` and ``output``. None: they are on another machine."""
        ...

    async def start(self) -> str:
        """Start it, if it is ours. Returns its origin when it answers. Raises ``AppNotStarted``."""
        ...

    async def aclose(self, grace_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class _Sent:
    """A prompt that ComfyUI may have, or files for it."""

    name: str  # of the attempt
    id: str = ""  # of the prompt; empty: its files are being uploaded


@dataclass
class _Run:
    """Progress of one prompt, and what is known of its end."""

    job: SubmittedPrompt
    steps: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    named: set[str] = field(default_factory=set[str])
    node: str = ""  # that runs
    pictures: list[tuple[str, ComfyUiEvent]] = field(default_factory=list[tuple[str, ComfyUiEvent]])
    """Results that a node has sent as pictures only, with the node."""
    ended: bool = False

    def read(self, event: ComfyUiEvent) -> Iterator[Event]:
        """What an event says. Raises what it says went wrong."""
        data = event.data
        if (
            event.kind == "preview"
            and self.job.graph.get(self.node, {}).get("class_type") in SHOWING
        ):
            self.pictures.append((self.node, event))
        elif event.kind == "preview":
            step = sum(done for done, _ in self.steps.values())
            yield PreviewPicture(step, event.preview)
        elif data.get("prompt_id") not in (None, self.job.id):
            return
        elif event.kind == "executing" and data.get("node") is not None:
            yield from self._begins(str(data["node"]))
        elif event.kind == "progress":
            self.steps[str(data.get("node"))] = (int(data["value"]), int(data["max"]))
            step = sum(step for step, _ in self.steps.values())
            steps = sum(steps for _, steps in self.steps.values())
            yield Progress(Stage.RUNNING, step, steps)
        elif event.kind == "execution_error":
            raise self.failure(data)
        elif event.kind == "execution_interrupted":
            raise ReplicaDied("The prompt was interrupted at ComfyUI by somebody else.")
        elif event.kind == "execution_success":
            self.ended = True

    def _begins(self, node: str) -> Iterator[Event]:
        self.node = node
        if node in self.job.graph and node not in self.named:
            self.named.add(node)
            yield LoggedLine("INFO", f"Node {node} ({self.job.graph[node]['class_type']})")

    def failure(self, data: Mapping[str, Any]) -> Exception:
        """Error for what a node has raised."""
        kind, why = str(data.get("exception_type", "")), str(data.get("exception_message", ""))
        message = f"Node {data.get('node_id')} ({data.get('node_type')}) failed: {why.strip()}"
        if kind.rpartition(".")[2] in ("OutOfMemoryError", "OOM_EXCEPTION"):
            return OutOfMemory(message)
        return PipelineFailed(f"{message} ({kind})" if kind else message)


class ComfyUiExecutor:
    """Runs workflows at one ComfyUI. Its queue is never used: Darkroom's is the only one."""

    def __init__(self, server: ComfyUiServer, describe: Describe | None = None) -> None:
        """``describe``: None if nobody reads descriptions."""
        self._server = server
        self._describe = describe
        self._describing: asyncio.Task[None] | None = None
        self._described_at = 0.0  # by the loop's clock
        self._client: ComfyUiClient | None = None
        self._prompts: dict[str, _Sent] = {}  # by the ids of their requests

    @property
    def alive(self) -> bool:
        return self._client is not None and self._server.alive

    @property
    def concurrency(self) -> int:
        return 1

    @property
    def client(self) -> ComfyUiClient:
        """Client of it, once it has started."""
        if self._client is None:
            raise ReplicaDied("ComfyUI does not run.")
        return self._client

    async def start(self, on_progress: Callable[[Progress], None]) -> None:
        on_progress(Progress(Stage.LOADING))
        self._client = ComfyUiClient(await self._server.start())
        self._begin_describing()

    async def run(self, work: ExecutorWork) -> AsyncIterator[Event]:
        workflow = ComfyUiWorkflow.of(work.endpoint)
        name = work.folder.name
        self._prompts[work.request_id] = _Sent(name)
        try:
            inputs = await self._upload_files(workflow, work.input, name)
            prompt = job(workflow, inputs, name)
            self._prompts[work.request_id] = _Sent(name, prompt.id)
            run = _Run(prompt)
            async with self.client.events(prompt.id) as events:
                await self._submit(workflow, prompt, inputs)
                async for event in events:
                    for update in run.read(event):
                        yield update
                    if run.ended:
                        break
            ended = await self._history(prompt.id)
            output = await self._output(workflow, run, ended, work.folder)
            await self._end(work.request_id)
        except Exception as error:
            await self._end(work.request_id)
            if isinstance(error, (aiohttp.ClientError, TimeoutError)):
                gone = await self._end_reason(f"ComfyUI does not answer: {error!r}")
                raise ReplicaDied(gone) from error
            raise
        if asyncio.get_running_loop().time() > self._described_at + DESCRIBE_EVERY_S:
            self._begin_describing()
        yield MadeOutput(output)

    async def cancel(self, request_id: str, grace_s: float) -> bool:
        sent = self._prompts.get(request_id)
        if sent is None or not self.alive:
            return True
        try:
            async with asyncio.timeout(grace_s):
                if sent.id:
                    await self._interrupt(sent.id)
        except (aiohttp.ClientError, TimeoutError):
            return not self._server.alive
        await self._end(request_id)
        return True

    async def _interrupt(self, id_: str) -> None:
        """Ask a prompt to end, and wait for that."""
        await self.client.interrupt(id_)
        while await self.client.waits(id_):  # noqa: ASYNC110  # no event says so
            await asyncio.sleep(POLL_S / 5)

    async def aclose(self, grace_s: float) -> None:
        if self._describing is not None:
            self._describing.cancel()
        if self._client is not None:
            await self._client.aclose()
        await self._server.aclose(grace_s)

    def _begin_describing(self) -> None:
        """Send the description of its nodes and models beside the work. A failure is logged."""
        if self._describe is None or (self._describing and not self._describing.done()):
            return
        self._described_at = asyncio.get_running_loop().time()
        self._describing = asyncio.create_task(self._send_description(self._describe))
        self._describing.add_done_callback(_log_failure)

    async def _send_description(self, describe: Describe) -> None:
        await describe(await self.client.describe())

    async def _submit(
        self, workflow: ComfyUiWorkflow, prompt: SubmittedPrompt, fields: Mapping[str, Any]
    ) -> None:
        extra = fields.get(EXTRA_FIELD) if workflow.graph is None else None
        try:
            await self.client.submit(prompt.id, prompt.graph, extra)
        except ComfyUiRefused as refused:
            raise _refusal(workflow, refused.answer) from None

    async def _upload_files(
        self, workflow: ComfyUiWorkflow, fields: Mapping[str, Any], name: str
    ) -> Mapping[str, Any]:
        """The input with ComfyUI's names of its files."""
        values = dict(fields)
        for number, exposed in enumerate(workflow.inputs):
            file = values.get(exposed.name)
            if exposed.is_file and isinstance(file, Mapping):
                path = Path(str(cast("Mapping[str, Any]", file)[PATH_KEY]))
                called = f"{number}{path.suffix}"
                values[exposed.name] = await self.client.upload(path, called, folder_of(name))
        if workflow.graph is None and values.get(FILES_FIELD):
            files = cast("Mapping[str, Mapping[str, Any]]", values[FILES_FIELD])
            renamed: dict[str, str] = {}
            for number, (known, file) in enumerate(files.items()):
                path = Path(str(file[PATH_KEY]))
                renamed[known] = await self.client.upload(
                    path, f"{number}{path.suffix}", folder_of(name)
                )
            values[FILES_FIELD] = renamed
        return values

    async def _history(self, id_: str) -> Mapping[str, Any]:
        """What a prompt has made. Waits for its end if the events broke off."""
        while True:
            # In this order: a prompt leaves the queue only when it is in the history.
            waits = await self.client.waits(id_)
            history = await self.client.history(id_)
            if history is not None:
                return history
            if not waits:
                raise ReplicaDied(await self._end_reason(LOST))
            await asyncio.sleep(POLL_S)

    async def _end_reason(self, otherwise: str) -> str:
        """How ComfyUI ended, or ``otherwise`` if it did not. A process that has closed its port may
        end only now."""
        for _ in range(ENDS_WITHIN_CHECKS if self._server.files is not None else 0):
            if not self._server.alive:
                break
            await asyncio.sleep(POLL_S / 5)
        return otherwise if self._server.alive else f"ComfyUI {self._server.end}."

    async def _output(
        self, workflow: ComfyUiWorkflow, run: _Run, ended: Mapping[str, Any], folder: Path
    ) -> Mapping[str, Any]:
        """Result of a prompt, with its files in ``folder``."""
        status = cast("Mapping[str, Any]", ended.get("status") or {})
        if status.get("status_str") == "error":
            for kind, data in status.get("messages", ()):
                list(run.read(ComfyUiEvent(kind, data)))
            raise PipelineFailed("ComfyUI could not run the workflow, and does not say why.")
        nodes = cast("Mapping[str, Mapping[str, Any]]", ended.get("outputs") or {})
        results = {
            node: result for node, result in nodes.items() if node in (workflow.outputs or nodes)
        }
        files = [
            candidate for node, result in results.items() for candidate in _files(node, result)
        ]
        # What is only shown is a result where nothing is saved.
        saved = [candidate for candidate in files if candidate.kind == "output"] or files
        output: dict[str, Any] = {}
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        for number, saved_file in enumerate(saved):
            path = folder / f"output-{number}{PurePath(saved_file.name).suffix}"
            media_type = await self.client.download(saved_file, path)
            facts = await asyncio.to_thread(_facts, path, media_type)
            file = {PATH_KEY: str(path), "media_type": media_type, "file_name": saved_file.name}
            if workflow.graph is None:  # its clients know the nodes of their graph
                file |= {"node": saved_file.node, "listed_as": saved_file.listed_as}
            output.setdefault(kind_of(saved_file.name, media_type), []).append(
                MadeFile({**file, **facts})
            )
        for number, (node, event) in enumerate(run.pictures if not workflow.outputs else ()):
            suffix = event.media_type.rpartition("/")[2]
            path = folder / f"shown-{number}.{suffix}"
            await asyncio.to_thread(path.write_bytes, event.preview)
            facts = await asyncio.to_thread(_facts, path, event.media_type)
            file = {PATH_KEY: str(path), "media_type": event.media_type}
            file["file_name"] = f"{node}_{number + 1:05}_.{suffix}"
            if workflow.graph is None:
                file |= {"node": node, "listed_as": "images"}
            output.setdefault("images", []).append(MadeFile({**file, **facts}))
        texts = [
            (node, str(text))
            for node, result in results.items()
            for text in result.get("text") or ()
        ]
        if texts:
            output["texts"] = [text for _, text in texts]
            if workflow.graph is None:
                output["text_nodes"] = [node for node, _ in texts]
        if not output:
            raise PipelineFailed("The workflow ended without a result: no node saved anything.")
        return output | ({"seeds": dict(run.job.seeds)} if run.job.seeds else {})

    async def _end(self, request_id: str) -> None:
        """Remove what ComfyUI has of a prompt that has ended."""
        sent = self._prompts.pop(request_id, None)
        if sent is None or not self.alive:
            return
        if sent.id:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                await self.client.forget(sent.id)
        if self._server.files is None:
            return  # they are on another machine, and no call removes them
        for area in ("input", "output", "temp"):
            folder = self._server.files / area / folder_of(sent.name)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("The nodes of ComfyUI are not known to its clients: %s", error)


def _refusal(workflow: ComfyUiWorkflow, answer: Mapping[str, Any]) -> Exception:
    """Error for a prompt that ComfyUI does not take: of an input if one is to blame."""
    nodes = cast("Mapping[str, Mapping[str, Any]]", answer.get("node_errors") or {})
    for node, node_errors in nodes.items():
        for problem in node_errors.get("errors", ()):
            value = str((problem.get("extra_info") or {}).get("input_name", ""))
            message = f"{problem.get('message')}: {problem.get('details')}"
            name = workflow.field_of(node, value)
            if name is not None:
                return InvalidInput.of_field(name, message)
            where = f"Node {node} ({node_errors.get('class_type')})"
            if workflow.graph is None:
                return InvalidInput.of_field(f"prompt.{node}.inputs.{value}", message)
            return PipelineFailed(f"{where}: {message}")
    error = cast("Mapping[str, Any]", answer.get("error") or {})
    message = f"{error.get('message')} {error.get('details')}".strip()
    if workflow.graph is None:
        return InvalidInput.of_field("prompt", message)
    return PipelineFailed(f"ComfyUI refuses the workflow: {message}")


def _files(node: str, output: Mapping[str, Any]) -> Iterator[SavedFile]:
    """Files in the output of a node, whatever it calls their list."""
    for called, listed in output.items():
        for entry in cast("list[Any]", listed) if isinstance(listed, list) else ():
            if isinstance(entry, Mapping) and "filename" in entry:
                file = cast("Mapping[str, Any]", entry)
                yield SavedFile(
                    str(file["filename"]),
                    str(file.get("subfolder", "")),
                    str(file.get("type", "output")),
                    node,
                    called,
                )


def _facts(path: Path, media_type: str) -> Mapping[str, int]:
    """Width and height of a picture."""
    if not media_type.startswith("image/"):
        return {}
    try:
        header = read_header(path.read_bytes(), path.name)
    except (OSError, InvalidInput):
        return {}
    return {"width": header.width, "height": header.height}
