"""``darkroom models add``, ``remove`` and ``check``, against a running ingress and a fake hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from serve_app.cli.connection.client import Client
from serve_app.cli.connection.installation import Installation
from serve_app.cli.connection.resources import path_of
from serve_app.cli.main import main
from serve_app.domain.safetensors import TensorFacts
from serve_app.resources.entries import ENTRIES
from tests.gguf_files import write_gguf
from tests.ingress.api.test_model_entries import DOCUMENTED
from tests.ingress.house import MODELS
from tests.weights.hub_server import HubServer, serving
from tests.wire.served import serve
from weights.links import fingerprint

# Warnings of Ray, if it is imported first.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
README = "---\nlicense: other\nlicense_name: house-licence\n---\n# Portraits\n"


def repository(folder: Path, pipeline: str = "FluxPipeline", readme: str = README) -> Path:
    """Folder with the files of a diffusers pipeline."""
    index = {"_class_name": pipeline, "transformer": ["diffusers", "FluxTransformer2DModel"]}
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "README.md").write_text(readme)
    (folder / "transformer" / "config.json").write_text('{"guidance_embeds": false}')
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(bytes(2_500_000))
    return folder


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """Data directory of a running Darkroom."""
    directory = tmp_path / "data"
    directory.mkdir()
    with serve(models=MODELS, documented=DOCUMENTED) as here:
        (directory / "run.json").write_text(json.dumps({"url": here.url}))
        (directory / "api_key").write_text(here.key)
        yield directory


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer()
    server.add("house/portraits", COMMIT, repository(tmp_path / "published"))
    with serving(server):
        constants = "huggingface_hub.constants"
        monkeypatch.setattr(f"{constants}.ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(f"{constants}.HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", "")
        monkeypatch.setenv("DARKROOM_WEIGHTS_DIR", str(tmp_path / "store"))
        yield server


def run_models(data_dir: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["models", *words, "--data-dir", str(data_dir)])


def add_model(data_dir: Path, *words: str) -> dict[str, Any]:
    ran = run_models(data_dir, "add", *words, "--json")
    assert ran.exit_code == 0, ran.output
    return json.loads(ran.output)


def test_a_folder_is_served_with_what_its_pipeline_needs(data_dir: Path, tmp_path: Path) -> None:
    folder = repository(tmp_path / "portraits")
    ran = run_models(
        data_dir, "add", "house/portraits", "--weights", str(folder), "--name", "Portraits"
    )
    assert ran.exit_code == 0, ran.output
    assert "house/portraits is served by the pool studio." in ran.output
    assert "pipeline FluxPipeline" in ran.output
    assert "weights  2.5 MB: transformer 2.5 MB" in ran.output
    assert "licence  house-licence" in ran.output
    assert "recipes  none" in ran.output
    (line,) = (row for row in run_models(data_dir).output.splitlines() if "portraits" in row)
    assert line.split() == ["house/portraits", "Portraits"]
    about = run_models(data_dir, "show", "house/portraits").output
    assert f"  family    flux\n  weights   {folder}\n  from      database\n" in about
    assert "  licence   house-licence\n" in about


def test_the_fields_are_shown_with_what_is_refused_and_what_has_none(
    data_dir: Path, tmp_path: Path
) -> None:
    folder = repository(tmp_path / "kontext", "FluxKontextPipeline")
    ran = run_models(data_dir, "add", "fal-ai/flux-kontext/dev", "--weights", str(folder))
    assert ran.exit_code == 0, ran.output
    assert "    family   generic, schema declared\n" in ran.output
    assert "    fields   prompt, image_url, negative_prompt, image_size, num_inf" in ran.output
    assert "    refused  unless at the default: resolution_mode\n" in ran.output
    assert "    without  ip_adapter_image: it takes an image for an IP-Adapter; add" in ran.output


def test_a_similar_endpoint_without_options_lends_none(data_dir: Path, tmp_path: Path) -> None:
    bare = {
        "family": "flux",
        "schema": "flux-text-to-image",
        "weights": {"directory": str(repository(tmp_path / "bare"))},
    }
    with Client(Installation(data_dir)) as client:
        client.put(path_of(ENTRIES, "house/bare"), bare)
    folder = repository(tmp_path / "portraits")
    words = ("add", "house/portraits", "--weights", str(folder), "--like", "house/bare")
    ran = run_models(data_dir, *words)
    assert ran.exit_code == 0, ran.output
    assert "schema flux-text-to-image" in ran.output


def test_a_folder_whose_files_have_changed_is_another_version(
    data_dir: Path, tmp_path: Path
) -> None:
    folder = repository(tmp_path / "portraits")
    weights = ("--weights", str(folder), "--replace")
    versions = [add_model(data_dir, "house/x", *weights)["entry"]["weights"]["version"]]
    for size in (2_500_000, 2_600_000):
        (folder / "transformer/diffusion_pytorch_model.safetensors").write_bytes(bytes(size))
        versions.append(add_model(data_dir, "house/x", *weights)["entry"]["weights"]["version"])
    assert len({*versions}) == 3
    assert add_model(data_dir, "house/x", *weights)["entry"]["weights"]["version"] == versions[-1]


def test_a_dry_run_shows_the_entry_and_stores_nothing(data_dir: Path, tmp_path: Path) -> None:
    folder = repository(tmp_path / "portraits")
    ran = run_models(data_dir, "add", "house/portraits", "--weights", str(folder), "--dry-run")
    assert "would be served by the pool studio" in ran.output
    entry = json.loads(ran.output[ran.output.index("\n{") :])
    assert entry == {
        "family": "flux",
        "schema": "flux-text-to-image",
        "defaults": {"num_inference_steps": 4, "guidance_scale": 3.5},
        "options": {"task": "text-to-image", "dtype": "bfloat16"},
        "weights": {"directory": str(folder), "version": fingerprint(folder)},
        "licence": "house-licence",
    }
    assert "house/portraits" not in run_models(data_dir).output


@pytest.mark.long
def test_a_branch_of_the_hub_is_pinned_and_what_is_not_here_is_pulled(
    data_dir: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = run_models(data_dir, "add", "house/portraits", "--weights", "house/portraits@main")
    assert ran.exit_code == 0, ran.output
    there = f"`darkroom models pull house/portraits --data-dir {data_dir}` does it now."
    assert there in ran.output
    assert "licence  house-licence" in ran.output
    shown = json.loads(run_models(data_dir, "--json").output)["models"]
    (mine,) = [model for model in shown if model["endpoint_id"] == "house/portraits"]
    assert mine["darkroom"]["weights"] == {
        "source": "house/portraits",
        "revision": COMMIT,
        "version": None,
        "checkpoint": None,
        "parts": {},
    }
    pulled = run_models(data_dir, "pull", "house/portraits", "--yes")
    assert pulled.exit_code == 0, pulled.output
    assert "ok       house/portraits: " in pulled.output
    monkeypatch.setenv("DARKROOM_DATA_DIR", str(data_dir))
    pulled = CliRunner().invoke(main, ["models", "pull", "house/portraits"])
    assert pulled.exit_code == 0, pulled.output
    again = add_model(
        *(data_dir, "house/portraits", "--weights", f"house/portraits@{COMMIT}"),
        *("--replace", "--dry-run"),
    )
    assert again["weights_are_here"]


@pytest.mark.long
def test_a_repository_alone_is_served_under_its_name_offline_too(
    data_dir: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = add_model(data_dir, "house/portraits")
    assert model["endpoint_id"] == "house/portraits"
    assert model["entry"]["weights"] == {"hub": "house/portraits", "revision": COMMIT}
    pulled = run_models(data_dir, "pull", "house/portraits", "--yes")
    assert pulled.exit_code == 0, pulled.output
    monkeypatch.setenv("DARKROOM_OFFLINE", "1")
    offline = add_model(data_dir, "house/portraits", "--replace")
    assert offline["entry"]["weights"] == model["entry"]["weights"]
    assert offline["weights_are_here"]
    refused = run_models(data_dir, "add", "house/landscapes")
    assert refused.exit_code == 1
    assert "Only the hub can say which commit 'main' of house/landscapes is" in refused.output


def test_a_folder_alone_is_served_under_its_name(data_dir: Path, tmp_path: Path) -> None:
    model = add_model(data_dir, str(repository(tmp_path / "My Portraits 2")))
    assert model["endpoint_id"] == "local/my-portraits-2"
    refused = run_models(data_dir, "add", "portraits")
    assert refused.exit_code == 1
    assert "There is no folder portraits on this machine" in refused.output


@pytest.mark.long
def test_weights_of_a_server_elsewhere_are_pulled_on_its_machine(
    data_dir: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = json.loads((data_dir / "run.json").read_text())["url"]
    at = ("--url", url, "--key", (data_dir / "api_key").read_text())
    words = ("models", *at, "add", "house/portraits", "--weights", "house/portraits@main")
    ran = CliRunner().invoke(main, words)
    assert ran.exit_code == 0, ran.output
    assert f"`darkroom models pull house/portraits` on the machine of {url} does" in ran.output
    monkeypatch.setenv("DARKROOM_DATA_DIR", str(data_dir))
    assert run_models(data_dir, "pull", "house/portraits", "--yes").exit_code == 0
    ran = CliRunner().invoke(main, [*words, "--replace"])
    assert "on the machine of" in ran.output, "the weights are on this machine, perhaps not there"


def test_a_similar_endpoint_lends_everything_but_what_describes_its_weights(
    data_dir: Path, tmp_path: Path
) -> None:
    folder = repository(tmp_path / "portraits", readme="")
    entry = add_model(
        *(data_dir, "house/portraits", "--weights", str(folder)),
        *("--like", "fal-ai/flux/schnell"),
    )["entry"]
    assert entry["bounds"]["num_inference_steps"] == [1, 12]
    assert not {"demo", "licence", "display_name"} & entry.keys()
    (sdxl,) = [repository(tmp_path / "other", "StableDiffusionXLPipeline")]
    ran = run_models(
        *(data_dir, "add", "house/other", "--weights", str(sdxl)),
        *("--like", "fal-ai/flux/schnell"),
    )
    assert (ran.exit_code, "is of the family sdxl" in ran.output) == (1, True)


@pytest.mark.long
def test_beside_demo_models_added_weights_of_the_hub_are_served_and_recipes_of_another_want_cpu(
    data_dir: Path, hub: HubServer
) -> None:
    weights = ("--weights", f"house/portraits@{COMMIT}")
    like = ("--like", "test/unserved")
    assert add_model(data_dir, "house/whole", *weights)["served"]
    refused = add_model(data_dir, "house/like", *weights, *like)
    assert not refused["served"]
    assert "`cpu: {}`" in refused["reason"]
    told = add_model(data_dir, "house/like", *weights, *like, "--cpu", "--replace")
    assert told["served"]
    assert told["entry"]["cpu"] == {}
    (shown,) = [
        model
        for model in json.loads(run_models(data_dir, "--json").output)["models"]
        if model["endpoint_id"] == "house/like"
    ]
    assert not shown["darkroom_demo"]
    assert shown["darkroom"]["cpu"] == {"seconds": None, "download_gb": None}


def test_what_exists_is_replaced_only_when_asked(data_dir: Path, tmp_path: Path) -> None:
    folder = str(repository(tmp_path / "portraits"))
    refused = run_models(data_dir, "add", "fal-ai/flux/schnell", "--weights", folder)
    assert refused.exit_code == 1
    assert "fal-ai/flux/schnell exists already (from: file)" in refused.output
    assert run_models(data_dir, "check").output == "0 mistakes found.\n"
    ran = run_models(data_dir, "add", "fal-ai/flux/schnell", "--weights", folder, "--replace")
    assert "replaces the entry of: file" in ran.output
    about = run_models(data_dir, "show", "fal-ai/flux/schnell").output
    assert "from      database, in place of: file" in about
    checked = run_models(data_dir, "check")
    assert checked.exit_code == 0
    assert "fal-ai/flux/schnell is also in the catalogue file" in checked.output
    deleted = run_models(data_dir, "delete", "fal-ai/flux/schnell")
    assert "fal-ai/flux/schnell is now that of the catalogue file." in deleted.output
    again = run_models(data_dir, "delete", "fal-ai/flux/schnell")
    assert (again.exit_code, "not in the database" in again.output) == (1, True)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("/nowhere", "There is no folder /nowhere on this machine"),
        ("{empty}", "has no model_index.json, so it is not a diffusers pipeline"),
        ("{strange}", "has no pipeline HousePipeline"),
        ("{pickled}", "has the weights of its transformer only as a pickle"),
        ("{listed}", "model_index.json should be a JSON object"),
        ("{deep}", "model_index.json is not valid JSON"),
        ("~nobody-here/x", "this machine has no such home directory"),
    ],
)
def test_what_cannot_be_served_is_refused(
    data_dir: Path, tmp_path: Path, weights: str, words: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    strange = repository(tmp_path / "strange", "HousePipeline")
    pickled = repository(tmp_path / "pickled")
    file = pickled / "transformer" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))
    listed, deep = tmp_path / "listed", tmp_path / "deep"
    for folder, text in ((listed, "[1]"), (deep, "[" * 100_000)):
        folder.mkdir()
        (folder / "model_index.json").write_text(text)
    folders = {"empty": empty, "strange": strange, "pickled": pickled}
    source = weights.format(**folders, listed=listed, deep=deep)
    ran = run_models(data_dir, "add", "house/x", "--weights", source)
    assert ran.exit_code == 1
    assert words in ran.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["portraits"], "an id should be owner/name, such as house/portraits"),
        (["house/x", "--pipeline", "Nope"], "weights.pipeline: String should match pattern"),
        (["house/x", "--variant", "a-b"], "weights.variant: String should match pattern"),
    ],
)
def test_a_wrong_option_is_named_in_a_sentence(
    data_dir: Path, tmp_path: Path, words: Sequence[str], message: str
) -> None:
    ran = run_models(data_dir, "add", *words, "--weights", str(repository(tmp_path / "w")))
    assert ran.exit_code == 1
    assert message in ran.output


def test_a_file_is_checked_without_a_darkroom(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(
        "endpoints:\n"
        "  house/x:\n"
        "    famly: flux\n"
        "    family: flux\n"
        "    schema: flux-text-to-image\n"
        "    recipes:\n"
        "      - {memory_gb: 12, precison: float16}\n"
    )
    ran = CliRunner().invoke(main, ["models", "check", str(file)])
    assert ran.exit_code == 1
    assert f"{file}:3: endpoints.house/x.famly: unknown key `famly`; did you mean" in ran.output
    assert f"{file}:7: " in ran.output
    assert "did you mean `precision`?" in ran.output
    file.write_text(
        "endpoints:\n  house/x:\n    family: generic\n    schema: qwen-image-text-to-image\n"
        "    options:\n      natve_size: 128\n"
    )
    ran = CliRunner().invoke(main, ["models", "check", str(file)])
    assert f"{file}:6: " in ran.output
    assert "did you mean `native_size`?" in ran.output
    assert "1 mistake found." in ran.output
    file.write_text("endpoints: {}\n")
    ran = CliRunner().invoke(main, ["models", "check", str(file)])
    assert (ran.exit_code, ran.output) == (0, "0 mistakes found.\n")


CHECKPOINT = {
    "model.diffusion_model.img_in.weight": ("BF16", [1000, 1000]),
    "model_ema.decay": ("F32", [1]),
}


def single_file(path: Path, tensors: Mapping[str, tuple[str, list[int]]]) -> Path:
    header, at = dict[str, Any](), 0
    for name, (dtype, shape) in tensors.items():
        end = at + TensorFacts(dtype, tuple(shape)).size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))
    return path


def test_a_single_file_replaces_the_components_that_it_holds(
    data_dir: Path, tmp_path: Path
) -> None:
    folder, file = (
        repository(tmp_path / "base"),
        single_file(tmp_path / "x.safetensors", CHECKPOINT),
    )
    weights = ("--weights", str(folder), "--checkpoint", str(file))
    stored = add_model(data_dir, "house/tuned", *weights)
    written = {"directory": str(folder), "checkpoint": str(file), "components": ["transformer"]}
    assert stored["entry"]["weights"] == {**written, "version": fingerprint(folder, file)}
    assert stored["weight_bytes"] == {"transformer": 2_000_000}
    assert f"weights   {folder} with {file}" in run_models(data_dir, "show", "house/tuned").output


def test_a_single_file_of_the_hub_is_pinned_and_only_its_header_is_read(
    data_dir: Path, tmp_path: Path, hub: HubServer
) -> None:
    file = single_file(tmp_path / "files/x.safetensors", CHECKPOINT)
    hub.add("house/tuned", COMMIT, file.parent)
    weights = ("--weights", "house/portraits@main", "--checkpoint", "house/tuned/x.safetensors")
    stored = add_model(data_dir, "house/tuned", *weights)
    assert stored["entry"]["weights"] == {
        "hub": "house/portraits",
        "revision": COMMIT,
        "checkpoint": f"house/tuned/x.safetensors@{COMMIT}",
        "components": ["transformer"],
    }
    assert not stored["weights_are_here"]
    assert not [*tmp_path.glob("store/**/*.safetensors")]


def part(folder: Path) -> Path:
    """Folder with a ControlNet."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"_class_name": "FluxControlNetModel"}')
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(bytes(700_000))
    return folder


