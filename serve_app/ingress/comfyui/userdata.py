"""Settings and files of ComfyUI's page. What is of one user there is of a tenant here, small and
bounded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import InvalidInput, NotFound
from serve_app.domain.executors.comfyui import MAX_FILE_BYTES, ComfyUiFileInfo
from serve_app.ingress.comfyui.endpoint import caller_of
from serve_app.ingress.comfyui.errors import ERRORS, TAG, ComfyUiError, exists
from serve_app.ingress.http.body import parse_body, read_body, read_json
from serve_app.ingress.http.errors import encode_json, json_reply
from serve_app.ingress.http.json_schema import Binary
from serve_app.ingress.http.openapi import ANY, Answer, Operation, answer, in_path, in_query
from serve_app.ingress.services.services import services_of
from serve_app.tenants.scopes import Caller

SETTINGS = "comfy.settings.json"
"""File with the settings."""

MAX_PATH = 300  # characters
_PATH = re.compile(r"[^/\\\x00-\x1f]+(?:/[^/\\\x00-\x1f]+)*")


class UserFile(TypedDict):
    """File with its size in bytes; times are seconds of Unix."""

    path: str
    size: int
    modified: float
    created: float


class UserEntry(TypedDict, total=False):
    """File or folder; a folder has neither size nor time."""

    name: str
    path: str
    type: str
    size: int
    modified: float


async def settings(request: HttpRequest) -> Response:
    """``GET /settings``: all settings of the tenant."""
    return json_reply(await _settings(request, await caller_of(request)))


async def setting(request: HttpRequest) -> Response:
    """``GET /settings/{id}``: one setting; null if it is not set."""
    values = await _settings(request, await caller_of(request))
    return json_reply(values.get(request.path_params["setting"]))


async def set_settings(request: HttpRequest) -> Response:
    """``POST /settings``: set some settings."""
    caller = await caller_of(request)
    body = await read_json(request, MAX_FILE_BYTES)
    if not isinstance(body, dict):
        raise InvalidInput("The settings must be a JSON object.")
    values = cast("Mapping[str, Any]", body)
    await services_of(request).comfyui.book.merge(caller.tenant, SETTINGS, values)
    return Response()


async def set_setting(request: HttpRequest) -> Response:
    """``POST /settings/{id}``: set one setting to the body."""
    caller = await caller_of(request)
    value = {request.path_params["setting"]: await read_json(request, MAX_FILE_BYTES)}
    await services_of(request).comfyui.book.merge(caller.tenant, SETTINGS, value)
    return Response()


async def _settings(request: HttpRequest, caller: Caller) -> Mapping[str, Any]:
    content = await services_of(request).comfyui.book.read(caller.tenant, SETTINGS)
    return cast("Mapping[str, Any]", json.loads(content or b"{}"))


async def list_files(request: HttpRequest) -> Response:
    """``GET /userdata?dir=``: files in a folder. An empty list if there is no such folder."""
    caller = await caller_of(request)
    query = request.query_params
    folder = _check_path(query.get("dir", "").strip("/")) + "/"
    below = [
        replace(file, path=file.path.removeprefix(folder))
        for file in await services_of(request).comfyui.book.files(caller.tenant)
        if file.path.startswith(folder)
    ]
    if query.get("recurse", "").lower() != "true":
        below = [file for file in below if "/" not in file.path]
    if query.get("full_info", "").lower() == "true":
        return json_reply([_info(file) for file in below])
    if query.get("split", "").lower() == "true":
        return json_reply([[file.path, *file.path.split("/")] for file in below])
    return json_reply([file.path for file in below])


async def listed_with_folders(request: HttpRequest) -> Response:
    """``GET /v2/userdata?path=``: files and folders below a folder, the folders first."""
    caller = await caller_of(request)
    folder = request.query_params.get("path", "").strip("/")
    start = _check_path(folder) + "/" if folder else ""
    files = await services_of(request).comfyui.book.files(caller.tenant)
    folders: dict[str, UserEntry] = {}
    entries: list[UserEntry] = []
    for file in files:
        if not file.path.startswith(start):
            continue
        parts = file.path.split("/")
        for depth in range(start.count("/") + 1, len(parts)):
            path = "/".join(parts[:depth])
            folders[path] = {"name": parts[depth - 1], "path": path, "type": "directory"}
        info = _info(file)
        entries.append(
            {
                "name": parts[-1],
                "path": file.path,
                "type": "file",
                "size": info["size"],
                "modified": info["modified"],
            }
        )
    return json_reply([*folders.values(), *entries])


async def read(request: HttpRequest) -> Response:
    """``GET /userdata/{file}``: content of a file."""
    caller = await caller_of(request)
    path = _check_path(request.path_params["file"])
    content = await services_of(request).comfyui.book.read(caller.tenant, path)
    if content is None:
        raise NotFound("There is no such file.")
    # A style sheet is the only file that a browser has to know. Nothing is a page or a script.
    is_style = path.endswith(".css")
    headers = {
        "content-type": "text/css; charset=utf-8" if is_style else "application/octet-stream",
        "cache-control": "private, no-store",
        "x-content-type-options": "nosniff",
        "content-disposition": "inline" if is_style else "attachment",
    }
    return Response(content, headers=headers)


async def write(request: HttpRequest) -> Response:
    """``POST /userdata/{file}``: store the body as a file."""
    caller = await caller_of(request)
    path = _check_path(request.path_params["file"])
    content = await read_body(request, MAX_FILE_BYTES)
    if path == SETTINGS:
        values = await parse_body(content)
        if not isinstance(values, dict):
            raise InvalidInput("The settings must be a JSON object.")
        content = encode_json(values)  # PostgreSQL refuses numbers of many decimals
    book = services_of(request).comfyui.book
    if not await book.put(caller.tenant, path, content, overwrite=_overwrites(request)):
        return exists(path)
    return await _file_reply(request, caller, path)


async def move(request: HttpRequest) -> Response:
    """``POST /userdata/{file}/move/{dest}``: rename a file."""
    caller = await caller_of(request)
    source, path = (_check_path(request.path_params[parameter]) for parameter in ("file", "dest"))
    if SETTINGS in (source, path):
        raise InvalidInput("The settings cannot be moved.")
    book = services_of(request).comfyui.book
    if not await book.move(caller.tenant, source, path, overwrite=_overwrites(request)):
        return exists(path)
    return await _file_reply(request, caller, path)


async def remove(request: HttpRequest) -> Response:
    """``DELETE /userdata/{file}``."""
    caller = await caller_of(request)
    path = _check_path(request.path_params["file"])
    if not await services_of(request).comfyui.book.remove(caller.tenant, path):
        raise NotFound("There is no such file.")
    return Response(status_code=204)


async def _file_reply(request: HttpRequest, caller: Caller, path: str) -> Response:
    if request.query_params.get("full_info", "").lower() != "true":
        return json_reply(path)
    files: Sequence[ComfyUiFileInfo] = await services_of(request).comfyui.book.files(caller.tenant)
    return json_reply(next((_info(file) for file in files if file.path == path), None))


def _overwrites(request: HttpRequest) -> bool:
    return request.query_params.get("overwrite", "true") != "false"


def _check_path(path: str) -> str:
    """A path as it is stored. ``InvalidInput``: it leaves the folder of its tenant, or no system
    could have it."""
    parts = path.split("/")
    if len(path) > MAX_PATH or not _PATH.fullmatch(path) or {".", ".."} & {*parts}:
        raise InvalidInput.of_field(
            "path",
            f"Input should be a path such as workflows/cat.json, of at most {MAX_PATH} characters",
        )
    return path


def _info(file: ComfyUiFileInfo) -> UserFile:
    changed, created = file.changed_at.timestamp(), file.created_at.timestamp()
    return {"path": file.path, "size": file.size, "modified": changed, "created": created}


_OVERWRITE = in_query("overwrite", "`false` keeps a file that is there: 409.")
_FULL = in_query("full_info", "`true`: with sizes and times.")
_WRITTEN = {
    200: answer("Path of the file, or with `full_info` more of it.", Any),
    409: answer("There is a file of this name.", ComfyUiError),
}

READ_SETTINGS = Operation(
    "comfyuiSettings",
    "Read the settings of ComfyUI's page",
    {200: answer("Settings by their ids.", dict[str, Any])},
    tag=TAG,
    error_format=ERRORS,
)
READ_SETTING = replace(
    READ_SETTINGS,
    name="comfyuiSetting",
    summary="Read a setting of ComfyUI's page",
    responses={200: answer("Its value, or null.", Any)},
    parameters=(in_path("setting", "Id of the setting."),),
)
WRITE_SETTINGS = Operation(
    "comfyuiSetSettings",
    "Set settings of ComfyUI's page",
    {200: Answer("They are set.")},
    errors=(400, 413, 507),
    body=dict[str, Any],
    tag=TAG,
    error_format=ERRORS,
)
WRITE_SETTING = replace(
    WRITE_SETTINGS,
    name="comfyuiSetSetting",
    summary="Set a setting of ComfyUI's page",
    body=Any,
    parameters=(in_path("setting", "Id of the setting."),),
)
LIST = Operation(
    "comfyuiListUserdata",
    "List files of ComfyUI's page in a folder",
    {200: answer("Paths below the folder, or with `full_info` more of each.", list[Any])},
    errors=(400,),
    parameters=(
        in_query("dir", "The folder, such as `workflows`.", required=True),
        in_query("recurse", "`true`: with the folders in it."),
        in_query("split", "`true`: each path also in parts."),
        _FULL,
    ),
    tag=TAG,
    error_format=ERRORS,
)
LIST_WITH_FOLDERS = replace(
    LIST,
    name="comfyuiListUserdataAndFolders",
    summary="List files and folders of ComfyUI's page",
    responses={200: answer("Folders first.", list[UserEntry])},
    parameters=(in_query("path", "The folder; by default all."),),
)
READ = Operation(
    "comfyuiReadUserdata",
    "Read a file of ComfyUI's page",
    {200: answer("The file.", Binary, ANY)},
    errors=(400, 404),
    parameters=(in_path("file", "Path of the file; it contains slashes."),),
    tag=TAG,
    error_format=ERRORS,
)
WRITE = Operation(
    "comfyuiWriteUserdata",
    "Store a file of ComfyUI's page",
    _WRITTEN,
    errors=(400, 413, 507),
    content={ANY: Binary},
    body_required=False,  # without one the file is empty
    parameters=(*READ.parameters, _OVERWRITE, _FULL),
    tag=TAG,
    error_format=ERRORS,
)
MOVE = Operation(
    "comfyuiMoveUserdata",
    "Rename a file of ComfyUI's page",
    _WRITTEN,
    errors=(400, 404),
    parameters=(*READ.parameters, in_path("dest", "Its new path."), _OVERWRITE, _FULL),
    tag=TAG,
    error_format=ERRORS,
)
REMOVE = replace(
    READ,
    name="comfyuiDeleteUserdata",
    summary="Delete a file of ComfyUI's page",
    responses={204: Answer("It is deleted.")},
)
