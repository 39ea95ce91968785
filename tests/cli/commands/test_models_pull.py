"""``darkroom models pull``, ``verify``, ``push-mirror``, the notice of the start and the doctor's
checks, against a fake hub and without a running Darkroom."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serve_app import preflight
from serve_app.cli.commands import models
from serve_app.cli.doctor import checks
from serve_app.cli.main import main
from serve_app.cli.serve import notices
from serve_app.domain.errors import Misconfigured, WeightsUnavailable
from serve_app.free_ports import free_port
from serve_app.settings import Config
from tests.weights.conftest import COMMIT, NAME, NEEDED, write_repository
from tests.weights.hub_server import HubServer, serving

# Warnings of Ray, if it is imported first.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

UNET = "unet/diffusion_pytorch_model.safetensors"
SIZE = 0.6  # size of a pipeline in MB
CATALOGUE = f"""
built_in: false
endpoints:
  house/draw: &entry
    family: flux
    schema: open
    licence: House Licence 1
    weights: {{hub: {NAME}, revision: {COMMIT}}}
    recipes:
      - {{memory_gb: 12, precision: float8, hot: [unet]}}
      - {{memory_gb: 24, precision: bfloat16, hot: [unet, vae]}}
  house/redraw: *entry
  house/other:
    family: nobodys
    schema: open
    weights: {{hub: house/other, revision: {"f" * 40}}}
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Fake hub in place of the library's default, a 24 GB GPU, a catalogue and an empty store."""
    server = HubServer()
    server.add(NAME, COMMIT, write_repository(tmp_path / "published"))
    with serving(server):
        constants = "huggingface_hub.constants"
        monkeypatch.setattr(f"{constants}.ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(f"{constants}.HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(preflight, "smallest_gpu_bytes", lambda: 24 * 10**9)
        (tmp_path / "models.yaml").write_text(CATALOGUE)
        for name, value in {
            "HF_TOKEN": "",
            "DARKROOM_MODELS": str(tmp_path / "models.yaml"),
            "DARKROOM_WEIGHTS_DIR": str(tmp_path / "store"),
            "DARKROOM_GPUS": "1",
        }.items():
            monkeypatch.setenv(name, value)
        yield server


def run_models(*words: str) -> Result:
    return CliRunner().invoke(main, ["models", *words])


def test_pull_says_what_it_will_bring_and_brings_it(hub: HubServer, tmp_path: Path) -> None:
    ran = run_models("pull")
    assert ran.exit_code == 0, ran.output
    assert f"{NAME}@{COMMIT[:12]}: {SIZE} MB to download, of {SIZE} MB in 7 files" in ran.output
    assert "for      house/draw, house/redraw\n" in ran.output
    assert "licence  House Licence 1\n" in ran.output
    assert ran.output.count("fits     yes: bfloat16 (for 24 GB; this GPU has 24)") == 1
    assert f"In total {SIZE} MB to download to {tmp_path / 'store'}, where " in ran.output
    folder = Path(ran.output.rsplit("ok       house/small: ", 1)[1].strip())
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*.*")} == set(NEEDED)
    assert "nobodys" not in ran.output


def test_what_is_here_is_not_downloaded_again(hub: HubServer) -> None:
    run_models("pull")
    hub.asked.clear()
    ran = run_models("pull", "house/redraw")
    assert f"{SIZE} MB in 7 files, all downloaded" in ran.output
    assert hub.asked == []


def test_programs_get_one_json_document(hub: HubServer) -> None:
    printed = json.loads(run_models("pull", "house/draw", "--json").output)
    (download,) = printed["downloads"]
    assert (download["repository"], [*download["endpoints"]]) == (NAME, ["house/draw"])
    answer = download["endpoints"]["house/draw"]
    assert (answer["sentences"]["licence"], answer["fits"]) == ("House Licence 1", True)
    assert answer["download"]["source"] == "gives"
    assert download["missing_bytes"] == download["total_bytes"] > 500_000
    assert Path(download["path"]).is_dir()
    assert download["error"] is None


def test_on_a_terminal_no_is_an_answer(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
    ran = CliRunner().invoke(main, ["models", "pull"], input="n\n")
    assert "Download?" in ran.output
    assert ran.exit_code == 1
    assert hub.downloads(UNET) == []


@pytest.mark.parametrize("columns", [24, 40])
def test_the_progress_stays_in_one_line_of_the_terminal(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
    monkeypatch.setattr(models, "columns_of", lambda _: columns)
    ran = CliRunner().invoke(main, ["models", "pull", "house/draw", "-y"])
    assert ran.exit_code == 0, ran.output
    drawn = re.sub(r"\x1b\[[?0-9]*[a-z]", "", ran.stderr).removesuffix("\n")
    lines = drawn.split("\r")[1:]
    assert max(map(len, lines)) < columns
    assert "100%" in lines[-1]
    assert lines[-1].startswith("house/" if columns == 40 else "")


def test_one_that_cannot_be_had_keeps_the_others_from_nothing(hub: HubServer) -> None:
    ran = run_models("pull", "house/other", "house/draw")
    assert ran.exit_code == 1
    assert "PROBLEM  house/other: The hub" in ran.output
    assert "ok       house/small: " in ran.output


def test_a_hub_that_cannot_be_reached_is_one_problem_of_all(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{free_port()}")
    ran = run_models("pull", "house/other", "house/draw")
    assert ran.exit_code == 1
    (line,) = ran.output.splitlines()
    assert line.startswith("PROBLEM  house/other, house/small cannot be downloaded: the hub http:")
    assert "cannot be reached" in line


def test_an_endpoint_that_is_not_there_is_reported(hub: HubServer) -> None:
    ran = run_models("pull", "house/drawn")
    assert ran.exit_code == 1
    assert "house/draw" in ran.output


def test_a_gated_repository_says_where_to_accept_its_licence(hub: HubServer) -> None:
    hub.gated.add(NAME)
    ran = run_models("pull")
    assert ran.exit_code == 1
    assert f"accept its licence at {hub.url}/{NAME}" in ran.output


def test_verify_counts_the_damaged(hub: HubServer, tmp_path: Path) -> None:
    run_models("pull")
    assert run_models("verify").exit_code == 0
    (link,) = (tmp_path / "store").rglob(UNET)
    link.resolve().write_bytes(bytes(link.stat().st_size))
    ran = run_models("verify")
    assert ran.exit_code == 1
    assert f"PROBLEM  {NAME}: {UNET} was damaged" in ran.output


def test_a_mirror_that_is_not_set_is_reported(hub: HubServer) -> None:
    run_models("pull")
    ran = run_models("push-mirror")
    assert ran.exit_code == 1
    assert "DARKROOM_WEIGHTS_MIRROR" in ran.output


def test_the_start_says_what_is_not_here_yet(hub: HubServer, tmp_path: Path) -> None:
    lines: list[str] = []
    notices.print_missing_weights(Config(), lines.append)
    text = "\n".join(lines)
    assert f"{NAME}@{COMMIT[:12]}: {SIZE} MB to download" in text
    assert "licence  House Licence 1" in text
    assert "fits     yes: bfloat16" in text
    assert "GB are free. `darkroom models pull` downloads them now." in text
    lines.clear()
    notices.print_missing_weights(Config(data_dir=tmp_path / "its data"), lines.append)
    pull = f"darkroom models pull --data-dir '{tmp_path / 'its data'}'"
    assert f"GB are free. `{pull}` downloads them now." in lines[-1]
    run_models("pull")
    lines.clear()
    notices.print_missing_weights(Config(), lines.append)
    assert lines == []


def test_the_start_says_of_gated_weights_where_to_accept(hub: HubServer) -> None:
    hub.gated.add(NAME)
    lines: list[str] = []
    notices.print_missing_weights(Config(), lines.append)
    assert f"accept its licence at {hub.url}/{NAME}" in "\n".join(lines)


def test_a_hub_that_does_not_answer_does_not_hold_the_start_up(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "TIMEOUT_S", 0.3)
    hub.hold_after["model_index.json"] = 0
    lines: list[str] = []
    notices.print_missing_weights(Config(), lines.append)
    assert f"{NAME}@{COMMIT[:12]}: The hub does not answer about {NAME}." in "\n".join(lines)
    assert "In total 1 repository of unknown size to " in lines[-1]
    hub.go.set()


def test_demo_models_need_no_notice(hub: HubServer) -> None:
    lines: list[str] = []
    notices.print_missing_weights(Config(demo=True), lines.append)
    assert lines == []
    assert hub.asked == []


REAL_BESIDE_DEMOS = f"""
built_in: false
endpoints:
  house/small:
    family: generic
    schema: open
    display_name: House Small
    licence: House Licence 1
    weights: {{hub: {NAME}, revision: {COMMIT}}}
    cpu: {{seconds: 12}}
"""


def beside_demos(tmp_path: Path) -> Config:
    """Installation with demo models, and one real model for a CPU."""
    (tmp_path / "models.yaml").write_text(REAL_BESIDE_DEMOS)
    return Config(demo=True, data_dir=tmp_path)


def test_the_first_start_with_demo_models_offers_a_real_one_that_runs_on_a_cpu(
    hub: HubServer, tmp_path: Path
) -> None:
    config, lines = beside_demos(tmp_path), list[str]()
    notices.print_real_model(config, lines.append)
    about, offer, command = lines
    assert "demo models are tiny" in about
    size = f"{SIZE} MB to download"
    time = "about 12 s for each image"
    assert f"House Small (House Licence 1, {size}, {time})." in offer
    assert command == f"Run `darkroom models pull house/small --data-dir {tmp_path}`.\n"
    notices.print_real_model(config, lines.append)
    assert len(lines) == 3
    assert run_models("pull", "house/small").exit_code == 0


def test_a_real_model_whose_weights_are_here_is_not_offered(hub: HubServer, tmp_path: Path) -> None:
    config, lines = beside_demos(tmp_path), list[str]()
    run_models("pull", "house/small")
    notices.print_real_model(config, lines.append)
    assert lines == []


@pytest.mark.parametrize("silent", ["gone", "hangs", "offline"])
def test_where_it_cannot_be_downloaded_the_start_says_why_once_and_offers_it_again_later(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    monkeypatch.setattr(notices, "OFFER_TIMEOUT_S", 0.3)
    kept, config, lines = dict(hub.repositories), beside_demos(tmp_path), list[str]()
    if silent == "gone":
        hub.repositories.clear()
    elif silent == "hangs":
        hub.hold_after["model_index.json"] = 0
    else:
        config = Config(demo=True, data_dir=tmp_path, offline=True)
    words = {"gone": "has no house/small", "hangs": "cannot be reached", "offline": "offline"}
    notices.print_real_model(config, lines.append)
    assert "cannot be downloaded now: " in lines[-1]
    assert words[silent] in lines[-1]
    notices.print_real_model(config, lines.append)
    assert len(lines) == 3
    hub.repositories.update(kept)
    hub.hold_after.clear()
    hub.go.set()
    monkeypatch.setattr(notices, "OFFER_TIMEOUT_S", 5.0)
    notices.print_real_model(beside_demos(tmp_path), lines.append)
    assert lines[-1].startswith("Run `darkroom models pull house/small")


def test_the_doctor_looks_at_directory_hub_and_disk(hub: HubServer, tmp_path: Path) -> None:
    findings = {name: check() for name, check in checks.weights_checks(Config())}
    assert findings["weights"].startswith(f"{tmp_path / 'store'}, ")
    assert (
        findings["hub"] == f"{hub.url} answers; HF_TOKEN is not set, but gated repositories need it"
    )
    assert findings["downloads"].startswith(f"{SIZE} MB are not downloaded yet")


def test_the_doctor_says_why_weights_cannot_be_had(hub: HubServer) -> None:
    hub.gated.add(NAME)
    with pytest.raises(Misconfigured, match="accept its licence"):
        dict(checks.weights_checks(Config()))["downloads"]()


def test_the_doctor_notices_a_token_that_is_not_known(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "old")
    hub.statuses.append((401, {}))
    with pytest.raises(WeightsUnavailable, match="rejects the token"):
        dict(checks.weights_checks(Config()))["hub"]()


def test_the_doctor_says_of_the_hub_also_where_demo_models_need_none(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(demo=True, data_dir=tmp_path)
    findings = {name: check() for name, check in checks.weights_checks(config)}
    assert findings["hub"].startswith(f"{hub.url} answers")
    monkeypatch.setenv("HF_TOKEN", "old")
    hub.statuses.append((401, {}))
    findings = {name: check() for name, check in checks.weights_checks(config)}
    assert findings["hub"].startswith("not needed by the demo models; real ones")


def test_the_doctor_counts_the_real_models_that_fit(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checks.real_models(Config()) == "all 2 fit this machine"
    monkeypatch.setattr(preflight, "smallest_gpu_bytes", lambda: 8 * 10**9)
    report = checks.real_models(Config())
    assert report.startswith("0 of 2 fit this machine; the smallest GPU that serves one has 12 GB")
    assert hub.asked == []
