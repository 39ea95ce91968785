"""Loading from directories: what works, what is refused, and what the messages say."""

import json
import pickle
import shutil

import pytest
import torch

from deployments.engine.loading.loader import load_pipeline
from serve_app.domain.endpoint import StoreConfig, Weights
from serve_app.domain.errors import Misconfigured, WeightsUnavailable
from serve_app.domain.pipeline_index import MODULAR_INDEX
from tests.engine.calls import run_without_engine
from tests.engine.conformance.case import WISHES
from tests.engine.conformance.zoo import cases
from tests.engine.tiny import save_tiny_flux
from weights.store import Store

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

HUB = Store(StoreConfig()).open
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def saved_folder(tmp_path_factory):
    return save_tiny_flux(tmp_path_factory.mktemp("saved") / "flux")


@pytest.fixture
def folder(saved_folder, tmp_path):
    return shutil.copytree(saved_folder, tmp_path / "flux")


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_refused(folder, match, **more):
    with pytest.raises(WeightsUnavailable, match=match):
        load_pipeline(Weights(str(folder)), **more)


def test_a_saved_pipeline_is_loaded_and_draws_the_same(folder, flux):
    loaded = load_pipeline(Weights(str(folder)))
    loaded.set_progress_bar_config(disable=True)
    torch.testing.assert_close(run_without_engine(loaded), run_without_engine(flux))


def test_the_dtype_is_the_one_asked_for(folder):
    assert load_pipeline(Weights(str(folder)), dtype="bfloat16").transformer.dtype == torch.bfloat16


def test_a_component_may_have_a_dtype_of_its_own(folder):
    dtypes = {"default": "bfloat16", "vae": "float32"}
    loaded = load_pipeline(Weights(str(folder)), dtype=dtypes)
    assert loaded.vae.dtype == torch.float32
    assert loaded.transformer.dtype == loaded.text_encoder_2.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["int3", {"vae": "int3"}])
def test_an_unknown_dtype_is_refused(folder, dtype):
    with pytest.raises(Misconfigured, match="int3"):
        load_pipeline(Weights(str(folder)), dtype=dtype)


def test_a_dtype_for_a_component_that_there_is_not_is_refused(folder):
    with pytest.raises(Misconfigured, match=r"given for vea, but .* has only the components .*vae"):
        load_pipeline(Weights(str(folder)), dtype={"vea": "float32"})


def test_a_missing_directory_is_named(tmp_path):
    assert_refused(tmp_path / "nowhere", "nowhere does not exist")


def test_a_directory_that_is_no_pipeline_is_reported(tmp_path):
    assert_refused(tmp_path, r"model_index\.json")


@pytest.mark.parametrize("broken", ["{", "[" * 100_000])
def test_a_broken_index_is_reported(folder, broken):
    (folder / "model_index.json").write_text(broken)
    assert_refused(folder, "not valid JSON")


def test_a_pipeline_class_that_diffusers_lacks_is_refused(folder):
    rewrite(folder / "model_index.json", _class_name="NobodysPipeline")
    assert_refused(folder, "NobodysPipeline")


def test_a_pipeline_of_the_repositorys_own_code_is_refused_and_not_run(folder, tmp_path):
    ran = tmp_path / "ran"
    (folder / "mine.py").write_text(f"open({str(ran)!r}, 'w')\nclass Mine: pass\n")
    rewrite(folder / "model_index.json", _class_name=["mine", "Mine"])
    assert_refused(folder, "not run")
    assert not ran.exists()


def test_a_component_of_the_repositorys_own_code_is_refused_and_not_run(folder, tmp_path):
    ran = tmp_path / "ran"
    (folder / "transformer" / "mine.py").write_text(f"open({str(ran)!r}, 'w')\nclass Mine: pass\n")
    rewrite(folder / "model_index.json", transformer=["mine", "Mine"])
    assert_refused(folder, r"mine\.Mine")
    assert not ran.exists()


