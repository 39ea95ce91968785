"""The command line against a server that lies: it prints nothing that a terminal obeys, sends its
key nowhere else, writes only what it was told to, and ends with a sentence, in little memory."""

from __future__ import annotations

import gzip
import json
import ssl
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from serve_app.cli.connection import client as cli_client
from serve_app.cli.main import main
from tests.attacks.attempts import Attempts
from tests.attacks.hostile_server import Answer, HostileServer, Spoil, hostile_server, of_json
from tests.attacks.inside import Inside, inside
from tests.wire.served import Address, serve

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\x08\r\x7f\u202eevil\ud800"
OBEYED = set("\x1b\x07\x9b\x08\r\x7f\u202e")
FIELDS_OF_FLOW = {"status", "state", "id", "request_id", "response_url", "status_url", "url"}
"""Whose values lead a command on to its other calls."""


@dataclass(frozen=True)
class Rig:
    server: HostileServer
    other: Inside  # a server that no command was told of
    commands: Sequence[Sequence[str]]
    folder: Path

    def run(self, command: Sequence[str], spoil: Spoil) -> list[str]:
        """What fell: the command is run on a server that spoils its answers."""
        self.server.spoil, self.server.calls = spoil, 0
        before = set(self.folder.parent.rglob("*"))
        known = {"DARKROOM_URL": self.server.url, "DARKROOM_API_KEY": self.server.behind.key}
        # A width that leaves nothing out.
        env = {**known, "PATH": "", "COLUMNS": "400"}
        result = CliRunner().invoke(main, list(command), env=env)
        fell: list[str] = []
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            fell.append(f"raised {result.exception!r:.200}")
        if obeyed := OBEYED.intersection(result.output):
            fell.append(f"printed {obeyed} in {result.output[-300:]!r}")
        written = {
            file for file in self.folder.parent.rglob("*") if file.suffix != ".part"
        } - before
        fell += [f"wrote {file}" for file in written if file.name not in WRITTEN]
        fell += [f"called {call}" for call in self.other.calls]
        self.other.calls.clear()
        for path in written:
            path.unlink()
        return fell


WRITTEN = {"out.png", "out-2.png", "audit.jsonl"}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("home") / "here"
    folder.mkdir()
    with serve() as address, hostile_server(address) as server, inside() as other:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("HOME", str(folder))
            patch.setattr(cli_client, "RESTART_S", 0.0)
            patch.setattr(cli_client, "MOST_BYTES", 2_000_000)
            patch.setattr(cli_client, "MOST_FILE_BYTES", 2_000_000)
            patch.setattr(cli_client, "PAUSES_S", (0.0,))
            context = ssl.create_default_context()  # to make one takes longer than a command
            patch.setattr(cli_client, "_certificate_authorities", lambda _: context)
            yield Rig(server, other, [*commands(address)], folder)


def commands(address: Address) -> Iterator[Sequence[str]]:
    """Commands that read from the server, about what is there."""
    headers = {"Authorization": f"Key {address.key}"}
    with httpx.Client(base_url=address.url, headers=headers, timeout=30) as http:
        succeeded = http.post("/run/test/probe", json={"artifacts": 2, "prompt": "a"})
        failed = http.post("/run/test/probe", json={"message": "no", "prompt": "a"})
        http.post("/v1/keys", json={"alias": "a", "scopes": ["read"]})
        http.post("/v1/warm", json={"endpoint_id": "test/probe", "replicas": 1})
    for answer in (succeeded, failed):
        request = answer.headers["x-fal-request-id"]
        yield from (("requests", "show", request), ("logs", request), ("open", request))
        yield from (("webhooks", "show", request), ("requests", "cancel", request))
    yield "generate", "a", "-m", "test/probe", "-o", "out.png"
    yield "generate", "a", "-m", "fal-ai/flux/schnell", "--draft", "2"
    yield from (("requests", "list"), ("status",), ("queue",), ("top", "--once"), ("doctor",))
    yield from (("audit",), ("audit", "export"), ("audit", "export", "-o", "audit.jsonl"))
    yield from (("audit", "verify"), ("usage",), ("usage", "report"), ("models",), ("shadows",))
    for group in ("webhooks", "batch", "warm", "keys", "tenants", "weights", "secrets", "jobs"):
        yield group, "list"
    yield from ((group, "list") for group in ("drafts", "shares", "workflows"))
    yield from (("tenants", "show", "default"), ("storage",), ("endpoints", "pause", "test/probe"))
    yield "endpoints", "resume", "test/probe"
    yield from (("keys", "create", "--alias", "a"), ("webhooks", "secret"), ("batch", "show", "b"))