def test_a_part_of_a_folder_gives_the_pipeline_its_control_image(
    data_dir: Path, tmp_path: Path
) -> None:
    base, control = repository(tmp_path / "base"), part(tmp_path / "control")
    weights = ("--weights", str(base), "--part", f"controlnet={control}")
    stored = add_model(data_dir, "house/x", *weights, "--pipeline", "FluxControlNetPipeline")
    assert stored["entry"]["weights"] == {
        "directory": str(base),
        "pipeline": "FluxControlNetPipeline",
        "parts": {"controlnet": {"directory": str(control)}},
        "version": fingerprint(base, control),
    }
    assert stored["weight_bytes"] == {"transformer": 2_500_000, "controlnet": 700_000}
    assert "control_image_url" in stored["entry"]["options"]["inputs"]
    about = run_models(data_dir, "show", "house/x").output
    assert f"weights   {base} with controlnet of {control}\n" in about


def test_a_package_that_is_not_installed_is_named_when_the_model_is_added_and_before_it_runs(
    data_dir: Path, tmp_path: Path
) -> None:
    folder = repository(tmp_path / "cosmos", "CosmosTextToWorldPipeline")
    ran = run_models(data_dir, "add", "house/cosmos", "--weights", str(folder))
    assert ran.exit_code == 0, ran.output
    assert "warning  it needs cosmos_guardrail, which this machine's Python" in ran.output
    assert "`pip install cosmos_guardrail` where replicas run" in ran.output
    shown = run_models(data_dir, "show", "house/cosmos").output
    assert "it needs cosmos_guardrail, which this machine's" in " ".join(shown.split())
    entry = add_model(data_dir, "house/y", "--weights", str(repository(tmp_path / "flux")))["entry"]
    assert "packages" not in entry


