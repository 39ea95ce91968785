"""What is used of the package ``fal``: all names that it does not promise are in this module."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from darkroom.calls import is_async
from darkroom.fal.exchange import Application
from darkroom.fal.local_files import LocalFiles, Store
from darkroom.reporting import place_of

STORES_TO_REPLACE = ("fal", "fal_v3", "gcp_storage", "r2")
"""Names of stores in fal's toolkit. ``in_memory`` stays: it makes data URLs."""

SETTINGS = (
    "kind",
    "keep_alive",
    "max_concurrency",
    "max_multiplexing",
    "min_concurrency",
    "python_version",
    "regions",
    "request_timeout",
    "secrets",
    "startup_timeout",
    "termination_grace_period_seconds",
)
"""Settings of an app beside those that have an attribute of their own in the description."""

GPU_STATUS = 503
"""Status of errors that a GPU has caused, after which fal starts another process."""


class NotUsable(Exception):
    """An app that cannot be served. The text says why, with the place."""


def use_local_files(files: LocalFiles, data: Path | None) -> None:
    """Make fal's toolkit keep files on this machine, and read them from there. Call before the
    app is imported. ``data``: in place of fal's persistent folder ``/data``."""
    toolkit = import_module("fal.toolkit.file.file")
    store = Store(files)
    for name in STORES_TO_REPLACE:
        toolkit.BUILT_IN_REPOSITORIES[name] = lambda: store
    ssrf: Any = import_module("fal.toolkit.utils.ssrf")
    resolve = ssrf.resolve_and_validate_host

    def resolve_ours(hostname: str, port: int | None) -> list[str]:
        # fal's toolkit reads no address of a private network, and ours is one.
        return [hostname] if (hostname, port) == files.address else resolve(hostname, port)

    ssrf.resolve_and_validate_host = resolve_ours
    # It would be the last line of a process that does not start.
    vars(import_module("fal.app"))["_print_python_packages"] = lambda: None
    if data is None:
        return
    places = {
        "FAL_PERSISTENT_DIR": data,
        "FAL_REPOSITORY_DIR": data / ".fal" / "repos",
        "FAL_MODEL_WEIGHTS_DIR": data / ".fal" / "model_weights",
    }
    for module in ("fal.toolkit.utils.download_utils", "fal.toolkit.utils", "fal.toolkit"):
        vars(import_module(module)).update(places)


def load(name: str) -> type[Any]:
    """Import the class ``module:Class``. Raises ``NotUsable`` with the place of a mistake."""
    module, _, attribute = name.partition(":")
    app: type[Any] = import_module("fal").App
    try:
        app_class = getattr(import_module(module), attribute, None)
    except (Exception, SystemExit) as error:  # a script that ends when it is imported
        raise NotUsable(f"{module}.py cannot be imported: {place_of(error)}") from error
    if not (isinstance(app_class, type) and issubclass(app_class, app)):
        raise NotUsable(f"{module}.py has no class {attribute} that is a fal.App")
    return app_class


def describe_app(app: type[Any]) -> dict[str, Any]:
    """Description of an app as JSON: its settings, its routes, and its OpenAPI document."""
    settings = cast("Mapping[str, Any]", app.host_kwargs)
    instance = app(_allow_init=True)
    try:
        openapi = instance.openapi()
        routes = instance.collect_routes()
    except Exception as error:
        cause = error.__cause__ or error
        raise NotUsable(f"{app.__name__} has routes that are not usable: {cause}") from error
    machine = settings.get("machine_type", app.machine_type)
    return {
        "name": app.app_name,
        "requirements": settings.get("requirements", app.requirements),
        "machine_types": [machine] if isinstance(machine, str) else list(machine),
        "num_gpus": settings.get("num_gpus", app.num_gpus),
        "settings": {name: settings[name] for name in SETTINGS if settings.get(name) is not None},
        "files": [*app.local_python_modules, *app.app_files],
        "routes": [_route(route, method) for route, method in routes.items()],
        "openapi": openapi,
    }