def change_leaves(value: Any, leaf: Callable[[str, Any], Any], name: str = "") -> Any:
    """``value`` with each of its leaves changed, by the name of its field."""
    if isinstance(value, dict):
        return {key: change_leaves(item, leaf, key) for key, item in value.items()}
    if isinstance(value, list):
        return [change_leaves(item, leaf, name) for item in value]
    return leaf(name, value)


def test_commands_print_nothing_that_a_terminal_obeys(rig: Rig, attempts: Attempts) -> None:
    def keys(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                f"{key}{ESCAPES}" if key == "echo" else key: keys(item)
                for key, item in value.items()
            }
        return value

    ways = {
        "texts": of_json(lambda document: change_leaves(document, text)),
        "texts beside those that lead on": of_json(
            lambda document: change_leaves(
                document, lambda name, at: at if name in FIELDS_OF_FLOW else text(name, at)
            )
        ),
        "errors": lambda *_: Answer(json.dumps({"detail": ESCAPES}).encode(), 400),
        "no JSON": lambda *_: Answer(ESCAPES.encode(errors="replace"), 404),
        "names": of_json(keys),
        "problems": lambda *_: Answer(
            json.dumps({"detail": [{"loc": ["body", ESCAPES], "msg": ESCAPES}]}).encode(), 422
        ),
    }
    for way, spoil in ways.items():
        # Errors are read at one place.
        for command in rig.commands if way in ALL_READ else rig.commands[::8]:
            fell = rig.run(command, spoil)
            attempts.note(f"{way}, {' '.join(command)}: {fell}", held=not fell)


ALL_READ = {"texts", "texts beside those that lead on"}


def text(_name: str, value: Any) -> Any:
    return f"{value}{ESCAPES}" if isinstance(value, str) else value


@pytest.mark.variants(1)
@pytest.mark.parametrize(
    "wrong",
    [
        *("x", [{}]),
        *(pytest.param(value, marks=pytest.mark.long) for value in (None, -1, 1e400, [], {}, True)),
    ],
)
def test_commands_end_with_a_sentence_whatever_an_answer_is(
    rig: Rig, attempts: Attempts, wrong: object
) -> None:
    ways = {
        "leaves": of_json(lambda document: change_leaves(document, lambda *_: wrong)),
        "fields": of_json(
            lambda document: dict.fromkeys(document, wrong) if isinstance(document, dict) else wrong
        ),
        "all": of_json(lambda _: wrong),
    }
    for way, spoil in ways.items():
        for command in rig.commands:
            fell = rig.run(command, spoil)
            attempts.note(f"{way} {wrong!r}, {' '.join(command)}: {fell}", held=not fell)


@pytest.mark.long
def test_commands_stay_small_and_keep_their_key(rig: Rig, attempts: Attempts) -> None:
    away = f"http://127.0.0.1:{rig.other.port}/x"
    bomb = gzip.compress(b" " * 20_000_000)
    layers = {"content-encoding": "gzip, gzip"}
    named = of_json(
        lambda document: change_leaves(
            document, lambda name, at: away if "url" in name or name == "preview" else at
        )
    )
    ways: dict[str, Spoil] = {
        **{f"redirect {code}": redirect(code, away) for code in (301, 302, 303, 307, 308)},
        "endless": lambda *_: Answer(None),
        "bomb": lambda *_: Answer(bomb, headers={"content-encoding": "gzip"}),
        "bomb in a bomb": lambda *_: Answer(gzip.compress(bomb), headers=layers),
        "no gzip": lambda *_: Answer(b"x", headers={"content-encoding": "gzip"}),
        "deep": lambda *_: Answer(b"[" * 500_000),
        "long number": lambda *_: Answer(b"9" * 500_000),
        "cut": lambda _, answer: Answer(answer.content[: len(answer.content) // 2]),
        "empty": lambda *_: Answer(b""),
        "no content": lambda *_: Answer(b"", 204),
        "not modified": lambda *_: Answer(b"", 304),
        "no text": lambda *_: Answer(
            b"\xff\xfe\x00", headers={"content-type": "text/plain; charset=x"}
        ),
        "addresses of others": named,
    }
    for way, spoil in ways.items():
        # Bodies are read at two places; what is in them, at many.
        for command in rig.commands if way == "addresses of others" else rig.commands[:6]:
            tracemalloc.start()
            fell = rig.run(command, spoil)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            if way == "addresses of others":  # files may be elsewhere; the key is not sent there
                fell = [fault for fault in fell if not fault.startswith("called GET")]
            attempts.note(
                f"{way}, {' '.join(command)}: {fell} {peak}", held=not fell and peak < 60e6
            )


def redirect(status: int, to: str) -> Spoil:
    return lambda *_: Answer(b"", status, {"location": to})
