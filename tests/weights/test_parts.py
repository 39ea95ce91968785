"""Components of other repositories: their files, and the folder that they make with a pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serve_app.domain.endpoint import Endpoint, StoreConfig, Weights, WeightsPart
from serve_app.domain.errors import WeightsUnavailable
from serve_app.domain.pipeline_index import adapter_files
from tests.weights.conftest import COMMIT, MakeStore, write_repository
from tests.weights.hub_server import HubServer
from weights.parts import compose_folder, repository_of, with_parts
from weights.selection import select, select_component
from weights.store import Store, repositories_of

CONFIG = {"_class_name": "ControlNetModel"}
PART = WeightsPart("controlnet", "house/control", COMMIT)


def write_part(folder: Path, config: Any = CONFIG, name: str = "config.json") -> Path:
    folder.mkdir(parents=True)
    (folder / name).write_text(json.dumps(config))
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"control" * 1000)
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    return folder


def weights_with(*parts: WeightsPart, source: str = "/srv/base") -> Weights:
    return Weights(source, parts=parts, pipeline="SomeControlNetPipeline")


def test_a_pipeline_and_its_parts_are_one_folder_of_links(tmp_path: Path) -> None:
    base, control = write_repository(tmp_path / "base"), write_part(tmp_path / "control")
    part = WeightsPart("controlnet", str(control))
    weights = weights_with(part)
    folder = compose_folder(tmp_path / "store", base, weights, {part: control})
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "SomeControlNetPipeline"
    assert index["controlnet"] == ["diffusers", "ControlNetModel"]
    assert index["vae"] == ["diffusers", "AutoencoderKL"]
    link = folder / "controlnet" / "diffusion_pytorch_model.safetensors"
    assert link.resolve() == control / "diffusion_pytorch_model.safetensors"
    assert (folder / "unet" / "config.json").resolve() == base / "unet" / "config.json"
    assert compose_folder(tmp_path / "store", base, weights, {part: control}) == folder
    link.unlink()
    link.symlink_to(tmp_path / "evicted")
    again = compose_folder(tmp_path / "store", base, weights, {part: control})
    assert (again / "controlnet" / link.name).read_bytes() == b"control" * 1000


def test_several_parts_of_a_component_have_the_folders_that_diffusers_gives_them(
    tmp_path: Path,
) -> None:
    base = write_repository(tmp_path / "base")
    nets = [write_part(tmp_path / name) for name in ("edges", "depth", "pose")]
    parts = [WeightsPart("controlnet", str(net_path)) for net_path in nets]
    places = dict(zip(parts, nets, strict=True))
    three = compose_folder(tmp_path / "store", base, weights_with(*parts), places)
    index = json.loads((three / "model_index.json").read_text())
    assert index["controlnet"] == ["diffusers", "MultiControlNetModel"]
    names = [path.relative_to(three).as_posix() for path in three.rglob("*")]
    taken = select(names, index, None, "x")
    assert {f"{folder}/config.json" for folder in FOLDERS} <= taken
    for folder, net in zip(FOLDERS, nets, strict=True):
        assert (three / folder / "config.json").resolve() == net / "config.json"
    two = compose_folder(tmp_path / "store", three, weights_with(*parts[1:]), places)
    assert not (two / "controlnet_2").exists()
    assert (two / "controlnet" / "config.json").resolve() == nets[1] / "config.json"


def test_one_control_net_may_run_twice(tmp_path: Path) -> None:
    base, net = write_repository(tmp_path / "base"), write_part(tmp_path / "union")
    part = WeightsPart("controlnet", str(net))
    folder = compose_folder(tmp_path / "store", base, weights_with(part, part), {part: net})
    assert (folder / "controlnet_1" / "config.json").resolve() == net / "config.json"


FOLDERS = ("controlnet", "controlnet_1", "controlnet_2")


def test_a_part_replaces_a_component_of_the_pipeline(tmp_path: Path) -> None:
    base, better = write_repository(tmp_path / "base"), write_part(tmp_path / "vae")
    part = WeightsPart("vae", str(better))
    folder = compose_folder(tmp_path / "store", base, Weights("x", parts=(part,)), {part: better})
    assert {path.name for path in (folder / "vae").iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.bin",
    }
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "SomePipeline"
    assert index["vae"] == ["diffusers", "ControlNetModel"]


def test_a_model_of_transformers_is_known_by_its_architecture(tmp_path: Path) -> None:
    base = write_repository(tmp_path / "base")
    encoder = write_part(tmp_path / "encoder", {"architectures": ["CLIPVisionModel"]})
    part = WeightsPart("image_encoder", str(encoder))
    folder = compose_folder(tmp_path / "store", base, weights_with(part), {part: encoder})
    index = json.loads((folder / "model_index.json").read_text())
    assert index["image_encoder"] == ["transformers", "CLIPVisionModel"]


@pytest.mark.parametrize("config", [{}, [], {"model_type": "x"}])
def test_a_folder_that_does_not_say_what_it_is_is_refused(tmp_path: Path, config: Any) -> None:
    base, odd = write_repository(tmp_path / "base"), write_part(tmp_path / "odd", config)
    part = WeightsPart("controlnet", str(odd))
    with pytest.raises(WeightsUnavailable, match=r"odd does not say what it is.*_class_name"):
        compose_folder(tmp_path / "store", base, weights_with(part), {part: odd})


def test_of_a_repository_the_files_of_the_component_are_taken() -> None:
    names = [
        "README.md",
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.bin",
        "canny/config.json",
        "canny/diffusion_pytorch_model.safetensors",
    ]
    assert select_component(names, "", "a/b") == {names[1], names[2]}
    assert select_component(names, "canny", "a/b") == {*names[-2:]}
    with pytest.raises(WeightsUnavailable, match="a/b has no component in its folder 'depth'"):
        select_component(names, "depth", "a/b")
    with pytest.raises(WeightsUnavailable, match="only as a pickle"):
        select_component(["config.json", "diffusion_pytorch_model.bin"], "", "a/b")


def test_parts_of_the_hub_are_downloaded_with_their_pipeline(
    hub: HubServer, make_store: MakeStore, tmp_path: Path
) -> None:
    hub.add("house/control", COMMIT, write_part(tmp_path / "control"))
    endpoint = Endpoint("house/x", "sdxl", weights_with(PART, source="house/small"), "x")
    assert repository_of(PART) in repositories_of(endpoint)
    store = make_store()
    with store.open(repository_of(PART)) as folder:
        assert {path.name for path in folder.iterdir()} == {
            "config.json",
            "diffusion_pytorch_model.safetensors",
        }
    assert store.is_here(repository_of(PART))


def test_parts_in_folders_of_this_node_are_not_downloaded() -> None:
    endpoint = Endpoint("house/x", "sdxl", weights_with(WeightsPart("vae", "/srv/vae")), "x")
    assert repositories_of(endpoint) == ()


def test_a_pipeline_without_an_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsUnavailable, match="is not a diffusers pipeline"):
        Store(StoreConfig(directory=tmp_path)).compose_folder(tmp_path / "empty", Weights("x"), {})


ADAPTER = WeightsPart("ip_adapter", "house/adapter", COMMIT, file="models/plus.safetensors")


def write_adapters(folder: Path) -> Path:
    (folder / "models").mkdir(parents=True)
    for name in ("plus.safetensors", "plain.safetensors", "plain.bin"):
        (folder / "models" / name).write_bytes(b"adapter")
    return folder


def test_of_an_ip_adapters_repository_one_file_is_downloaded(
    hub: HubServer, make_store: MakeStore, tmp_path: Path
) -> None:
    hub.add("house/adapter", COMMIT, write_adapters(tmp_path / "adapter"))
    with make_store().open(repository_of(ADAPTER)) as folder:
        assert [path.name for path in (folder / "models").iterdir()] == ["plus.safetensors"]


def test_an_ip_adapter_is_a_file_of_the_folder_that_the_index_names(tmp_path: Path) -> None:
    base, place = write_repository(tmp_path / "base"), write_adapters(tmp_path / "adapter")
    weights = weights_with(ADAPTER)
    folder = compose_folder(tmp_path / "store", base, weights, {ADAPTER: place})
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_ip_adapter"] == ["ip_adapter/plus.safetensors"]
    assert (folder / "ip_adapter" / "plus.safetensors").read_bytes() == b"adapter"
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    assert "ip_adapter/plus.safetensors" in select(names, index, None, "x")
    (place / "models" / "plus.safetensors").unlink()
    with pytest.raises(WeightsUnavailable, match=r"no file house/adapter/models/plus\.safetensors"):
        compose_folder(tmp_path / "store", base, weights, {ADAPTER: place})


def test_each_of_several_ip_adapters_has_a_folder_also_for_files_of_one_name(
    tmp_path: Path,
) -> None:
    base, place = write_repository(tmp_path / "base"), write_adapters(tmp_path / "adapter")
    (place / "plus.safetensors").write_bytes(b"second")
    second = WeightsPart("ip_adapter", "house/adapter", COMMIT, file="plus.safetensors")
    places = {ADAPTER: place, second: place}
    folder = compose_folder(tmp_path / "store", base, weights_with(ADAPTER, second), places)
    index = json.loads((folder / "model_index.json").read_text())
    files = ["ip_adapter/plus.safetensors", "ip_adapter_1/plus.safetensors"]
    assert index["_ip_adapter"] == files
    assert [(folder / file).read_bytes() for file in files] == [b"adapter", b"second"]
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    assert {*files} <= select(names, index, None, "x")


def test_a_folder_of_an_earlier_version_names_its_one_adapter() -> None:
    assert adapter_files({"_ip_adapter": "ip_adapter/x.safetensors"}) == [
        "ip_adapter/x.safetensors"
    ]


def test_the_vision_half_of_a_whole_model_is_the_image_encoder() -> None:
    configs = {"image_encoder": [{"architectures": ["CLIPModel"]}]}
    named = with_parts({}, configs, "")["image_encoder"]
    assert named == ["transformers", "CLIPVisionModelWithProjection"]
