"""LoKr, LoHa and DoRA, as they are published, against the layers of peft."""

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file

from deployments.engine.engine import Engine
from deployments.engine.lora.format import Lora, merge_lora
from serve_app.domain.endpoint import Recipe
from serve_app.domain.errors import LoraRefused, Misconfigured
from tests.engine.calls import call
from tests.engine.gate import merging_engine
from tests.engine.loras import FLUX_LAYERS, SDXL_LAYERS, save_lora
from tests.engine.tiny import tiny_flux, tiny_sdxl
from tests.engine.with_loras import plain_with, relative, together
from tests.fakes.accelerator import FakeAccelerator
from tests.samples import sample_params

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # peft, of models that it did not make
    pytest.mark.usefixtures("one_torch_thread"),
]

MAKERS = {"flux": (tiny_flux, FLUX_LAYERS), "sdxl": (tiny_sdxl, SDXL_LAYERS)}
KINDS = {
    "LoKr, whole": lambda layers: LoKrConfig(r=9999, alpha=9999, target_modules=layers),
    "LoKr": lambda layers: LoKrConfig(
        r=2, alpha=3, decompose_both=True, decompose_factor=4, target_modules=layers
    ),
    "LoKr with a core": lambda layers: LoKrConfig(
        r=2, alpha=3, use_effective_conv2d=True, decompose_factor=4, target_modules=layers
    ),
    "LoHa": lambda layers: LoHaConfig(r=3, alpha=2, target_modules=layers),
    "LoHa with a core": lambda layers: LoHaConfig(
        r=3, alpha=2, use_effective_conv2d=True, target_modules=layers
    ),
    "DoRA": lambda layers: LoraConfig(r=3, lora_alpha=2, use_dora=True, target_modules=layers),
}


def component_of(pipeline):
    return getattr(pipeline, "transformer", None) or pipeline.unet


def build_adapted_pipeline(make, layers, kind, seed):
    """A pipeline with peft's adapter, whose weights are random, and they by name."""
    pipeline = make()
    component = component_of(pipeline)
    config = KINDS[kind](list(layers))
    inject_adapter_in_model(config, component)
    noise = torch.Generator().manual_seed(seed)
    state = {}
    for name, values in component.state_dict(keep_vars=True).items():
        path, dot, part = name.partition(".lo" if ".lo" in name else ".hada")
        if not dot or ".default" not in name:
            continue
        if "magnitude" in name:
            values.data *= 1 + 0.3 * torch.rand(values.shape, generator=noise)
        else:
            values.data = torch.randn(values.shape, generator=noise) / 3
        part = dot.removeprefix(".") + part.replace(".default", "")
        state.setdefault(path, {})[part] = values.detach().clone()
    assert set(state) == set(layers)
    return pipeline, state


def save_adapter(folder, state, kind, pipeline, names):
    """Save in the names of kohya's trainer, or with dots, as peft and others do."""
    unet = hasattr(pipeline, "unet")
    file = folder / f"{kind}-{names}.safetensors".replace(" ", "-")
    written = {}
    for path, parts in state.items():
        start = {
            "kohya": f"lora_unet_{path.replace('.', '_')}",
            "lycoris": f"lycoris_{path.replace('.', '_')}",
            "dots": f"{'unet' if unet else 'transformer'}.{path}",
            "diffusion_model": f"diffusion_model.{path}",
        }[names]
        for part, values in parts.items():
            named, of_part = values, part
            if names in ("kohya", "lycoris"):
                of_part = part.replace("lora_A", "lora_down").replace("lora_B", "lora_up")
                if "magnitude" in part:
                    of_part, named = "dora_scale", values.reshape(-1, 1)
            written[f"{start}.{of_part}"] = named.contiguous()
        written[f"{start}.alpha"] = torch.tensor(3.0 if "LoKr" in kind else 2.0)
    save_file(written, file)
    return file


def scale_adapter(pipeline, scale):
    for layer in component_of(pipeline).modules():
        if isinstance(layer, BaseTunerLayer):
            layer.scaling["default"] *= scale
    return pipeline


