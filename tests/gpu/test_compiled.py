"""Compiled blocks, alone and merged, with LoRAs and without. It compiles, which takes minutes."""

import pytest
import torch
from torch._dynamo.utils import counters

from deployments.engine.loading.loads import LoadPlan
from deployments.engine.loading.residency import Residency
from deployments.engine.lora.format import Lora
from serve_app.domain.endpoint import Recipe
from tests.engine.calls import call
from tests.engine.loras import save_lora
from tests.engine.tiny import tiny_flux, tiny_sdxl
from tests.engine.with_loras import plain_with
from tests.gpu.device import MARKS, RESULT_S, engine_of, on_device, relative, run_merged

pytestmark = [
    *MARKS,
    # peft, of the second LoRA that diffusers itself loads
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
]


def test_compiled_blocks_merge_and_are_not_compiled_again():
    plain = [on_device(tiny_sdxl())(**call(seed=seed)).images for seed in range(4)]
    torch.compiler.reset()
    with engine_of() as engine:
        residency = Residency(engine)
        plan = LoadPlan(
            lambda *_: tiny_sdxl(),
            Recipe(24, "float32", compile=True),
            warm_up=lambda _: call(steps=1),
        )
        residency.acquire("sdxl", plan).future.result(600)
        graphs = counters["stats"]["unique_graphs"]
        alone = engine.submit(pipeline="sdxl", **call(seed=0)).result(RESULT_S)
        results = run_merged(engine, [{"pipeline": "sdxl", **call(seed=seed)} for seed in range(4)])
        counts = engine.counts()
        assert counters["stats"]["unique_graphs"] == graphs > 0
        residency.close()
    assert counts["merged_calls"] >= 8
    assert "differs when merged" not in counts["not_merged"]
    for result, other in zip([alone, *results], [plain[0], *plain], strict=True):
        assert relative(result.images, other) <= 1e-2


def test_loras_run_in_compiled_blocks_with_padded_ranks(tmp_path):
    """Ranks 3 and 16 are of one bucket, and mixed with a request without a LoRA."""
    files = [save_lora(tmp_path, tiny_flux(), seed, rank) for seed, rank in ((1, 3), (2, 16))]
    chosen = [[Lora(files[0])], [Lora(files[1], 0.5)], [], [Lora(file) for file in files]]
    plain = [
        plain_with(lambda: on_device(tiny_flux()), lora_list, seed=n)
        for n, lora_list in enumerate(chosen)
    ]
    torch.compiler.reset()
    with engine_of() as engine:
        residency = Residency(engine)
        recipe = Recipe(24, "float32", compile=True)
        plan = LoadPlan(lambda *_: tiny_flux(), recipe, warm_up=lambda _: call(steps=1))
        residency.acquire("flux", plan).future.result(600)
        for loras in (*chosen[:2], chosen[3]):  # as written, while their code is compiled
            engine.submit(pipeline="flux", loras=loras, **call(steps=1)).result(RESULT_S)
        engine._compiler.submit(lambda: None).result(600)
        graphs = counters["stats"]["unique_graphs"]
        alone = [
            engine.submit(pipeline="flux", loras=lora_list, **call(seed=n)).result(RESULT_S)
            for n, lora_list in enumerate(chosen)
        ]
        wishes = [
            {"pipeline": "flux", "loras": lora_list, **call(seed=n)}
            for n, lora_list in enumerate(chosen)
        ]
        mixed = run_merged(engine, wishes)
        counts = engine.counts()
        assert counters["stats"]["unique_graphs"] == graphs > 0
        residency.close()
    assert counts["merged_calls"] >= 8
    assert not {"failed when merged", "differs when merged"} & counts["not_merged"].keys()
    for results in (alone, mixed):
        for result, other in zip(results, plain, strict=True):
            assert relative(result.images, other) <= 1e-2
