"""``darkroom migrate check`` as typed by a user, on realistic code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from click.testing import CliRunner, Result

from serve_app.cli.main import main
from tests.wire.served import Address, serve

PYTHON = '''\
"""A studio's batch of images."""

import asyncio
import os

import fal_client
from fal_client import AsyncClient, submit_async as enqueue

MODEL = "fal-ai/flux/dev"
DEFAULTS = {"num_inference_steps": 28, "enable_safety_checker": True}
client = AsyncClient(key="…")


def draw(prompt: str, seed: int | None = None) -> str:
    arguments = {
        **DEFAULTS,
        "prompt": prompt,
        "acceleration": "high",
    }
    if seed is not None:
        arguments["seed"] = seed
    result = fal_client.subscribe(MODEL, arguments=arguments, with_logs=True)
    return result["images"][0]["url"]


async def more(model: str) -> None:
    await enqueue(
        "fal-ai/fast-sdxl",
        {"prompt": "a", "embeddings": [{"path": "https://example.test/e.safetensors"}]},
    )
    await client.run("fal-ai/veo3", arguments={"prompt": "a video"})
    await client.subscribe(os.getenv("MODEL", model), arguments=dict(prompt="a", seed=1))
    await fal_client.subscribe_async("fal-ai/flux/schnell", arguments=make())


def make() -> dict[str, object]:
    return {"prompt": "computed"}