@pytest.mark.variants(1)
@pytest.mark.parametrize(
    "names", sample_params(["kohya", "lycoris", "dots", "diffusion_model"], "kohya")
)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MAKERS)
def test_each_kind_is_applied_and_merged_as_by_peft(model, kind, names, tmp_path):
    make, layers = MAKERS[model]
    pipeline, state = build_adapted_pipeline(make, layers, kind, 1)
    file = save_adapter(tmp_path, state, kind, pipeline, names)
    expected = scale_adapter(pipeline, 0.7)(**call(steps=2)).images
    base = make()
    with Engine(base, threads=1) as engine:
        images = engine.submit(loras=[Lora(file, 0.7)], **call(steps=2)).result(60).images
        plain = engine.submit(**call(steps=2)).result(60).images
    assert relative(plain, expected) > 1e-3
    assert relative(images, expected) <= 1e-5
    merge_lora(base, file, 0.7)
    assert relative(base(**call(steps=2)).images, expected) <= 1e-4


def asked_for(folder, kinds=("LoKr", "LoHa", "DoRA")):
    """Files of several kinds for the tiny Flux."""
    files = []
    for seed, kind in enumerate(kinds):
        pipeline, state = build_adapted_pipeline(tiny_flux, FLUX_LAYERS[seed:], kind, seed)
        files.append(Lora(save_adapter(folder, state, kind, pipeline, "kohya"), 0.6))
    return files


@pytest.mark.long
@pytest.mark.parametrize("model", MAKERS)
def test_rows_with_any_kind_share_forwards(model, tmp_path):
    make, layers = MAKERS[model]
    base = make()
    lora_lists = [[Lora(save_lora(tmp_path, base, 1, 2), 0.5)], []]
    for seed, kind in enumerate(("LoKr", "LoHa", "DoRA")):
        pipeline, state = build_adapted_pipeline(make, layers[seed:], kind, seed)
        lora_lists.append([Lora(save_adapter(tmp_path, state, kind, pipeline, "kohya"), 0.6)])
    calls = [{**call(seed=seed), "loras": its} for seed, its in enumerate(lora_lists)]
    with merging_engine(base, max_batch=8, threads=1, verify_merges=True) as engine:
        alone = [engine.submit(**{**fields, "generator": make_generator(n)}).result(60).images
                 for n, fields in enumerate(calls)]  # fmt: skip
        before = engine.counts()["merged_calls"]
        images = together(
            engine, [{**fields, "generator": make_generator(n)} for n, fields in enumerate(calls)]
        )
        counts = engine.counts()
    assert counts["merged_calls"] - before >= 3 * len(calls)
    assert not {"failed when merged", "differs when merged"} & counts["not_merged"].keys()
    for image, other in zip(images, alone, strict=True):
        assert relative(image, other) <= 1e-5


def make_generator(seed):
    return torch.Generator().manual_seed(seed)


def test_several_of_one_generation_come_one_after_another_as_in_peft(tmp_path):
    """A DoRA scales what the LoRA before it has made, and a LoRA after it is added."""
    pipeline, state = build_adapted_pipeline(tiny_flux, FLUX_LAYERS, "DoRA", 1)
    dora = Lora(save_adapter(tmp_path, state, "DoRA", pipeline, "kohya"))
    lora = save_lora(tmp_path, pipeline, 2, 2)
    halves = load_file(lora)
    for path in FLUX_LAYERS:
        layer = pipeline.transformer.get_submodule(path)
        layer.update_layer("other", 2, 2, LoraConfig(r=2, lora_alpha=2))
        for half, own in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B)):
            own["other"].weight.data = halves[f"transformer.{path}.{half}.weight"]
    for order in (["default", "other"], ["other", "default"]):
        for path in FLUX_LAYERS:
            pipeline.transformer.get_submodule(path).set_adapter(order)
        expected = pipeline(**call(steps=2)).images
        chosen = [{"default": dora, "other": Lora(lora)}[name] for name in order]
        with Engine(tiny_flux(), threads=1) as engine:
            images = engine.submit(loras=chosen, **call(steps=2)).result(60).images
        assert relative(images, expected) <= 1e-5


