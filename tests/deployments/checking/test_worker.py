"""Weights that tenants register, fetched and checked against the demo models."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from deployments.checking import worker
from deployments.checking.fetching import FetchLimits
from deployments.checking.worker import CheckJob, Reports, for_tenant, run
from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import WeightsUnavailable
from tests.weights.hub_server import HubServer, serving
from weights.folder import SHA256_DIGITS, digest_of
from weights.hub import Hub

DEMO = Path(__file__).parents[3] / "deployments" / "demo"
FLUX = DEMO / "flux"
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LAYER = "transformer_blocks.0.attn.to_k"
LIMITS = FetchLimits(max_bytes=10**9, spare_bytes=0)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer()
    with serving(server):
        monkeypatch.setattr(worker, "Hub", partial(Hub, server.url, tries=1))
        yield server


def job(tmp_path: Path, source: Mapping[str, Any], **fields: Any) -> CheckJob:
    folder = tmp_path / "job"
    folder.mkdir(exist_ok=True)
    usual: dict[str, Any] = {
        "folder": folder,
        "store": tmp_path / "store",
        "base": Weights(str(FLUX)),
        "source": source,
        "limits": LIMITS,
        "max_lora_bytes": 10**8,
    }
    return CheckJob(**{**usual, **fields})


def check_upload(tmp_path: Path, files: Mapping[str, Path], **fields: Any) -> Mapping[str, Any]:
    """Result for files that were uploaded, by their path in the pipeline."""
    names: dict[str, str] = {}
    empty_job = job(tmp_path, {"upload": "u/x"}, **fields)
    for number, (path, file) in enumerate(files.items()):
        shutil.copyfile(file, empty_job.folder / str(number))
        names[path] = str(number)
    upload_job = job(tmp_path, {"upload": "u/x"}, files=names, **fields)
    return run(upload_job, Reports())


def lora(
    path: Path,
    rank: int = 2,
    width: int = 128,
    metadata: dict[str, str] | None = None,
    **more: Tensor,
) -> Path:
    halves = {
        f"transformer.{LAYER}.lora_A.weight": torch.ones(rank, width),
        f"transformer.{LAYER}.lora_B.weight": torch.ones(128, rank),
    }
    save_file({**halves, **more}, path, metadata)
    return path


def save_changed(path: Path, change: Any) -> Path:
    tensors = load_file(FLUX / TRANSFORMER)
    change(tensors)
    save_file(tensors, path)
    return path


def train_layer(tensors: dict[str, Tensor]) -> None:
    tensors[f"{LAYER}.weight"] += 1


def test_a_lora_that_fits_is_accepted(tmp_path: Path) -> None:
    file = lora(tmp_path / "a.safetensors")
    digest = digest_of(file, "0" * SHA256_DIGITS)
    result = check_upload(tmp_path, {"a.safetensors": file})
    assert result["kind"] == "lora"
    (lora_file,) = result["files"]
    assert (lora_file["path"], lora_file["digest"]) == ("lora.safetensors", digest)


def test_the_words_of_a_lora_are_its_phrase_or_the_captions_of_its_training(tmp_path: Path) -> None:
    tags = {"ss_tag_frequency": json.dumps({"10_a": {"hill": 2, "inkline": 9}})}
    for metadata, words in (
        ({"modelspec.trigger_phrase": "thin ink, hill"} | tags, ["thin ink", "hill"]),
        (tags, ["inkline", "hill"]),
        (None, []),
    ):
        file = lora(tmp_path / "a.safetensors", metadata=metadata)
        facts = check_upload(tmp_path, {"a.safetensors": file})["facts"]
        assert facts["trigger_words"] == words
        assert "ss_tag_frequency" not in facts["metadata"]


def test_long_facts_are_left_out_and_those_kept_can_be_stored(tmp_path: Path) -> None:
    """The image in ``modelspec.thumbnail`` may have megabytes, and PostgreSQL has no NUL."""
    short = {"modelspec.title": "thin\0 ink", "modelspec.trigger_phrase": "i\0nk"}
    long = {f"modelspec.{number}": "x" * 400 for number in range(2000)}
    file = lora(
        tmp_path / "a.safetensors", metadata={**short, "modelspec.thumbnail": "x" * 10**6, **long}
    )
    facts = check_upload(tmp_path, {"a.safetensors": file})["facts"]
    assert facts["trigger_words"] == ["ink"]
    assert "\0" not in "".join(facts["metadata"].values())
    assert len(json.dumps(facts)) < 2**18


def test_a_lora_of_another_size_names_the_layer_and_the_shape_of_the_base(tmp_path: Path) -> None:
    file = lora(tmp_path / "a.safetensors", width=131)
    with pytest.raises(
        WeightsUnavailable, match=rf"\(128, 128\) of transformer\.{LAYER}"
    ) as raised:
        check_upload(tmp_path, {"a.safetensors": file})
    assert str(tmp_path) not in raised.value.message


def test_a_lora_for_another_model_is_refused(tmp_path: Path) -> None:
    file = lora(tmp_path / "a.safetensors")
    with pytest.raises(WeightsUnavailable, match="LoRA"):
        check_upload(tmp_path, {"a.safetensors": file}, base=Weights(str(DEMO / "sdxl")))


def test_a_lora_may_have_the_names_of_kohya(tmp_path: Path) -> None:
    weight = load_file(DEMO / "sdxl" / "unet" / "diffusion_pytorch_model.safetensors")
    key = next(
        tensor_name
        for tensor_name in weight
        if tensor_name.endswith("transformer_blocks.0.attn1.to_q.weight")
    )
    name = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
    rows, columns = weight[key].shape
    halves = {
        f"{name}.lora_down.weight": torch.ones(2, columns),
        f"{name}.lora_up.weight": torch.ones(rows, 2),
        f"{name}.alpha": torch.tensor(2.0),
    }
    save_file(halves, tmp_path / "a.safetensors")
    files = {"a.safetensors": tmp_path / "a.safetensors"}
    assert check_upload(tmp_path, files, base=Weights(str(DEMO / "sdxl")))["kind"] == "lora"


def test_a_model_whose_own_tensors_are_called_alpha_is_a_fine_tune(tmp_path: Path) -> None:
    vae = DEMO / "stable-audio" / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(vae)
    tensors["decoder.block.0.res_unit1.snake1.alpha"] += 1
    save_file(tensors, tmp_path / "vae.safetensors")
    files = {"vae.safetensors": tmp_path / "vae.safetensors"}
    result = check_upload(tmp_path, files, base=Weights(str(DEMO / "stable-audio")))
    assert result["kind"] == "finetune"
    assert [file["path"].partition("/")[0] for file in result["files"]] == ["vae"]


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    bad = {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": torch.full((2, 128), 1.0)}
    bad["transformer.transformer_blocks.0.attn.to_q.lora_B.weight"] = torch.full(
        (128, 2), float("nan")
    )
    file = lora(tmp_path / "a.safetensors", **bad)
    with pytest.raises(WeightsUnavailable, match=r"to_q\.lora_B\.weight has values"):
        check_upload(tmp_path, {"a.safetensors": file})


def test_a_lora_above_the_limit_is_refused(tmp_path: Path) -> None:
    file = lora(tmp_path / "a.safetensors")
    with pytest.raises(WeightsUnavailable, match="DARKROOM_MAX_ADAPTER_BYTES"):
        check_upload(tmp_path, {"a.safetensors": file}, max_lora_bytes=100)


def test_a_single_file_replaces_the_component_that_has_its_tensors(tmp_path: Path) -> None:
    file = save_changed(
        tmp_path / "mine.safetensors", lambda tensors: tensors[f"{LAYER}.weight"].add_(1)
    )
    result = check_upload(tmp_path, {"mine.safetensors": file})
    assert result["kind"] == "finetune"
    assert [stored["path"] for stored in result["files"]] == [TRANSFORMER]


def test_of_a_whole_pipeline_only_what_differs_is_kept(tmp_path: Path) -> None:
    file = save_changed(
        tmp_path / "mine.safetensors", lambda tensors: tensors[f"{LAYER}.weight"].add_(1)
    )
    vae = "vae/diffusion_pytorch_model.safetensors"
    result = check_upload(tmp_path, {TRANSFORMER: file, vae: FLUX / vae})
    assert [stored["path"] for stored in result["files"]] == [TRANSFORMER]


def test_weights_that_all_equal_the_base_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="nothing to register"):
        check_upload(tmp_path, {TRANSFORMER: FLUX / TRANSFORMER})


def test_the_first_tensor_that_does_not_fit_is_named(tmp_path: Path) -> None:
    def widen(tensors: dict[str, Tensor]) -> None:
        tensors[f"{LAYER}.weight"] = torch.zeros(128, 64)

    file = save_changed(tmp_path / "mine.safetensors", widen)
    words = rf"{LAYER}\.weight has the shape \[128, 64\], and that of the base has \[128, 128\]"
    with pytest.raises(WeightsUnavailable, match=words):
        check_upload(tmp_path, {"mine.safetensors": file})


def test_missing_and_strange_tensors_are_named(tmp_path: Path) -> None:
    lacking = save_changed(
        tmp_path / "a.safetensors", lambda tensors: tensors.pop(f"{LAYER}.weight")
    )
    with pytest.raises(WeightsUnavailable, match=rf"{LAYER}\.weight of the base.*is missing"):
        check_upload(tmp_path, {"a.safetensors": lacking})
    more = save_changed(
        tmp_path / "b.safetensors", lambda tensors: tensors.update(strange=torch.zeros(1))
    )
    with pytest.raises(WeightsUnavailable, match="no tensor strange"):
        check_upload(tmp_path, {"b.safetensors": more})
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(2, 2)}, tmp_path / "c")
    with pytest.raises(WeightsUnavailable, match="save_pretrained"):
        check_upload(tmp_path, {"c.safetensors": tmp_path / "c"})


def test_a_repository_of_the_hub_is_read_with_the_token_that_was_given(
    tmp_path: Path, hub: HubServer
) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    lora(repository / "style.safetensors")
    hub.add("studio/style", COMMIT, repository)
    hub.tokens["hf_tenants"] = {"studio/style"}
    hub.gated.add("studio/style")
    source = {"hub": "studio/style", "revision": COMMIT}
    assert run(job(tmp_path, source, token="hf_tenants"), Reports())["kind"] == "lora"
    sent = {request.authorization for request in hub.asked if not request.of_cdn}
    assert sent == {"Bearer hf_tenants"}


def test_without_a_token_none_of_this_machine_is_sent(
    tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_operators")
    repository = tmp_path / "repository"
    repository.mkdir()
    lora(repository / "style.safetensors")
    hub.add("studio/style", COMMIT, repository)
    hub.tokens["hf_operators"] = {"studio/style"}
    hub.gated.add("studio/style")
    source = {"hub": "studio/style", "revision": COMMIT}
    with pytest.raises(WeightsUnavailable, match="gated"):
        run(job(tmp_path, source, token=""), Reports())
    assert {request.authorization for request in hub.asked} == {None}


def test_components_of_the_base_are_not_fetched_from_the_hub(
    tmp_path: Path, hub: HubServer
) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(FLUX, repository)
    save_changed(repository / TRANSFORMER, train_layer)
    hub.add("studio/portraits", COMMIT, repository)
    source = {"hub": "studio/portraits", "revision": COMMIT}
    result = run(job(tmp_path, source), Reports())
    assert [file["path"] for file in result["files"]] == [TRANSFORMER]
    assert not hub.downloads("vae/diffusion_pytorch_model.safetensors")


def test_files_above_the_quota_are_refused_before_they_are_fetched(
    tmp_path: Path, hub: HubServer
) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    lora(repository / "style.safetensors")
    hub.add("studio/style", COMMIT, repository)
    source = {"hub": "studio/style", "revision": COMMIT}
    with pytest.raises(WeightsUnavailable, match="larger than the 10 bytes"):
        run(job(tmp_path, source, limits=FetchLimits(10, 0)), Reports())
    assert not hub.downloads("style.safetensors")


def test_a_url_with_a_private_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="private address"):
        run(job(tmp_path, {"url": "http://127.0.0.1:9/a.safetensors"}), Reports())


def test_the_process_answers_with_the_reason(tmp_path: Path) -> None:
    check_job = job(tmp_path, {"upload": "u/x"})
    (check_job.folder / "0").write_bytes(b"\x80\x04K\x01.")
    message = {
        "folder": str(check_job.folder),
        "store": "",
        "base": {"source": str(FLUX)},
        "source": {"upload": "u/x"},
        "limits": {"max_bytes": 100, "spare_bytes": 0},
        "max_lora_bytes": 100,
        "files": {"x.safetensors": "0"},
    }
    ended = subprocess.run(
        [sys.executable, "-m", "deployments.checking.worker"],
        input=json.dumps(message).encode(),
        capture_output=True,
        check=True,
    )
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line.get("state") for line in lines] == ["fetching", "checking", None]
    assert "Pickle" in lines[-1]["refused"]


def test_words_about_the_operators_token_are_changed_for_tenants() -> None:
    told = for_tenant("x is gated, and the account of HF_TOKEN has no access.")
    assert "HF_TOKEN" not in told
    assert "secrets set HF_TOKEN" in for_tenant("The hub has no x, or it is private: set HF_TOKEN.")