def test_several_parts_run_together_and_each_has_its_image(data_dir: Path, tmp_path: Path) -> None:
    base = repository(tmp_path / "base")
    edges, depth = part(tmp_path / "edges"), part(tmp_path / "depth")
    parts = ("--part", f"controlnet={edges}", "--part", f"controlnet={depth}")
    command = ("--weights", str(base), *parts, "--pipeline", "FluxControlNetPipeline")
    stored = add_model(data_dir, "house/x", *command)
    places = [{"directory": str(edges)}, {"directory": str(depth)}]
    assert stored["entry"]["weights"]["parts"] == {"controlnet": places}
    sizes = {"transformer": 2_500_000, "controlnet": 700_000, "controlnet_1": 700_000}
    assert stored["weight_bytes"] == sizes
    images = stored["entry"]["options"]["inputs"]["control_image_urls"]
    assert (images["least"], images["most"]) == (2, 2)
    shown = run_models(data_dir, "show", "house/x").output
    assert f"weights   {base} with controlnet of {edges} and {depth}\n" in shown
    other = run_models(data_dir, "add", "house/y", "--weights", str(base), *parts)
    assert "FluxPipeline does not take 2 ControlNets together" in " ".join(other.output.split())


@pytest.mark.long
def test_several_parts_of_the_hub_are_all_pulled(
    data_dir: Path, tmp_path: Path, hub: HubServer
) -> None:
    part(tmp_path / "files/canny")
    part(tmp_path / "files/depth")
    hub.add("house/control", COMMIT, tmp_path / "files")
    parts = [f"--part=controlnet=house/control/{name}@main" for name in ("canny", "depth")]
    weights = ("--weights", "house/portraits@main", *parts, "--pipeline", "FluxControlNetPipeline")
    stored = add_model(data_dir, "house/x", *weights)
    assert stored["entry"]["weights"]["parts"]["controlnet"] == [
        {"hub": "house/control", "revision": COMMIT, "folder": folder}
        for folder in ("canny", "depth")
    ]
    assert run_models(data_dir, "pull", "house/x", "--yes").exit_code == 0
    files = tmp_path.glob("store/models--house--control/snapshots/*/*/*.safetensors")
    assert {file.parent.name for file in files} == {"canny", "depth"}