@pytest.mark.parametrize(
    "component",
    [["os", "system"], ["subprocess", "Popen"], ["builtins", "eval"], ["torch", "load"]],
)
def test_components_come_from_no_other_library(folder, component):
    rewrite(folder / "model_index.json", transformer=component)
    assert_refused(folder, "not run")


def test_pickled_weights_are_refused_and_not_read(folder, tmp_path):
    ran = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return open, (str(ran), "w")

    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    (folder / "transformer" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    assert_refused(folder, "pickle")
    assert not ran.exists()


def test_a_component_without_weights_is_named(folder):
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert_refused(folder, "vae is missing")


def test_damaged_weights_are_reported(folder):
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    assert_refused(folder, "cannot be loaded")


@pytest.mark.parametrize("revision", [None, "main", "abc123", COMMIT[:-1]])
def test_weights_from_the_hub_need_a_commit(revision):
    with pytest.raises(Misconfigured, match="commit"):
        load_pipeline(Weights("somebody/something", revision), open_weights=HUB)


def test_weights_that_the_hub_does_not_give_are_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsUnavailable, match="somebody/something"):
        load_pipeline(Weights("somebody/something", COMMIT), open_weights=HUB)


def test_what_is_neither_a_directory_nor_a_hub_name_is_refused():
    assert_refused("../up/and/away", "does not exist")


# Modular pipelines.


@pytest.fixture(scope="module")
def modular(tmp_path_factory):
    """A modular pipeline and the folder that it was saved in."""
    pipeline = cases()["FluxModularPipeline"].build()
    folder = tmp_path_factory.mktemp("modular") / "flux"
    pipeline.save_pretrained(str(folder), overwrite_modular_index=True)
    return pipeline, folder


def arguments():
    return cases()["FluxModularPipeline"].arguments(WISHES[0])


def test_a_modular_pipeline_is_loaded_and_draws_the_same(modular):
    saved, folder = modular
    loaded = load_pipeline(Weights(str(folder)))
    assert type(loaded) is type(saved)
    torch.testing.assert_close(loaded(**arguments()), saved(**arguments()))
    halved = load_pipeline(Weights(str(folder)), dtype={"default": "bfloat16", "vae": "float32"})
    assert (halved.transformer.dtype, halved.vae.dtype) == (torch.bfloat16, torch.float32)


def test_a_modular_pipeline_is_loaded_from_its_folder_wherever_its_index_says_that_it_is(
    modular, tmp_path
):
    folder = shutil.copytree(modular[1], tmp_path / "moved")
    index = json.loads((folder / MODULAR_INDEX).read_text())
    for component in index.values():
        if isinstance(component, list):
            component[:2] = [None, None]  # as published before it was ever loaded
            component[2]["pretrained_model_name_or_path"] = "nobody/nothing"
    (folder / "transformer").rename(folder / "denoiser")
    index["transformer"][2]["subfolder"] = "denoiser"
    (folder / MODULAR_INDEX).write_text(json.dumps(index))
    torch.testing.assert_close(
        load_pipeline(Weights(str(folder)))(**arguments()), modular[0](**arguments())
    )


def test_a_component_of_another_repository_is_named(modular, tmp_path):
    folder = shutil.copytree(modular[1], tmp_path / "parts")
    shutil.rmtree(folder / "vae")
    assert_refused(folder, "FluxModularPipeline needs vae, which these weights do not have")


def test_code_that_a_modular_index_names_is_not_run(modular, tmp_path):
    folder = shutil.copytree(modular[1], tmp_path / "coded")
    index = json.loads((folder / MODULAR_INDEX).read_text())
    index["transformer"][:2] = ["os", "system"]
    (folder / MODULAR_INDEX).write_text(json.dumps(index))
    assert_refused(folder, r"needs os\.system as its transformer.*is not run")
    rewrite(folder / MODULAR_INDEX, _class_name="ModularPipeline")
    assert_refused(folder, "needs the pipeline 'ModularPipeline'.*is not run")
