"""A server that speaks ComfyUI's protocol, written from its public documentation, with few nodes.

Started as ComfyUI is: ``python main.py --port N --input-directory …``. Events, files, errors and
the queue are as ComfyUI 0.3.75 was seen to answer. ``TestSteps`` is a node of ours, which a real
ComfyUI gets by a package of custom nodes when the same tests run against one.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import struct
import sys
import uuid
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web
from PIL import Image, ImageOps

OUTPUT = {"output_node": True}
MODELS: dict[str, list[str]] = {"checkpoints": ["sd15.safetensors"], "loras": []}
CLASSES: dict[str, dict[str, Any]] = {
    "EmptyImage": {
        "input": {
            "required": {
                "width": ["INT", {"default": 512, "min": 1, "max": 16384, "step": 1}],
                "height": ["INT", {"default": 512, "min": 1, "max": 16384, "step": 1}],
                "batch_size": ["INT", {"default": 1, "min": 1, "max": 4096}],
                "color": ["INT", {"default": 0, "min": 0, "max": 16777215}],
            }
        },
        "output": ["IMAGE"],
    },
    "LoadImage": {
        "input": {"required": {"image": [["a stranger's.png"], {"image_upload": True}]}},
        "output": ["IMAGE", "MASK"],
    },
    "ImageInvert": {"input": {"required": {"image": ["IMAGE"]}}, "output": ["IMAGE"]},
    "SaveImage": {
        "input": {
            "required": {
                "images": ["IMAGE", {}],
                "filename_prefix": ["STRING", {"default": "ComfyUI"}],
            }
        },
        "output": [],
        **OUTPUT,
    },
    "SaveImageWebsocket": {"input": {"required": {"images": ["IMAGE"]}}, "output": [], **OUTPUT},
    "PreviewImage": {"input": {"required": {"images": ["IMAGE"]}}, "output": [], **OUTPUT},
    "TestSteps": {
        "input": {
            "required": {
                "steps": ["INT", {"default": 3, "min": 1, "max": 100}],
                "seed": ["INT", {"default": 0, "min": 0, "max": 2**64 - 1}],
                "text": ["STRING", {"multiline": True}],
                "then": [["end", "fail", "die", "out of memory"]],
                "until": ["STRING", {"default": ""}],
            }
        },
        "output": ["IMAGE"],
    },
}


class Interrupted(Exception):
    pass


class OutOfMemoryError(Exception):
    pass


class Server:
    def __init__(self, folders: dict[str, Path]) -> None:
        self.folders = folders
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.queue: list[tuple[str, dict[str, Any], str]] = []
        self.running: tuple[str, dict[str, Any], str] | None = None
        self.history: dict[str, Any] = {}
        self.interrupted = False
        self.waiting = asyncio.Event()
        self.counters: dict[str, int] = {}

    def app(self) -> web.Application:
        app = web.Application(client_max_size=100 * 2**20)
        app.add_routes(
            [
                web.get("/system_stats", self.system_stats),
                web.get("/object_info", self.object_info),
                web.get("/models", self.model_kinds),
                web.get("/models/{kind}", self.models),
                web.get("/ws", self.socket),
                web.post("/prompt", self.prompt),
                web.get("/queue", self.get_queue),
                web.post("/queue", self.change_queue),
                web.get("/history/{id}", self.get_history),
                web.post("/history", self.change_history),
                web.post("/interrupt", self.interrupt),
                web.post("/upload/image", self.upload),
                web.get("/view", self.view),
            ]
        )
        return app

    async def system_stats(self, _: web.Request) -> web.Response:
        system = {"argv": sys.argv, "comfyui_version": "0.3.75"}
        return web.json_response({"system": system, "devices": []})

    async def object_info(self, _: web.Request) -> web.Response:
        return web.json_response(CLASSES)

    async def model_kinds(self, _: web.Request) -> web.Response:
        return web.json_response([*MODELS])

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response(MODELS[request.match_info["kind"]])

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        client = request.query.get("clientId") or uuid.uuid4().hex
        self.sockets[client] = socket
        await self.send(client, "status", {"status": {}, "sid": client})
        try:
            async for message in socket:
                assert message.type is WSMsgType.TEXT
        finally:
            self.sockets.pop(client, None)
        return socket

    async def send(self, client: str, kind: str, data: dict[str, Any]) -> None:
        if client in self.sockets:
            await self.sockets[client].send_str(json.dumps({"type": kind, "data": data}))

    async def prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        graph, id_ = body.get("prompt"), str(body.get("prompt_id", uuid.uuid4()))
        error, node_errors = validate(graph, self.folders["input"])
        if error:
            return web.json_response({"error": error, "node_errors": node_errors}, status=400)
        self.queue.append((id_, graph, body.get("client_id", "")))
        self.waiting.set()
        return web.json_response({"prompt_id": id_, "number": 0, "node_errors": {}})

    async def get_queue(self, _: web.Request) -> web.Response:
        running = [self.running] if self.running else []
        listed = [[0, id_, graph, {}, []] for id_, graph, _ in running]
        pending = [[0, id_, graph, {}, []] for id_, graph, _ in self.queue]
        return web.json_response({"queue_running": listed, "queue_pending": pending})

    async def change_queue(self, request: web.Request) -> web.Response:
        gone = (await request.json()).get("delete", [])
        self.queue = [job for job in self.queue if job[0] not in gone]
        return web.Response()

    async def get_history(self, request: web.Request) -> web.Response:
        id_ = request.match_info["id"]
        return web.json_response({id_: self.history[id_]} if id_ in self.history else {})

    async def change_history(self, request: web.Request) -> web.Response:
        for id_ in (await request.json()).get("delete", []):
            self.history.pop(id_, None)
        return web.Response()

    async def interrupt(self, request: web.Request) -> web.Response:
        id_ = (await request.json()).get("prompt_id")
        if self.running and id_ in (None, self.running[0]):
            self.interrupted = True
        return web.Response()

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        file, subfolder = form["image"], str(form.get("subfolder", ""))
        assert isinstance(file, web.FileField)
        path = self.folders["input"] / subfolder / file.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.file.read())
        return web.json_response({"name": path.name, "subfolder": subfolder, "type": "input"})

    async def view(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        folder = self.folders[query.get("type", "output")] / query.get("subfolder", "")
        path = folder / query["filename"]
        if not path.is_file():
            return web.Response(status=404)
        return web.FileResponse(path)

    async def work(self) -> None:
        while True:
            await self.waiting.wait()
            if not self.queue:
                self.waiting.clear()
                continue
            self.running, self.interrupted = self.queue.pop(0), False
            await self.execute(*self.running)
            self.running = None

    async def execute(self, id_: str, graph: dict[str, Any], client: str) -> None:
        messages: list[Any] = []
        outputs: dict[str, Any] = {}

        async def tell(kind: str, **data: Any) -> None:
            messages.append([kind, {**data, "prompt_id": id_}])
            await self.send(client, kind, {**data, "prompt_id": id_})

        await tell("execution_start")
        status, node = "success", ""
        results: dict[str, Any] = {}
        try:
            for node in sort_nodes(graph):
                await self.send(client, "executing", {"node": node, "prompt_id": id_})
                await self.run_node(id_, graph, node, results, outputs, client)
        except Interrupted:
            status = "error"
            await tell("execution_interrupted", node_id=node)
        except Exception as error:
            status = "error"
            kind = type(error).__name__
            await tell(
                "execution_error",
                node_id=node,
                node_type=graph[node]["class_type"],
                exception_message=str(error),
                exception_type=f"torch.{kind}" if kind == "OutOfMemoryError" else kind,
                traceback=[],
            )
        self.history[id_] = {
            "prompt": [0, id_, graph, {}, []],
            "outputs": outputs,
            "status": {
                "status_str": status,
                "completed": status == "success",
                "messages": messages,
            },
        }
        if status == "success":
            await tell("execution_success")
        await self.send(client, "executing", {"node": None, "prompt_id": id_})

    async def run_node(
        self,
        id_: str,
        graph: dict[str, Any],
        node: str,
        results: dict[str, Any],
        outputs: dict[str, Any],
        client: str,
    ) -> None:
        values = {
            name: results[value[0]] if isinstance(value, list) else value
            for name, value in graph[node]["inputs"].items()
        }
        match graph[node]["class_type"]:
            case "EmptyImage":
                size = (values["width"], values["height"])
                color = "#" + format(values["color"], "06x")
                results[node] = [Image.new("RGB", size, color)] * values["batch_size"]
            case "LoadImage":
                with Image.open(self.folders["input"] / values["image"]) as opened:
                    results[node] = [opened.convert("RGB")]
            case "ImageInvert":
                results[node] = [ImageOps.invert(image) for image in values["image"]]
            case "TestSteps":
                results[node] = [await self.steps(id_, node, values, client)]
            case "SaveImageWebsocket":
                for number, preview in enumerate(values["images"]):
                    data = {"value": number, "max": len(values["images"]), "node": node}
                    await self.send(client, "progress", {**data, "prompt_id": id_})
                    await self.show(client, preview, "PNG")
            case kind:
                prefix = values.get("filename_prefix", "ComfyUI_temp")
                where = "temp" if kind == "PreviewImage" else "output"
                saved = [self.save(image, where, prefix) for image in values["images"]]
                outputs[node] = {"images": saved}
                data = {"node": node, "output": outputs[node], "prompt_id": id_}
                await self.send(client, "executed", data)

    async def show(self, client: str, image: Image.Image, kind: str) -> None:
        written = io.BytesIO()
        image.save(written, kind)
        if client in self.sockets:
            number = 1 if kind == "JPEG" else 2
            preview = struct.pack(">II", 1, number) + written.getvalue()
            await self.sockets[client].send_bytes(preview)

    async def steps(self, id_: str, node: str, inputs: dict[str, Any], client: str) -> Image.Image:
        image = Image.new("RGB", (64, 64), "#" + format(inputs["seed"] % 2**24, "06x"))
        for step in range(inputs["steps"]):
            data = {"value": step + 1, "max": inputs["steps"], "prompt_id": id_, "node": node}
            await self.send(client, "progress", data)
            await self.show(client, image, "JPEG")
            while inputs["until"] and not await asyncio.to_thread(os.path.exists, inputs["until"]):
                await asyncio.sleep(0.02)
                if self.interrupted:
                    raise Interrupted
            await asyncio.sleep(0)
        match inputs["then"]:
            case "fail":
                raise ValueError("the brush is broken")
            case "die":
                os._exit(3)
            case "out of memory":
                raise OutOfMemoryError("Allocation on device")
            case _:
                return image

    def save(self, image: Image.Image, where: str, prefix: str) -> dict[str, str]:
        subfolder, _, name = prefix.rpartition("/")
        folder = self.folders[where] / subfolder
        folder.mkdir(parents=True, exist_ok=True)
        number = self.counters[prefix] = self.counters.get(prefix, 0) + 1
        file = f"{name}_{number:05}_.png"
        image.save(folder / file)
        return {"filename": file, "subfolder": subfolder, "type": where}


def sort_nodes(graph: dict[str, Any]) -> list[str]:
    """Nodes in the order in which they can run."""
    done: list[str] = []

    def visit(node: str) -> None:
        for value in graph[node]["inputs"].values():
            if isinstance(value, list):
                visit(value[0])
        if node not in done:
            done.append(node)

    for node in graph:
        if CLASSES[graph[node]["class_type"]].get("output_node"):
            visit(node)
    return done


def validate(graph: Any, inputs: Path) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    for node, definition in graph.items():
        if definition["class_type"] not in CLASSES:
            message = f"Cannot execute because node {definition['class_type']} does not exist."
            details = f"Node ID '#{node}'"
            return {"type": "invalid_prompt", "message": message, "details": details}, {}
    errors: dict[str, Any] = {}
    for node, definition in graph.items():
        problems = []
        for name, spec in CLASSES[definition["class_type"]]["input"]["required"].items():
            value = definition["inputs"].get(name)
            problem = _problem(name, spec, value, inputs)
            if problem:
                problems.append({**problem, "extra_info": {"input_name": name}})
        if problems:
            errors[node] = {"errors": problems, "class_type": definition["class_type"]}
    if errors:
        message = "Prompt outputs failed validation"
        kind = "prompt_outputs_failed_validation"
        return {"type": kind, "message": message, "details": ""}, errors
    if not any(CLASSES[entry["class_type"]].get("output_node") for entry in graph.values()):
        return {"type": "prompt_no_outputs", "message": "Prompt has no outputs", "details": ""}, {}
    return None, {}


def _problem(name: str, spec: list[Any], value: Any, inputs: Path) -> dict[str, str] | None:
    if value is None:
        message = "Required input is missing"
        return {"type": "required_input_missing", "message": message, "details": name}
    options = spec[1] if len(spec) > 1 else {}
    if options.get("image_upload") and not (inputs / value).is_file():
        details = f"image - Invalid image file: {value}"
        message = "Custom validation failed for node"
        return {"type": "custom_validation_failed", "message": message, "details": details}
    if isinstance(value, int) and value < options.get("min", value):
        message = f"Value {value} smaller than min of {options['min']}"
        return {"type": "value_smaller_than_min", "message": message, "details": name}
    return None


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--listen")
    for folder in ("input", "output", "temp"):
        parser.add_argument(f"--{folder}-directory", type=Path)
    options, _ = parser.parse_known_args()
    server = Server(
        {
            "input": options.input_directory,
            "output": options.output_directory,
            "temp": options.temp_directory / "temp",
        }
    )
    runner = web.AppRunner(server.app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, options.listen, options.port).start()
    await server.work()


if __name__ == "__main__":
    asyncio.run(main())