@pytest.mark.long
def test_a_part_of_the_hub_is_pinned_and_pulled_with_the_rest(
    data_dir: Path, tmp_path: Path, hub: HubServer
) -> None:
    part(tmp_path / "files/canny")
    hub.add("house/control", COMMIT, tmp_path / "files")
    weights = ("--weights", "house/portraits@main", "--part", "controlnet=house/control/canny@main")
    stored = add_model(data_dir, "house/x", *weights, "--pipeline", "FluxControlNetPipeline")
    assert stored["entry"]["weights"]["parts"] == {
        "controlnet": {"hub": "house/control", "revision": COMMIT, "folder": "canny"}
    }
    assert stored["weight_bytes"]["controlnet"] == 700_000
    assert not stored["weights_are_here"]
    pulled = run_models(data_dir, "pull", "house/x", "--yes")
    assert pulled.exit_code == 0, pulled.output
    (there,) = tmp_path.glob("store/models--house--control/snapshots/*/canny/*.safetensors")
    assert there.stat().st_size == 700_000


def stage(folder: Path, kind: str, **files: Mapping[str, Any]) -> Path:
    """Folder with a pipeline of components that are described by these files."""
    index: dict[str, Any] = {"_class_name": kind}
    for name, config in files.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").write_bytes(bytes(1000))
        (folder / name / f"{config.get('file', 'config')}.json").write_text(json.dumps(config))
        index[name] = ["diffusers", "Some"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_a_part_that_is_a_pipeline_stands_for_its_components(
    data_dir: Path, tmp_path: Path, hub: HubServer
) -> None:
    text: Mapping[str, Any] = {"architectures": ["CLIPTextModel"]}
    tokenizer = {"tokenizer_class": "CLIPTokenizer", "file": "tokenizer_config"}
    scheduler = {"_class_name": "DDPMWuerstchenScheduler", "file": "scheduler_config"}
    shared = {"text_encoder": text, "tokenizer": tokenizer, "scheduler": scheduler}
    models = {"decoder": {"_class_name": "A"}, "vqgan": {"_class_name": "B"}}
    base = stage(tmp_path / "base", "WuerstchenDecoderPipeline", **shared, **models)
    prior = stage(
        tmp_path / "files", "WuerstchenPriorPipeline", prior={"_class_name": "C"}, **shared
    )
    hub.add("house/prior", COMMIT, prior)
    weights = ("--weights", str(base), "--part", "prior=house/prior@main")
    stored = add_model(data_dir, "house/x", *weights, "--pipeline", "WuerstchenCombinedPipeline")
    assert stored["entry"]["weights"]["parts"] == {
        f"prior_{name}": {"hub": "house/prior", "revision": COMMIT, "folder": name}
        for name in ("prior", "scheduler", "text_encoder", "tokenizer")
    }
    refused = run_models(data_dir, "add", "house/y", "--weights", str(base))
    words = "--pipeline WuerstchenCombinedPipeline --part prior= and the repository of the prior."
    assert words in " ".join(refused.output.split())


@pytest.mark.parametrize(
    ("part_option", "words"),
    [
        ("controlnet", "'controlnet' is not COMPONENT=PLACE"),
        ("controlnet=/nowhere", "There is no folder /nowhere on this machine, for controlnet"),
        ("controlnet={empty}", "does not say what it is: it has no config.json"),
    ],
)
def test_a_part_that_cannot_be_read_is_refused(
    data_dir: Path, tmp_path: Path, part_option: str, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    base = repository(tmp_path / "base")
    part_option = part_option.format(empty=tmp_path / "empty")
    ran = run_models(data_dir, "add", "house/x", "--weights", str(base), "--part", part_option)
    assert ran.exit_code
    assert words in " ".join(ran.output.split())


def gguf_file(path: Path, name: str = "img_in.weight") -> Path:
    """File of 256 KB of blocks, and a tensor for its bias."""
    path.parent.mkdir(exist_ok=True)
    write_gguf(path, {name: np.zeros((256, 1024)), "img_in.bias": np.zeros(256)}, "Q8_0")
    return path


GGUF_BYTES = 256 * 1024 // 32 * 34 + 1024


def test_a_gguf_file_replaces_the_components_that_it_holds(data_dir: Path, tmp_path: Path) -> None:
    folder, file = repository(tmp_path / "base"), gguf_file(tmp_path / "x.gguf")
    weights = ("--weights", str(folder), "--checkpoint", str(file))
    stored = add_model(data_dir, "house/small", *weights)
    written = {"directory": str(folder), "checkpoint": str(file), "components": ["transformer"]}
    assert stored["entry"]["weights"] == {**written, "version": fingerprint(folder, file)}
    assert stored["weight_bytes"] == {"transformer": GGUF_BYTES}


def test_a_gguf_file_of_the_hub_is_pinned_and_pulled(
    data_dir: Path, tmp_path: Path, hub: HubServer
) -> None:
    hub.add("house/small", COMMIT, gguf_file(tmp_path / "files/x-Q8_0.gguf").parent)
    weights = ("--weights", "house/portraits@main", "--checkpoint", "house/small/x-Q8_0.gguf@main")
    stored = add_model(data_dir, "house/small", *weights)
    assert stored["entry"]["weights"]["checkpoint"] == f"house/small/x-Q8_0.gguf@{COMMIT}"
    assert stored["weight_bytes"] == {"transformer": GGUF_BYTES}
    pulled = run_models(data_dir, "pull", "house/small", "--yes")
    assert pulled.exit_code == 0, pulled.output
    assert len([*tmp_path.glob("store/**/x-Q8_0.gguf")]) == 1


def test_a_language_model_in_gguf_is_refused_with_what_it_is(
    data_dir: Path, tmp_path: Path
) -> None:
    file = gguf_file(tmp_path / "x.gguf", "token_embd.weight")
    weights = ("--weights", str(repository(tmp_path / "base")), "--checkpoint", str(file))
    ran = run_models(data_dir, "add", "house/small", *weights)
    assert ran.exit_code
    assert "is a language model with the names of llama.cpp" in " ".join(ran.output.split())


@pytest.mark.parametrize(
    "options",
    [
        ("--weights", "x/y/z.gguf@main"),
        ("--weights", "{base}", "--part", "transformer={base}/z.gguf"),
    ],
)
def test_a_single_file_in_place_of_a_folder_is_refused_with_its_option(
    data_dir: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    base = repository(tmp_path / "base")
    ran = run_models(data_dir, "add", "house/x", *(word.format(base=base) for word in options))
    assert ran.exit_code
    assert "z.gguf" in ran.output
    assert "is a single file. Name it with --checkpoint" in " ".join(ran.output.split())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"vae.weight": ("F16", [1])}, "holds nothing that FluxPipeline has"),
        ({"img_in.weight": ("U8", [1])}, "quantised in a way that is not read"),
        (b"GGUF\3\0\0\0", "x.safetensors cannot be loaded: its header is cut off"),
        (None, "There is no file"),
    ],
)
def test_a_single_file_that_cannot_be_loaded_is_refused_with_the_reason(
    data_dir: Path, tmp_path: Path, content: Any, words: str
) -> None:
    file = tmp_path / "x.safetensors"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        single_file(file, content)
    folder = repository(tmp_path / "base")
    weights = ("--weights", str(folder), "--checkpoint", str(file))
    ran = run_models(data_dir, "add", "house/tuned", *weights)
    assert ran.exit_code
    assert words in " ".join(ran.output.split())
