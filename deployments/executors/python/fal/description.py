"""What Darkroom serves of an app that was written for fal, from the description by its worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from deployments.executors.python.fal.schemas import NotServable, schemas_of
from serve_app.domain.errors import Misconfigured

Found = Mapping[str, Any]

CPU_MACHINES = ("XS", "S", "M", "L", "XL")

GPU_MACHINES: Mapping[str, str] = {
    "GPU": "any",
    "GPU-T4": "T4",
    "GPU-A6000": "A6000",
    "GPU-A100": "A100",
    "GPU-A100-40GB": "A100",
    "GPU-A100-80GB": "A100",
    "GPU-L40": "L40",
    "GPU-RTX4090": "RTX-4090",
    "GPU-RTX5090": "RTX-5090",
    "GPU-H100": "H100",
    "GPU-H200": "H200",
    "GPU-B200": "B200",
}
"""fal's machine types with a GPU → the GPU."""

START_TIMEOUT_S = 600.0  # fal's
POOL_KEEPS_S = 300  # default of a pool's keep_alive_s


def usable(name: str, description: Found) -> dict[str, Any]:
    """Description of an app as of any other: settings and endpoints, and ``notes``, sentences about
    what is not served. ``Misconfigured`` if nothing would be."""
    settings = cast("Found", description["settings"])
    _check(name, settings)
    notes = list(_notes(settings))
    endpoints: dict[str, dict[str, Any]] = {}
    # A path may have a route for requests and one for sessions: they are one endpoint.
    routes = sorted(
        cast("Sequence[Found]", description["routes"]), key=lambda entry: entry["is_websocket"]
    )
    for route in routes:
        path = str(route["path"])
        try:
            endpoint = endpoints.get(path) or _endpoint(route, description["openapi"])
        except NotServable as error:
            notes.append(f"{path} is not served: it {error}.")
            continue
        if route["is_websocket"]:
            endpoint["session"] = {**route["session"], "only": path not in endpoints}
        endpoints[path] = endpoint
    if not endpoints:
        raise Misconfigured(f"{name} has no endpoint that can be served. " + " ".join(notes))
    return {
        "kind": "fal",
        "name": str(description["name"]),
        "requirements": requirements_of(name, description),
        "gpu": _gpu(name, description),
        "concurrency": int(settings.get("max_multiplexing") or 1),
        "start_timeout_s": float(settings.get("startup_timeout") or START_TIMEOUT_S),
        "secrets": [str(secret) for secret in settings.get("secrets") or ()],
        "endpoints": [*endpoints.values()],
        "notes": notes,
    }


def requirements_of(name: str, description: Found) -> list[Any]:
    """Requirements of an app, in one list or in several. ``Misconfigured`` for a path, which is not
    there on other machines."""
    listed = description["requirements"]
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        raise Misconfigured(f"{name}.requirements must be a list, such as ['numpy>=2'].")
    every = cast("list[Any]", listed)
    for layer in every:
        for requirement in [layer] if isinstance(layer, str) else layer:
            if not isinstance(requirement, str):
                raise Misconfigured(f"{name}.requirements must be texts, or lists of texts.")
            if requirement.startswith(("./", "../", "/", ".[")) or requirement == ".":
                raise Misconfigured(
                    f"{name}.requirements has the path {requirement}, which replicas on other "
                    "machines do not have. Add the code by --with, or name a package."
                )
    return every


def check_files(name: str, description: Found, bundled: Sequence[str]) -> None:
    """Raise ``Misconfigured`` for a module or file that the app names and its bundle lacks."""
    tops = {path.partition("/")[0] for path in bundled}
    for file in cast("Sequence[str]", description["files"]):
        top = Path(file).as_posix().partition("/")[0]
        if not {top, f"{top.partition('.')[0]}.py", top.partition(".")[0]} & tops:
            raise Misconfigured(f"{name} needs {file}, which was not found. Add it by --with.")


def _check(name: str, settings: Found) -> None:
    if settings.get("kind") == "container":
        raise Misconfigured(
            f"{name} runs in a container image of its own, and Darkroom builds none. Remove "
            "`image`, list the Python packages in `requirements`, and install system packages on "
            "the machines or in Darkroom's image."
        )


def _gpu(name: str, description: Found) -> str | None:
    """GPU that an app asks for. None: it runs on a CPU."""
    machine_types = [
        str(machine_type) for machine_type in cast("Sequence[Any]", description["machine_types"])
    ]
    machines = [_machine(machine_type) for machine_type in machine_types]
    unknown = [
        machine_type
        for machine_type, known in zip(machine_types, machines, strict=True)
        if known is None
    ]
    if unknown:
        raise Misconfigured(
            f"{name} has the unknown machine_type {', '.join(unknown)}. Known are "
            f"{', '.join((*CPU_MACHINES, *GPU_MACHINES))}."
        )
    gpus = [GPU_MACHINES[machine] for machine in machines if machine and machine in GPU_MACHINES]
    if not gpus:
        return None
    number = description.get("num_gpus") or 1
    classes = " or ".join(dict.fromkeys(gpus))
    return f"{number} × {classes}" if number > 1 else classes


def _machine(machine_type: str) -> str | None:
    """fal's machine type, which authors also write as the name of the GPU, and in any case. None:
    it is unknown."""
    name = machine_type.strip().upper()
    known = (*CPU_MACHINES, *GPU_MACHINES)
    return next((candidate for candidate in (name, f"GPU-{name}") if candidate in known), None)


def _notes(settings: Found) -> Iterator[str]:
    """Sentences about settings that have another place here."""
    if (kept := settings.get("keep_alive") or 0) > POOL_KEEPS_S:
        yield (
            f"keep_alive = {kept} is not used: set keep_alive_s = {kept} of the pool, whose "
            "replicas keep the app's processes."
        )
    if (least := settings.get("min_concurrency") or 0) > 0:
        yield (
            f"min_concurrency = {least} is not used: set min_replicas = {least} of the pool, whose "
            "replicas keep the app's processes."
        )
    if most := settings.get("max_concurrency"):
        running = int(most) * int(settings.get("max_multiplexing") or 1)
        yield (
            f"max_concurrency = {most} is not used: max_replicas of the pool bounds its processes. "
            f"To bound the app alone, set max_running = {running} in queue.endpoint_limits."
        )
    if limit := settings.get("request_timeout"):
        yield (
            f"request_timeout = {limit} is not used: clients send the header X-Darkroom-Deadline."
        )
    if version := settings.get("python_version"):
        yield f"python_version = {version} is not used: apps run with Darkroom's Python."


def _endpoint(route: Found, openapi: Found) -> dict[str, Any]:
    if route["is_health_check"]:
        raise NotServable("is the health check, which its replica calls")
    path = str(route["path"])
    schemas = schemas_of(
        path,
        openapi,
        is_websocket=bool(route["is_websocket"]),
        reads_request=bool(route.get("reads_request")),
    )
    return {
        "path": path,
        "description": str(route["description"]),
        "streams": bool(route.get("streams")),
        "input_schema": schemas.input,
        "output_schema": schemas.output,
    }