@pytest.mark.long
@pytest.mark.parametrize("kind", ["LoKr", "LoHa", "DoRA"])
def test_a_layer_that_diffusers_splits_gets_its_rows(kind, tmp_path):
    """Query, key and value of Flux are one layer for most trainers."""
    block, noise = "lora_unet_double_blocks_0_img_attn", torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(*shape, generator=noise) / 3

    plain = tiny_flux()
    attention = plain.transformer.transformer_blocks[0].attn
    width = attention.to_q.weight.shape[1]
    weights = torch.cat(
        [projection.weight for projection in (attention.to_q, attention.to_k, attention.to_v)]
    )
    if kind == "LoKr":
        parts = {"lokr_w1": random(4, 4), "lokr_w2": random(3 * width // 4, width // 4)}
        delta = torch.kron(parts["lokr_w1"], parts["lokr_w2"])
    elif kind == "LoHa":
        parts = {f"hada_w{n}_a": random(3 * width, 2) for n in "12"}
        parts |= {f"hada_w{n}_b": random(2, width) for n in "12"}
        delta = (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (
            parts["hada_w2_a"] @ parts["hada_w2_b"]
        )
    else:
        parts = {"lora_down.weight": random(2, width), "lora_up.weight": random(3 * width, 2)}
        parts["dora_scale"] = random(3 * width, 1).abs() + 1
        delta = parts["lora_up.weight"] @ parts["lora_down.weight"]
    changed = weights + delta
    if kind == "DoRA":
        changed = changed * parts["dora_scale"] / changed.norm(dim=1, keepdim=True)
    rank = 2.0
    state = {f"{block}_qkv.{name}": tensor for name, tensor in parts.items()}
    state[f"{block}_qkv.alpha"] = torch.tensor(rank)
    file = tmp_path / "fused.safetensors"
    save_file(state, file)
    for layer, its in zip(
        (attention.to_q, attention.to_k, attention.to_v), changed.chunk(3), strict=True
    ):
        layer.weight.data = its
    expected = plain(**call(steps=2)).images
    accelerator = FakeAccelerator()
    with Engine(tiny_flux(), accelerator, threads=1) as engine:
        accelerator.operations.clear()
        images = engine.submit(loras=[Lora(file)], **call(steps=2)).result(60).images
    # The parts that all rows need are uploaded once, and the others three times.
    whole, by_rows = {"LoKr": (2, 0), "LoHa": (2, 2), "DoRA": (1, 2)}[kind]
    assert accelerator.operations.count(("loras", "allocate")) == whole + 3 * by_rows
    assert relative(images, expected) <= 1e-5
    assert relative(images, plain_with(tiny_flux, [], steps=2)) > 1e-3


@pytest.mark.long
@pytest.mark.parametrize("offload", ["none", "components", "blocks"])
def test_weights_in_eight_bits_or_elsewhere_take_them_too(offload, tmp_path):
    recipe = Recipe(12, "float8", offload, ("vae",) if offload == "blocks" else ())
    for lora in asked_for(tmp_path):
        with Engine(threads=1) as engine:
            engine.add("stored", tiny_flux(), recipe)
            images = engine.submit(pipeline="stored", loras=[lora], **call()).result(60).images
            plain = engine.submit(pipeline="stored", **call()).result(60).images
        assert torch.isfinite(images).all()
        with Engine(threads=1) as engine:
            engine.add("there", tiny_flux(), Recipe(12, "float8", "none", ()))
            usual = engine.submit(pipeline="there", loras=[lora], **call()).result(60).images
        assert relative(images, usual) <= 1e-5
        assert relative(images, plain) > 1e-3


def test_text_encoders_take_them_too(tmp_path):
    pipeline = tiny_sdxl()
    layer = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
    width = pipeline.text_encoder.config.hidden_size
    parts = {"lokr_w1": torch.eye(4), "lokr_w2": torch.randn(width // 4, width // 4)}
    file = tmp_path / "encoder.safetensors"
    save_file({f"{layer}.{name}": tensor for name, tensor in parts.items()}, file)
    with Engine(pipeline, threads=1) as engine:
        images = engine.submit(loras=[Lora(file)], **call(steps=2)).result(60).images
        plain = engine.submit(**call(steps=2)).result(60).images
    merge_lora(pipeline, file)
    assert relative(images, pipeline(**call(steps=2)).images) <= 1e-5
    assert relative(images, plain) > 1e-4


def test_names_that_diffusers_knows_for_a_lora_are_known_for_other_kinds(tmp_path):
    """Those of Stability's own code for Stable Diffusion XL."""
    pipeline = tiny_sdxl()
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    weight = pipeline.unet.get_submodule(layer).weight
    parts = {"lokr_w1": torch.randn(4, 4), "lokr_w2": torch.randn(*(n // 4 for n in weight.shape))}
    name = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"
    file = tmp_path / "sgm.safetensors"
    save_file({f"{name}.{part}": tensor for part, tensor in parts.items()}, file)
    before = weight.clone()
    merge_lora(pipeline, file)
    assert torch.allclose(weight - before, torch.kron(*parts.values()), atol=1e-5)


LAYER = "lora_unet_transformer_blocks_0_attn_to_q"


@pytest.mark.variants(4)
@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"oft_blocks": (4, 8, 8)}, "is an OFT"),
        ({"a1.weight": (4, 4), "b1.weight": (4, 4)}, "is a GLoRA"),
        ({"on_input": (1,), "weight": (1, 4)}, "is an .IA.³ adapter"),
        ({"diff": (4, 4)}, "for a model of another size"),
        ({"set_weight": (32, 32)}, "is a replacement of whole weights"),
        ({"lora_mid.weight": (4, 4)}, "has no lora_down and no lora_up for"),
        ({"lokr_w1": (4, 4), "lokr_w2": (4, 4), "dora_scale": (16, 1)}, "is a LoKr with DoRA"),
        ({"lokr_w1": (4, 4)}, "has no lokr_w2_a and no lokr_w2_b for"),
        ({"lokr_w1": (4, 4), "lokr_w2": (3, 3)}, "for a model of another size"),
        ({"hada_w1_a": (9, 2), "hada_w1_b": (2, 9), "hada_w2_a": (9, 2), "hada_w2_b": (2, 9)},
         "for a model of another size"),
        ({"lora_down.weight": (2, 32), "lora_up.weight": (32, 2), "dora_scale": (1, 32)},
         "a DoRA with one magnitude for each input"),
    ],
)  # fmt: skip
def test_what_cannot_be_applied_is_refused_by_its_name(parts, says, tmp_path):
    file = tmp_path / "adapter.safetensors"
    save_file({f"{LAYER}.{name}": torch.ones(shape) for name, shape in parts.items()}, file)
    pipeline = tiny_flux()
    with pytest.raises(Misconfigured, match=says):
        merge_lora(pipeline, file)
    with Engine(pipeline, threads=1) as engine:
        with pytest.raises(LoraRefused, match=says):
            engine.submit(loras=[Lora(file)], **call()).result(60)


@pytest.mark.parametrize(
    "parts",
    [
        {"x.lokr_w1": (2048, 1), "x.lokr_w2": (1024, 1)},
        {"x.lokr_w1": (1, 2048), "x.lokr_w2": (1, 1024)},
        {"x.lokr_w1_a": (4100, 1), "x.lokr_w1_b": (1, 4100), "x.lokr_w2": (1, 1)},
        {
            "x.hada_t1": (1, 1, 64, 64),
            "x.hada_w1_a": (1, 1),
            "x.hada_w1_b": (1, 4100),
            "x.hada_w2_a": (1, 1),
            "x.hada_w2_b": (1, 1),
        },
    ],
)
def test_small_parts_whose_products_fill_the_memory_are_refused(parts, tmp_path):
    """A megabyte of a stranger could ask for hundreds of gigabytes."""
    file = tmp_path / "large.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in parts.items()}, file)
    with pytest.raises(Misconfigured, match="larger than any layer"):
        merge_lora(tiny_flux(), file)
