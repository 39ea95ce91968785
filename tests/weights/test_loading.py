"""From the hub through the store to a pipeline that generates."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from deployments.engine.loading.loader import load_pipeline, weights_bytes
from deployments.engine.memory.placement import bytes_of
from deployments.replica import weights as weights_module
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import WeightsUnavailable
from tests.engine.calls import run_without_engine
from tests.engine.tiny import save_tiny_flux, tiny_flux
from tests.weights.hub_server import HubServer, serving
from weights.selection import select

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

FLUX = Weights("house/tiny-flux", "ab" * 20)
COMMIT = "cd" * 20


@pytest.fixture(scope="module")
def flux():
    return tiny_flux()


@pytest.fixture
def hub(tmp_path_factory):
    server = HubServer()
    folder = tmp_path_factory.mktemp("flux") / "flux"
    server.add(FLUX.source, FLUX.revision, save_tiny_flux(folder))
    tiny_flux().save_pretrained(folder, variant="fp16")
    with serving(server):
        yield server


def same(loaded, pipeline):
    loaded.set_progress_bar_config(disable=True)
    torch.testing.assert_close(run_without_engine(loaded), run_without_engine(pipeline))


def test_a_pipeline_from_the_hub_draws_as_it_did_before_it_was_saved(hub, store, flux):
    reported = []
    loaded = load_pipeline(
        FLUX, on_download=lambda *how: reported.append(how), open_weights=store.open
    )
    same(loaded, flux)
    assert reported[-1][0] == reported[-1][1] == store.plan(FLUX).total_bytes
    assert not any("fp16" in request.path for request in hub.asked)


@pytest.mark.long
def test_a_variant_is_loaded_from_its_own_files(hub, store, flux):
    loaded = load_pipeline(
        Weights(FLUX.source, FLUX.revision, variant="fp16"), open_weights=store.open
    )
    same(loaded, flux)
    assert {
        request.path.endswith(".fp16.safetensors") for request in hub.asked if request.of_cdn
    } == {True}


@dataclass
class Notes:
    """Family that records its arguments."""

    name: str = "notes"
    endpoint: Any = None

    def load(self, endpoint, device):
        self.endpoint = endpoint
        return load_pipeline(endpoint.weights)


@pytest.mark.long
def test_a_family_gets_weights_of_the_hub_as_a_directory(hub, store, flux):
    notes = Notes()
    endpoint = Endpoint("house/flux", "notes", FLUX, "open")
    same(weights_module.load(store, notes, endpoint, "cpu"), flux)
    assert notes.endpoint.weights.source == str(store.plan(FLUX).directory / _snapshot(FLUX))
    assert notes.endpoint.weights.revision is None


@pytest.mark.long
def test_a_family_gets_a_directory_as_it_is(store, tmp_path, flux):
    folder = save_tiny_flux(tmp_path / "flux")
    endpoint = Endpoint("house/flux", "notes", Weights(str(folder)), "open")
    same(weights_module.load(store, Notes(), endpoint, "cpu"), flux)
    assert not store.directory.exists()


@pytest.mark.long
def test_a_checkpoint_of_the_hub_replaces_a_component_that_is_not_downloaded(
    hub, store, flux, tmp_path
):
    flux.transformer.save_pretrained(tmp_path / "files")
    (saved,) = (tmp_path / "files").glob("*.safetensors")
    saved.rename(tmp_path / "files/tuned.safetensors")
    hub.add("house/tuned", COMMIT, tmp_path / "files")
    checkpoint = f"house/tuned/tuned.safetensors@{COMMIT}"
    weights = replace(FLUX, checkpoint=checkpoint, components=("transformer",))
    endpoint = Endpoint("house/flux", "notes", weights, "open")
    assert not weights_module.is_here(store, endpoint)
    weights_module.fetch(store, endpoint, lambda *_: None)
    assert weights_module.is_here(store, endpoint)
    same(weights_module.load(store, Notes(), endpoint, "cpu"), flux)
    base = store.plan(weights).directory / _snapshot(FLUX)
    assert not any((base / "transformer").glob("*.safetensors"))
    assert any((base / "vae").glob("*.safetensors"))


def test_a_checkpoint_that_does_not_fit_is_refused_before_memory_is_asked_for(store, tmp_path):
    folder = save_tiny_flux(tmp_path / "flux")
    file = tmp_path / "file.safetensors"
    save_file({"first_stage_model.weight": torch.zeros(1)}, file)
    weights = Weights(str(folder), checkpoint=str(file), components=("transformer",))
    reported = []
    with pytest.raises(WeightsUnavailable, match="has no tensors of transformer: it holds vae"):
        weights_module.load(
            *(store, Notes(), Endpoint("house/flux", "notes", weights, "open"), "cpu"),
            on_found=reported.append,
        )
    assert not reported


@pytest.mark.long
@pytest.mark.parametrize(("dtype", "share"), [("float32", 1), ("bfloat16", 0.5)])
def test_the_size_of_weights_is_known_before_they_are_read(store, tmp_path, flux, dtype, share):
    folder = save_tiny_flux(tmp_path / "flux")
    tiny_flux().save_pretrained(folder, variant="fp16")  # an unused variant
    modules = [
        component
        for component in flux.components.values()
        if isinstance(component, torch.nn.Module)
    ]
    reported = []
    options = {"dtype": dtype}
    endpoint = Endpoint("house/flux", "notes", Weights(str(folder)), "open", options=options)
    weights_module.load(store, Notes(), endpoint, "cpu", None, reported.append)
    assert reported == [
        pytest.approx(share * bytes_of(modules), rel=0.02)
    ]  # position ids, tied weights


def test_the_size_of_weights_counts_each_component_in_its_own_type(store, tmp_path, flux):
    folder = save_tiny_flux(tmp_path / "flux")
    reported = []
    options = {"dtype": "bfloat16", "dtypes": {"transformer": "float32"}}
    endpoint = Endpoint("house/flux", "notes", Weights(str(folder)), "open", options=options)
    weights_module.load(store, Notes(), endpoint, "cpu", None, reported.append)
    modules = [
        component
        for component in flux.components.values()
        if isinstance(component, torch.nn.Module)
    ]
    whole = bytes_of([flux.transformer])
    assert reported == [pytest.approx((bytes_of(modules) + whole) / 2, rel=0.02)]


def test_nothing_is_reported_about_a_folder_that_is_no_pipeline(tmp_path):
    assert weights_bytes(Weights(str(tmp_path)), {}, select) == 0
    (tmp_path / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DModel"]}')
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"cut short")
    assert weights_bytes(Weights(str(tmp_path)), {}, select) == 0


def _snapshot(weights):
    return f"models--{weights.source.replace('/', '--')}/snapshots/{weights.revision}"