def _route(signature: Any, method: Any) -> dict[str, Any]:
    # That of a realtime route is wrapped, so that its text is another one's.
    described = getattr(method, "original_func", method)
    return {
        "path": signature.path,
        "is_websocket": bool(signature.is_websocket),
        "is_health_check": signature.health_check is not None,
        "streams": _streams(method),
        "reads_request": _reads_request(method),
        "description": inspect.getdoc(described) or "",
        **({"session": _session(signature)} if signature.is_websocket else {}),
    }


def _session(signature: Any) -> dict[str, Any]:
    """What decides how messages of a websocket are passed on. ``mode``: of fal's for realtime, or
    ``websocket``, which has messages of any kind."""
    return {
        "mode": signature.realtime_mode or "websocket",
        "buffering": signature.buffering,
        "max_batch_size": int(signature.max_batch_size or 1),
        "content_type": signature.content_type or "",
    }


def _streams(method: Any) -> bool:
    """True for a route that yields, or declares an answer that is a stream, such as of events."""
    if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
        return True
    streaming: type[Any] = import_module("fastapi.responses").StreamingResponse
    return _is_class_of(_hints(method).get("return"), streaming)


def _reads_request(method: Any) -> bool:
    """True for a route with an argument for the HTTP request, whose body it may read by itself."""
    request: type[Any] = import_module("fastapi").Request
    hints = _hints(method)
    return any(_is_class_of(hint, request) for name, hint in hints.items() if name != "return")


def _hints(method: Any) -> Mapping[str, Any]:
    """Types of the arguments and of the result of a method."""
    try:
        return typing.get_type_hints(method)
    except Exception:  # annotations that only FastAPI can read
        return {}


def _is_class_of(hint: Any, base: type[Any]) -> bool:
    return isinstance(hint, type) and issubclass(hint, base)


class HostedApp:
    """An instance of an app, and its ASGI application."""

    def __init__(self, app: type[Any]) -> None:
        self.instance: Any = app(_allow_init=True)
        # fal's toolkit and client find the request in hand by this.
        import_module("fal.ref").set_current_app(self.instance)
        self._application: Any = self.instance._build_app()  # noqa: SLF001
        settings = cast("Mapping[str, Any]", app.host_kwargs)
        self.concurrency = int(settings.get("max_multiplexing") or 1)
        self.startup_timeout_s = float(settings.get("startup_timeout") or 600)
        self.health_check: Any = app.get_health_check_config()
        paths = cast("dict[str, Any]", self._application.openapi()["paths"])
        self._query_names = {path: _query_names(operations) for path, operations in paths.items()}
        self._async_paths = {
            route.path
            for route, method in self.instance.collect_routes().items()
            if is_async(method)
        }

    @property
    def application(self) -> Application:
        return self._application

    def lifespan(self) -> AbstractAsyncContextManager[Any]:
        """Context in which the app serves: ``setup`` before, ``teardown`` after it."""
        return self._application.router.lifespan_context(self._application)

    def query_names(self, path: str) -> frozenset[str]:
        """Fields of a route's input that the app reads from the URL's query."""
        return self._query_names.get(path, frozenset())

    def is_async(self, path: str) -> bool:
        """True if a route runs on the event loop, so that its task can be cancelled."""
        return path in self._async_paths

    def handle_exit(self) -> None:
        self.instance.handle_exit()


def _query_names(operations: Mapping[str, Any]) -> frozenset[str]:
    parameters = cast("list[dict[str, Any]]", operations.get("post", {}).get("parameters", []))
    return frozenset(
        str(parameter["name"]) for parameter in parameters if parameter.get("in") == "query"
    )


def is_cancelled(error: BaseException | None) -> bool:
    """True for fal's error of a request that its client has left."""
    exceptions = sys.modules.get("fal.exceptions")
    cancelled = getattr(exceptions, "RequestCancelledException", ())
    return isinstance(error, cancelled)