'''

TYPESCRIPT = """\
import { fal as media } from "@fal-ai/client";
import type { FluxDevInput } from "./types";

const MODELS = { draft: "fal-ai/flux/schnell", final: "fal-ai/flux/dev" } as const;
media.config({ proxyUrl: "/api/fal/proxy" });

export async function generate(prompt: string): Promise<string> {
  const { data } = await media.subscribe(MODELS.final, {
    input: {
      prompt,
      image_size: "huge",
      // Kept small.
      num_images: 2,
      raw: true,
    } as FluxDevInput,
    logs: true,
  });
  return data.images[0]!.url;
}

export const enqueue = (model: string) =>
  media.queue.submit(model, { input: { prompt: `a ${model}` } });

const size = <T,>(value: T): T => value;
await media.stream(`fal-ai/${"flux"}/schnell`, { input: { prompt: "a", ...size({}) } });
"""

JSX = """\
import * as fal from "@fal-ai/serverless-client";

export function Studio() {
  const input = { prompt: "a" };
  input.num_images = 99;
  const live = fal.realtime.connect("fal-ai/flux-2/klein", { onResult: console.log });
  return <button onClick={() => fal.run("fal-ai/flux/dev", { input })}>Draw</button>;
}
"""

Run = Callable[..., Result]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def run(*words: str, files: dict[str, str] | None = None) -> Result:
        for name, text in (files or {}).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return CliRunner().invoke(main, ["migrate", "check", *words], catch_exceptions=False)

    return run


def list_findings(check: Run, *words: str, files: dict[str, str]) -> list[tuple[Any, ...]]:
    """Line, endpoint, field and verdict of all findings."""
    findings = json.loads(check(*words, "--json", files=files).stdout)["findings"]
    return [
        tuple(finding[name] for name in ("line", "endpoint", "field", "verdict"))
        for finding in findings
    ]


def line(text: str, containing: str) -> int:
    return next(n for n, row in enumerate(text.splitlines(), 1) if containing in row)


def test_python_is_read_with_its_constants_and_variables(check: Run) -> None:
    findings = list_findings(check, "app.py", files={"app.py": PYTHON})
    at = line(PYTHON, "subscribe(MODEL")
    dev, sdxl = "fal-ai/flux/dev", "fal-ai/fast-sdxl"
    assert findings[:6] == [
        (at, dev, None, "served"),
        (line(PYTHON, "DEFAULTS ="), dev, "num_inference_steps", "served"),
        (line(PYTHON, "DEFAULTS ="), dev, "enable_safety_checker", "ignored"),
        (line(PYTHON, '"prompt": prompt'), dev, "prompt", "served"),
        (line(PYTHON, "acceleration"), dev, "acceleration", "served"),
        (line(PYTHON, '["seed"] = seed'), dev, "seed", "served"),
    ]
    assert (line(PYTHON, "embeddings"), sdxl, "embeddings", "refused") in findings
    assert (line(PYTHON, "veo3"), "fal-ai/veo3", None, "missing") in findings
    assert (line(PYTHON, "getenv"), None, None, "unread") in findings
    assert findings[-1] == (line(PYTHON, "make())"), "fal-ai/flux/schnell", None, "unread")


def test_typescript_is_read_with_its_constants_and_types(check: Run) -> None:
    findings = list_findings(check, "web", files={"web/generate.ts": TYPESCRIPT})
    dev, schnell = "fal-ai/flux/dev", "fal-ai/flux/schnell"
    stream = line(TYPESCRIPT, "media.stream")
    assert findings == [
        (line(TYPESCRIPT, "MODELS.final"), dev, None, "served"),
        (line(TYPESCRIPT, "prompt,"), dev, "prompt", "served"),
        (line(TYPESCRIPT, "huge"), dev, "image_size", "refused"),
        (line(TYPESCRIPT, "num_images"), dev, "num_images", "served"),
        (line(TYPESCRIPT, "raw"), dev, "raw", "missing"),
        (line(TYPESCRIPT, "submit(model"), None, None, "unread"),
        (stream, schnell, None, "served"),
        (stream, schnell, "prompt", "served"),
        (stream, schnell, None, "unread"),
    ]


def test_jsx_is_read_and_a_session_s_endpoint_is_the_one_that_the_client_opens(check: Run) -> None:
    findings = list_findings(check, ".", files={"src/studio.jsx": JSX})
    live = line(JSX, "realtime")
    assert findings[:2] == [
        (live, "fal-ai/flux-2/klein/realtime", None, "served"),
        (live, "fal-ai/flux-2/klein", None, "unread"),
    ]
    assert (line(JSX, "= 99"), "fal-ai/flux/dev", "num_images", "refused") in findings


@pytest.mark.parametrize(
    "setup",
    [
        "import { createFalClient } from '@fal-ai/client';\nconst f = createFalClient({});\n",
        "const { fal: f } = require('@fal-ai/client');\n",
        "const f = require('@fal-ai/serverless-client');\n",
        "import f from '@fal-ai/serverless-client';\n",
    ],
)
def test_a_client_is_known_however_it_came(check: Run, setup: str) -> None:
    files = {
        "a.mjs": f"{setup}await f.run('fal-ai/flux/dev', {{ input: {{ prompt: 'it\\'s' }} }});\n"
    }
    assert [finding[1:] for finding in list_findings(check, "a.mjs", files=files)] == [
        ("fal-ai/flux/dev", None, "served"),
        ("fal-ai/flux/dev", "prompt", "served"),
    ]


def test_calls_of_others_are_none_of_fal_s(check: Run) -> None:
    files = {
        "a.py": "import subprocess  # no fal\nsubprocess.run('fal-ai/veo3', {})\n",
        "b.js": "// fal\nrunner.run('fal-ai/veo3'); other.fal.run('fal-ai/veo3', {});\n",
    }
    result = check(".", files=files)
    assert (result.exit_code, result.output) == (0, "No calls to fal's clients found.\n")


def test_installed_and_built_code_is_left_alone(check: Run) -> None:
    call = "import fal_client\nfal_client.run('fal-ai/veo3', {})\n"
    left = ("node_modules/x", ".venv/lib", ".git", "dist", "a/site-packages")
    files = {f"{folder}/a.py": call for folder in left}
    assert list_findings(check, ".", files={**files, "a/b.py": call}) == [
        (2, "fal-ai/veo3", None, "missing")
    ]


def test_what_may_have_been_bound_or_changed_elsewhere_is_not_guessed(check: Run) -> None:
    code = dedent("""\
        import fal_client
        model = "fal-ai/flux/dev"
        if fast:
            model = "fal-ai/flux/schnell"
        given = {"prompt": "a"}
        given.update(extra())
        fal_client.run(model, arguments={"prompt": "a"})
        fal_client.run("fal-ai/flux/dev", arguments=given)
        fal_client.run("fal-ai/flux", arguments={"prompt": "a"}, path="/dev")
        """)
    assert list_findings(check, "a.py", files={"a.py": code}) == [
        (7, None, None, "unread"),
        (8, "fal-ai/flux/dev", None, "served"),
        (5, "fal-ai/flux/dev", "prompt", "served"),
        (8, "fal-ai/flux/dev", None, "unread"),
        (9, "fal-ai/flux/dev", None, "served"),
        (9, "fal-ai/flux/dev", "prompt", "served"),
    ]


def test_names_of_javascript_stand_for_what_they_are_where_they_are_used(check: Run) -> None:
    code = dedent("""\
        let model;
        model = "fal-ai/flux/dev";
        function one() {
          const input = { prompt: "a" };
          return fal.run(model, { input });
        }
        const two = async (input) => fal.run(model, { input });
        async function three() {
          const input = { prompt: "a" };
          Object.assign(input, more());
          return fal.run(model, { input });
        }
        """)
    assert list_findings(check, "a.js", files={"a.js": code}) == [
        (5, "fal-ai/flux/dev", None, "served"),
        (4, "fal-ai/flux/dev", "prompt", "served"),
        (7, "fal-ai/flux/dev", None, "served"),
        (7, "fal-ai/flux/dev", None, "unread"),
        (11, "fal-ai/flux/dev", None, "served"),
        (9, "fal-ai/flux/dev", "prompt", "served"),
        (11, "fal-ai/flux/dev", None, "unread"),
    ]


@pytest.mark.long
def test_clients_and_ids_that_a_class_keeps_are_known(check: Run) -> None:
    python = dedent("""\
        import fal_client

        class Studio:
            DRAFT = "fal-ai/flux/schnell"

            def __init__(self, fast: bool) -> None:
                self._client = fal_client.SyncClient()
                self._final = "fal-ai/flux/dev"
                self._model = "fal-ai/flux/dev"
                if fast:
                    self._model = self.DRAFT

            def draw(self, given: dict) -> None:
                self._client.submit(self.DRAFT, given)
                self._client.submit(self._final, given)
                self._client.submit(self._model, given)
        """)
    assert [
        finding[1]
        for finding in list_findings(check, "a.py", files={"a.py": python})
        if not finding[2]
    ] == [
        "fal-ai/flux/schnell",
        "fal-ai/flux/schnell",
        "fal-ai/flux/dev",
        "fal-ai/flux/dev",
        None,
        None,
    ]
    typescript = dedent("""\
        import { createFalClient } from "@fal-ai/client";
        class Studio {
          private readonly client = createFalClient({ proxyUrl: "/api" });
          draw() {
            return this.client.queue.submit("fal-ai/flux/dev", { input: { prompt: "a" } });
          }
        }
        """)
    assert list_findings(check, "a.ts", files={"a.ts": typescript})[0] == (
        5,
        "fal-ai/flux/dev",
        None,
        "served",
    )


@pytest.mark.long
@pytest.mark.parametrize(
    "callee",
    ["await fal.run<Out>", "fal.run<Out>", "fal?.run", "fal!.queue\n  .submit", "void fal.run"],
)
def test_a_call_is_known_however_it_is_spelt(check: Run, callee: str) -> None:
    files = {"a.ts": f"{callee}('fal-ai/flux/dev', {{ input: {{ prompt: 'a' }} }});"}
    assert len(list_findings(check, "a.ts", files=files)) == 2


def test_fields_that_are_sent_at_times_count(check: Run) -> None:
    code = (
        "fal.run('fal-ai/flux/dev', { input: { prompt, ...(seed && { seed, raw: true }),"
        " ...(big ? { num_images: 9 } : {}) } });\n"
    )
    assert [finding[2:] for finding in list_findings(check, "a.js", files={"a.js": code})] == [
        (None, "served"),
        ("prompt", "served"),
        ("seed", "served"),
        ("raw", "missing"),
        ("num_images", "refused"),
    ]


def test_a_file_of_windows_with_odd_escapes_is_read(check: Run) -> None:
    code = "\ufeffimport fal_client\r\nfal_client.run('fal-ai/flux/dev', {'prompt': 'a\\d'})\r\n"
    assert {finding[3] for finding in list_findings(check, "a.py", files={"a.py": code})} == {
        "served"
    }


def test_what_is_required_and_not_sent_is_refused(check: Run) -> None:
    code = "import fal_client\nfal_client.run('fal-ai/flux/dev', arguments={})\n"
    assert (2, "fal-ai/flux/dev", "prompt", "refused") in list_findings(
        check, "a.py", files={"a.py": code}
    )


def test_a_value_that_is_converted_is_served(check: Run) -> None:
    calls = [{"endpoint": "fal-ai/flux/dev", "input": {"prompt": "a", "num_images": "2"}}]
    findings = list_findings(check, "a.json", files={"a.json": json.dumps(calls)})
    assert {finding[3] for finding in findings} == {"served"}


def test_a_field_whose_value_decides_and_is_computed_is_said_to_be_unread(check: Run) -> None:
    code = "import fal_client\nfal_client.run('fal-ai/fast-sdxl', {'prompt': p, 'embeddings': e})\n"
    result = check("a.py", files={"a.py": code})
    assert "unread   fal-ai/fast-sdxl, embeddings: Refused unless empty" in result.output
    assert result.exit_code == 0


def test_fields_of_objects_in_a_list_are_looked_at(check: Run) -> None:
    loras = [{"path": "https://example.test/a.safetensors", "scael": 1}]
    calls = [{"endpoint": "fal-ai/flux-lora", "input": {"prompt": "a", "loras": loras}}]
    findings = list_findings(check, "a.json", files={"a.json": json.dumps(calls)})
    assert (1, "fal-ai/flux-lora", "loras.0.scael", "missing") in findings


def test_a_list_of_inputs_is_read_with_the_lines_of_its_entries(check: Run) -> None:
    text = dedent("""\
        # What we sent last week.
        - endpoint: fal-ai/flux/dev
          input: {prompt: a, num_images: 2}
        - endpoint: fal-ai/nowhere
        """)
    assert list_findings(check, "sent.yaml", files={"sent.yaml": text}) == [
        (2, "fal-ai/flux/dev", None, "served"),
        (2, "fal-ai/flux/dev", "prompt", "served"),
        (2, "fal-ai/flux/dev", "num_images", "served"),
        (4, "fal-ai/nowhere", None, "missing"),
    ]
    entry = '{"endpoint": "fal-ai/flux/dev",\n\t "input": {"prompt": "a\\u00e9"}}'
    tabs = f'[\n\t{entry},\n\t{{"endpoint": "x/y"}}]'
    findings = list_findings(check, "sent.json", files={"sent.json": tabs})
    assert [finding[0] for finding in findings] == [2, 2, 4]


def test_ids_are_looked_up_and_the_nearest_named(check: Run) -> None:
    assert check("fal-ai/flux/dev", "fal-ai/fast-sdxl").exit_code == 0
    result = check("fal-ai/flux/devv")
    assert result.exit_code == 1
    assert "Did you mean fal-ai/flux/dev" in result.output


@pytest.mark.parametrize(
    ("words", "files", "message"),
    [
        (["src/none.py"], {}, "There is no file or folder src/none.py"),
        (["a.txt"], {"a.txt": "x"}, "one of these suffixes"),
        (["a.yaml"], {"a.yaml": "endpoint: x"}, "should be a list of objects"),
        (["a.yaml"], {"a.yaml": "- input: {}"}, "a.yaml:1: this should be an object"),
        (["a.yaml"], {"a.yaml": "- endpoint: a/b\n  input: 3"}, "`input` should be an object"),
        (["a.json"], {"a.json": "[1"}, "a.json cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(
    check: Run, words: list[str], files: dict[str, str], message: str
) -> None:
    result = check(*words, files=files)
    assert result.exit_code == 1
    assert message in result.output


def test_code_with_an_error_in_it_is_said_to_be_unread(check: Run) -> None:
    files = {"a.py": "import fal_client\ndef (:\n", "b.ts": "fal.run(;\nfal.run('a/b', {}));;; }\n"}
    result = check(".", files=files)
    assert "a.py:2: unread" in result.output
    assert "b.ts:1: unread" in result.output


def test_files_that_cannot_be_read_are_named(check: Run, tmp_path: Path) -> None:
    for name in ("broken.py", "broken.json"):
        (tmp_path / name).symlink_to("/proc/self/mem")  # reading fails, also for root
    result = check("broken.py")
    assert result.exit_code == 0, result.output
    assert "broken.py: unread" in result.output
    assert "cannot be read: Input/output error" in result.output
    result = check("broken.json")
    assert result.exit_code == 1
    assert "broken.json cannot be read: Input/output error." in result.output


def test_code_that_is_nested_too_deeply_is_said_to_be_unread(check: Run) -> None:
    deep = "import fal_client\nx = " + "+".join(["1"] * 20_000)
    result = check("deep.py", files={"deep.py": deep})
    assert result.exit_code == 0, result.output
    assert "cannot be parsed as Python: maximum recursion depth" in result.output


@pytest.mark.long
def test_a_catalogue_of_one_s_own_counts_too(
    check: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "models.yaml"
    monkeypatch.setenv("DARKROOM_MODELS", str(own))
    own.write_text("endpoints:\n  me/mine: {family: mine, schema: open}\n")
    findings = list_findings(
        check, "a.json", files={"a.json": '[{"endpoint": "me/mine", "input": {"x": 1}}]'}
    )
    assert [finding[2:] for finding in findings] == [(None, "served"), ("x", "served")]
    assert check("fal-ai/flux/dev").exit_code == 0
    own.write_text(f"built_in: false\n{own.read_text()}")
    assert check("fal-ai/flux/dev").exit_code == 1


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve() as address:
        yield address


def test_a_running_darkroom_is_asked_for_what_it_serves(check: Run, address: Address) -> None:
    body = {"prompt": "a", "image_size": "huge", "num_images": 2, "acceleration": "high", "no": 1}
    sent = [{"endpoint": "fal-ai/flux/schnell", "input": body}, {"endpoint": "test/unserved"}]
    files = {"sent.json": json.dumps(sent)}
    there = ("--url", f"{address.url}/", "--key", address.key)
    findings = list_findings(check, "sent.json", *there, files=files)
    assert [finding[2:] for finding in findings] == [
        (None, "served"),
        ("prompt", "served"),
        ("image_size", "refused"),
        ("num_images", "served"),
        ("acceleration", "ignored"),
        ("no", "missing"),
        (None, "missing"),
    ]
    assert f"against {address.url}." in check("sent.json", *there).output


@pytest.mark.parametrize("path", ["/v1", "/page", ":x"])
def test_an_address_that_is_no_darkroom_s_is_a_sentence(
    check: Run, address: Address, path: str
) -> None:
    result = check("fal-ai/flux/dev", "--url", address.url + path, "--key", address.key)
    assert result.exit_code == 1
    assert result.output.startswith("darkroom: ")


def test_a_running_darkroom_that_refuses_the_key_is_a_sentence(
    check: Run, address: Address
) -> None:
    result = check("fal-ai/flux/dev", "--url", address.url, "--key", "wrong:key")
    assert result.exit_code == 1
    assert "darkroom: " in result.output
