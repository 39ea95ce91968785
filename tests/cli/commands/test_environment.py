"""Output of `darkroom env`: its variables never let a client send the key to fal."""

from __future__ import annotations

import json
import os
import shlex
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from serve_app.cli.commands import environment
from serve_app.cli.commands.environment import REDIRECT, SHELLS
from serve_app.cli.connection.contexts import Contexts, write_contexts
from serve_app.cli.connection.remote import Remote
from serve_app.cli.main import main
from serve_app.gateway.certificate_authority import CertificateAuthority
from serve_app.telemetry.clock import SystemClock

KEY = "key-id:secret"
BEGINS = {"sh": "export {}=", "fish": "set -gx {} ", "powershell": "$env:{} = "}
PORTS = {"tls_url": "https://127.0.0.1:8443", "proxy_url": "http://127.0.0.1:8128"}


def make_data_dir(folder: Path, **ports: str) -> Path:
    """Data directory like that of a running Darkroom."""
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"url": "http://127.0.0.1:8000", **ports}))
    (folder / "api_key").write_text(KEY + "\n")
    return folder


def env(folder: Path, *arguments: str) -> str:
    ran = CliRunner().invoke(main, ["env", "--data-dir", str(folder), *arguments])
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def evaluate_script(script: str, variables: dict[str, str]) -> dict[str, str]:
    """Environment of a shell's children after ``eval`` of the script."""
    done = subprocess.run(
        ["/bin/sh", "-euc", 'eval "$SCRIPT"\nexec env -0'],
        env={"PATH": os.defpath, "SCRIPT": script, **variables},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if line)


