"""``darkroom generate``: submits a prompt, shows progress and writes the output files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from serve_app.cli.connection.client import ApiFailure, Client, is_lost
from serve_app.cli.connection.progress_line import columns_of
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import echo, standard_input
from serve_app.cli.generation.endpoint_input import SUFFIXES, draft_endpoint, look_up
from serve_app.cli.generation.files import (
    STDOUT,
    TEXT_FORMAT,
    TEXT_TYPE,
    MediaKind,
    check_output,
    content_of,
    format_of,
    kind_of,
    outputs,
    says_more_than_text,
    text_of,
    write_outputs,
)
from serve_app.cli.generation.options import GenerateOptions
from serve_app.cli.generation.progress import PreviewFile, progress_bar, update_bar
from serve_app.cli.generation.viewer import NO_VIEWER, open_in_viewer
from serve_app.cli.group import interrupted_status
from serve_app.domain.errors import DarkroomError, InvalidInput
from serve_app.domain.media.image_size import in_shape_of_image

STDIN = "-"
MAYBE_ACCEPTED = (
    "The request may have been accepted all the same; `darkroom requests list` shows it."
)


def run(
    server: Server,
    wish: GenerateOptions,
    output: Path | None,
    *,
    preview: Path | None = None,
    overwrite: bool = False,
    as_json: bool,
    show: bool,
) -> None:
    """Submit, follow, and write the output files: the first to ``output``, the others numbered.

    Without ``output``, the name follows from what the endpoint makes. ``preview`` is rewritten with
    each preview. ``as_json`` prints the endpoint's output and the paths of its files. ``show``
    opens the files. Ctrl-C cancels the request and exits with status 130, as SIGTERM and the end of
    the terminal do with theirs.
    """
    wish = _with_prompt(wish)
    _check(wish, output, preview, as_json=as_json, show=show)
    named = None if output in (None, STDOUT) else output
    kind = MediaKind.IMAGE if named is None else kind_of(format_of(named))
    model = "" if wish.from_draft else wish.endpoint(kind)
    wish.body()  # Invalid options are reported before the first call to the server.
    with Client(server) as client:
        model = wish.model or model or draft_endpoint(client, str(wish.from_draft))
        place, body = _input(client, model, wish, named)
        if output is None:
            check_output(place)
        on_status = PreviewFile(client.preview, preview).on_status if preview else _ignore
        submitted: list[str] = []
        with _naming_request(submitted):
            result, files, contents = _make(
                client,
                wish,
                model,
                body,
                submitted,
                screen=None if as_json else sys.stderr,
                on_status=on_status,
            )
            if output is not None:
                files, contents = _written(model, result, files, contents, named)
    if not files:
        text = None if as_json or says_more_than_text(result) else text_of(result)
        echo(text or json.dumps(result, indent=None if as_json else 2, ensure_ascii=False))
        return
    if output == STDOUT:
        _write_stdout(files, contents)
        _print_result(result, (), ())
        return
    with _naming_request(submitted):
        saved = write_outputs(place, files, contents, overwrite=overwrite)
    if as_json:
        echo(json.dumps(result | {"saved": [str(path.absolute()) for path in saved]}))
    else:
        _print_result(result, files, saved)
    if show and not open_in_viewer([str(path) for path in saved]):
        echo(NO_VIEWER, err=True)


def _input(
    client: Client, model: str, wish: GenerateOptions, named: Path | None
) -> tuple[Path, dict[str, Any]]:
    """File for the output, and the input that makes one of its format."""
    accepted = look_up(client, model)
    body = accepted.in_its_fields(wish.body())
    name = accepted.format_field
    format_name = str(body[name]) if name and name in body else None
    place = named or accepted.default_output(format_name)
    accepted.check_format(place)
    if format_name in SUFFIXES and format_name != format_of(place):
        raise InvalidInput(
            f"-o {place} and --field {name}={format_name} name two formats. Leave out one of them."
        )
    if name:
        body.setdefault(name, format_of(place))
    accepted.check_fields((field for field in body if field != name), wish)
    return place, in_shape_of_image(body, accepted.fields)


def _make(
    client: Client,
    wish: GenerateOptions,
    model: str,
    body: dict[str, Any],
    submitted: list[str],
    **how: Any,
) -> tuple[dict[str, Any], list[Mapping[str, Any]], list[bytes]]:
    """Output, its files and their contents. ``submitted`` gets the request's id. Ctrl-C cancels the
    request and exits."""
    try:
        result = generate(client, model, body, on_submitted=submitted.append, **how)
        files = list(outputs(result))
        contents = [content_of(client, file) for file in files]
    except ApiFailure as failure:
        raise _by_option(failure, wish) from None
    except KeyboardInterrupt as interrupt:
        echo(f"\n{_cancel(client, submitted)}", err=True)
        sys.exit(interrupted_status(interrupt))
    return result, files, contents


def _written(
    model: str,
    result: Mapping[str, Any],
    files: list[Mapping[str, Any]],
    contents: list[bytes],
    named: Path | None,
) -> tuple[list[Mapping[str, Any]], list[bytes]]:
    """Files to write to ``named``, or to standard output, with their contents: of a result without
    files, its text. Raises ``ApiFailure`` if it is not what the name says."""
    text = None if files else text_of(result)
    for_text = named is not None and format_of(named) == TEXT_FORMAT
    if (text is None and (not files or for_text)) or (text and named is not None and not for_text):
        wanted = "text" if for_text else "file"
        raise ApiFailure(f"{model} returned no {wanted}: {json.dumps(result)[:200]}")
    return (files, contents) if text is None else ([{"content_type": TEXT_TYPE}], [text.encode()])


@contextmanager
def _naming_request(submitted: Sequence[str]) -> Generator[None]:
    """Errors name the request, once it has been accepted: it may go on, and may cost money."""
    try:
        yield
    except DarkroomError as error:
        if not submitted:
            if is_lost(error):
                raise ApiFailure(f"{error.message}\n{MAYBE_ACCEPTED}") from None
            raise
        (request_id,) = submitted
        raise ApiFailure(
            f"{error.message}\n`darkroom requests show {request_id}` shows the request, and "
            f"`darkroom open {request_id}` opens its files once it has any."
        ) from None


def _with_prompt(wish: GenerateOptions) -> GenerateOptions:
    """Options whose prompt was read from standard input, if ``-`` was given."""
    if wish.prompt != STDIN:
        return wish
    prompt = standard_input().strip()
    if not prompt:
        raise InvalidInput("Standard input has no prompt. Pipe one in, or name it in place of `-`.")
    return replace(wish, prompt=prompt)


def _check(
    wish: GenerateOptions, output: Path | None, preview: Path | None, *, as_json: bool, show: bool
) -> None:
    """Raise an error for options that contradict each other, or files that cannot be written."""
    if output == STDOUT and (as_json or show):
        raise InvalidInput("-o - writes the file to standard output. Leave out --json and --open.")
    for option, number in {"--count": wish.count, "--draft": wish.draft}.items():
        if output == STDOUT and (number or 1) > 1:
            raise InvalidInput(f"-o - takes one file. Leave out {option}, or name a file with -o.")
    for path in (output, preview):
        if path is not None:
            check_output(path)


def _ignore(_: object) -> None:
    """Ignore a status or an id that no one asked for."""


def generate(
    client: Client,
    model: str,
    body: dict[str, Any],
    *,
    screen: TextIO | None,
    on_status: Callable[[Mapping[str, Any]], None] = _ignore,
    on_submitted: Callable[[str], None] = _ignore,
) -> dict[str, Any]:
    """Submit, follow until the request has completed, and return the output.

    ``screen`` shows the progress. ``on_submitted`` is called with the request's id, ``on_status``
    with each status. Raises ``ApiFailure`` with the server's reason.
    """
    submitted = client.submit(model, body)
    on_submitted(submitted["request_id"])
    status: dict[str, Any] = {}
    if screen is not None:
        with progress_bar(screen, columns_of(screen)) as bar:
            for status in client.follow(submitted):
                update_bar(bar, status, columns_of(screen))
                on_status(status)
    else:
        for status in client.follow(submitted):
            on_status(status)
    return client.output(submitted, status)


def _cancel(client: Client, submitted: Sequence[str]) -> str:
    """Cancel the request and return a sentence for the user. A second Ctrl-C leaves it running."""
    if not submitted:
        return f"Stopped. {MAYBE_ACCEPTED}"
    request_id = submitted[0]
    try:
        verdict = client.put(f"/v1/requests/{request_id}/cancel")["verdict"]
    except (KeyboardInterrupt, DarkroomError):
        return (
            f"Request {request_id} was not cancelled and goes on. `darkroom requests cancel "
            f"{request_id}` cancels it; `darkroom logs {request_id} --follow` follows it."
        )
    if verdict == "already_final":
        return f"Request {request_id} has ended. `darkroom open {request_id}` opens its files."
    return f"Cancelled request {request_id}."


def _by_option(failure: ApiFailure, wish: GenerateOptions) -> ApiFailure:
    """Failure whose fields have the names of the options that set them."""
    if not failure.fields:
        return failure
    shown = (
        f"{'.'.join((wish.option_of(name), *rest))}: {message}"
        for (name, *rest), message in failure.fields
    )
    return ApiFailure("\n  ".join(shown))


def _write_stdout(files: Sequence[Mapping[str, Any]], contents: Sequence[bytes]) -> None:
    """Write the first file. Others, such as the poster of a video, are named on stderr."""
    sys.stdout.buffer.write(contents[0])
    sys.stdout.buffer.flush()
    for file in files[1:]:
        echo(f"not written: {file['url'][:200]}", err=True)


def _print_result(
    result: Mapping[str, Any], files: Sequence[Mapping[str, Any]], saved: Sequence[Path]
) -> None:
    """Print what was made; on stderr if the file itself went to standard output."""
    if result.get("drafts"):
        _print_drafts(result, files, saved)
        return
    for file, path in zip(files, saved, strict=True):
        sized = f"  {file['width']}×{file['height']}" if "width" in file else ""
        echo(f"{path}{sized}")
    seed = f"seed {result['seed']}" if "seed" in result else "done"
    demo = ", generated by the demo model" if result.get("darkroom_demo") else ""
    echo(f"{seed}{demo}", err=not saved)
    if unknown := result.get("darkroom_demo_unknown"):
        echo(
            f"The demo model does not know: {', '.join(unknown)}. `darkroom models --all` shows "
            "which real models fit this machine.",
            err=True,
        )


def _print_drafts(
    result: Mapping[str, Any], files: Sequence[Mapping[str, Any]], saved: Sequence[Path]
) -> None:
    """Print the ids of the drafts, each with its file, and how to finish one."""
    drafts = result["drafts"]
    shown = [
        str(path)
        for file, path in zip(files, saved, strict=False)
        if file["content_type"] == files[0]["content_type"]
    ]
    for number, draft in enumerate(drafts):
        place = f"{shown[number]}  " if number < len(shown) else ""
        steps = f"step {draft['step']} of {draft['steps'] or 'unknown'}"
        echo(f"{place}{draft['id']}  seed {draft['seed']}, {steps}", err=not saved)
    demo = " by the demo model" if result.get("darkroom_demo") else ""
    echo(
        f"{len(drafts)} drafts{demo}, kept until {drafts[0]['expires_at']}. `darkroom generate "
        "--from-draft ID` finishes one.",
        err=not saved,
    )
