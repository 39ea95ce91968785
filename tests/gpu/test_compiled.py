"""Compiled blocks, alone and merged. It compiles, which takes a minute or more."""

import torch
from torch._dynamo.utils import counters

from deployments.engine.loading.loads import LoadPlan
from deployments.engine.loading.residency import Residency
from serve_app.domain.endpoint import Recipe
from tests.engine.calls import call
from tests.engine.tiny import tiny_sdxl
from tests.gpu.device import MARKS, RESULT_S, engine_of, on_device, relative, together

pytestmark = MARKS


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
        made = together(engine, [{"pipeline": "sdxl", **call(seed=seed)} for seed in range(4)])
        counts = engine.counts()
        assert counters["stats"]["unique_graphs"] == graphs > 0
        residency.close()
    assert counts["merged_calls"] >= 8
    assert "differs when merged" not in counts["not_merged"]
    for one, other in zip([alone, *made], [plain[0], *plain], strict=True):
        assert relative(one.images, other) <= 1e-2