@pytest.fixture(autouse=True)
def node_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the version of the only Node.js on the path; at first a current one."""
    programs = tmp_path / "programs"
    programs.mkdir()
    node = programs / "node"

    def says(version: str) -> None:
        node.write_text(f"#!/bin/sh\necho {version}\n")
        node.chmod(0o755)

    says("v24.11.0")
    monkeypatch.setenv("PATH", f"{programs}:{os.defpath}")
    return says


@pytest.mark.parametrize(
    ("version", "uses_proxy"),
    [
        *(("v22.21.0", True), ("v24.5.0", True), ("v25.0.0", True)),
        *(("v18.20.8", False), ("v20.20.2", False), ("v22.20.0", False)),
        *(("v23.11.1", False), ("v24.4.1", False)),
    ],
)
def test_a_node_that_knows_no_proxy_gets_a_program_that_does_its_work(
    tmp_path: Path, node_says: Callable[[str], None], version: str, uses_proxy: bool
) -> None:
    node_says(version)
    folder = make_data_dir(tmp_path / "data", **PORTS)
    ran = CliRunner().invoke(main, ["env", "--data-dir", str(folder)])
    seen = evaluate_script(ran.stdout, {})
    assert (seen["NODE_OPTIONS"].strip() == "--use-env-proxy") == uses_proxy
    assert ("cannot use a proxy" in ran.stderr) == (not uses_proxy)
    if not uses_proxy:
        assert seen["NODE_OPTIONS"].strip() == f"--require={REDIRECT}"
        assert seen["FAL_PLAIN_HTTP"] == "http://127.0.0.1:8000"
        assert seen["HTTPS_PROXY"] == PORTS["proxy_url"], "Python uses it as before"


def test_a_path_with_a_blank_is_one_option(
    tmp_path: Path, node_says: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    node_says("v20.20.2")
    monkeypatch.setattr(environment, "REDIRECT", Path("/opt/my tools/fal.cjs"))
    seen = evaluate_script(env(make_data_dir(tmp_path / "data", **PORTS)), {})
    assert seen["NODE_OPTIONS"].strip() == '--require="/opt/my tools/fal.cjs"'


def test_a_shell_that_evaluates_it_has_a_proxy_for_all_of_fal_s_names(tmp_path: Path) -> None:
    folder = make_data_dir(tmp_path / "it's here", **PORTS)
    corporate = {"https_proxy": "http://proxy.example.org:3128", "NO_PROXY": "fal.run"}
    seen = evaluate_script(env(folder), corporate | {"NODE_OPTIONS": "--trace-warnings"})
    assert seen["FAL_KEY"] == KEY
    assert seen["HTTPS_PROXY"] == seen["https_proxy"] == PORTS["proxy_url"]
    assert "fal.run" not in seen["NO_PROXY"] + seen["no_proxy"], "or the key would go there"
    assert seen["SSL_CERT_FILE"] == seen["REQUESTS_CA_BUNDLE"] == str(folder / "tls/bundle.pem")
    assert seen["NODE_EXTRA_CA_CERTS"] == str(folder / "tls/ca.pem")
    assert seen["NODE_OPTIONS"].split() == ["--use-env-proxy", "--trace-warnings"]
    assert "FAL_RUN_HOST" not in seen
    assert "FAL_PLAIN_HTTP" not in seen


def test_without_a_tls_port_the_proxy_still_keeps_the_key_from_fal(tmp_path: Path) -> None:
    output = env(make_data_dir(tmp_path / "data", proxy_url=PORTS["proxy_url"]))
    seen = evaluate_script(output, {})
    assert seen["HTTPS_PROXY"] == PORTS["proxy_url"]
    assert "SSL_CERT_FILE" not in seen
    assert "fal_plain_http.use('http://127.0.0.1:8000')" in output


def test_without_a_proxy_port_it_prints_no_key_that_would_go_to_fal(tmp_path: Path) -> None:
    folder = make_data_dir(tmp_path / "data", tls_url=PORTS["tls_url"])
    ran = CliRunner().invoke(main, ["env", "--data-dir", str(folder)])
    assert ran.exit_code == 1
    assert "DARKROOM_PROXY_PORT" in ran.output
    assert KEY not in ran.output
    assert evaluate_script(env(folder, "--mode", "plain"), {})["FAL_KEY"] == KEY


def test_host_names_for_fal_s_python_client_come_with_a_warning(tmp_path: Path) -> None:
    output = env(make_data_dir(tmp_path / "data", **PORTS), "--mode", "hosts")
    seen = evaluate_script(output, {})
    assert seen["FAL_RUN_HOST"] == "127.0.0.1:8443"
    assert seen["FAL_QUEUE_RUN_HOST"] == "127.0.0.1:8443/queue", "both, or submit waits a minute"
    assert "uploads" in output
    assert "HTTPS_PROXY" not in seen


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_every_variable(tmp_path: Path, shell: str) -> None:
    folder = make_data_dir(tmp_path / "data", **PORTS)
    printed: dict[str, Any] = json.loads(env(folder, "--json"))
    output = env(folder, "--shell", shell)
    for name, value in printed["variables"].items():
        begin = BEGINS[shell].format(name)
        (line,) = (row for row in output.splitlines() if row.startswith(begin))
        assert value in line
    assert printed["key"] == KEY
    assert printed["proxy_url"] == PORTS["proxy_url"]


def test_a_quote_in_a_path_stays_a_quote(tmp_path: Path) -> None:
    folder = make_data_dir(tmp_path / "it's", **PORTS)
    (line,) = (row for row in env(folder).splitlines() if "SSL_CERT_FILE" in row)
    assert shlex.split(line) == ["export", f"SSL_CERT_FILE={folder}/tls/bundle.pem"]


def test_a_private_authority_elsewhere_is_trusted_besides_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    private = CertificateAuthority(tmp_path / "theirs", (), SystemClock())
    private.ensure()
    theirs = str(private.certificate)
    lab = Remote("https://gpu.example:8443", KEY, theirs)
    write_contexts(Contexts("lab", {"lab": lab}))
    words = ["env", "--mode", "hosts", "--context", "lab"]
    seen = evaluate_script(CliRunner().invoke(main, words).stdout, {})
    assert seen["NODE_EXTRA_CA_CERTS"] == theirs
    bundle = Path(seen["SSL_CERT_FILE"])
    assert {seen["REQUESTS_CA_BUNDLE"], seen["CURL_CA_BUNDLE"]} == {str(bundle)}
    assert Path(theirs).read_text().strip() in bundle.read_text()
    assert len(ssl.create_default_context(cafile=str(bundle)).get_ca_certs()) > 50
    shown = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert (shown["certificate"], shown["bundle"]) == (theirs, str(bundle))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    size = bundle.stat().st_size
    assert CliRunner().invoke(main, words).exit_code == 0
    assert bundle.stat().st_size == size, "it is not added to itself"
    private.certificate.unlink()
    gone = CliRunner().invoke(main, words)
    assert gone.exit_code == 1
    assert f"{theirs} cannot be read" in gone.output
