"""LoRAs in compiled blocks: one code for all mixes with ranks up to a bucket."""

import threading
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch._dynamo.utils import counters

from deployments.engine.engine import Engine
from deployments.engine.loop.options import GenerationOptions
from deployments.engine.lora.compiled import BUCKETS
from deployments.engine.lora.format import Lora
from deployments.engine.merging.compile import compile_regions
from serve_app.domain.errors import Cancelled
from tests.engine.calls import call
from tests.engine.loras import FLUX_LAYERS, save_lora
from tests.engine.tiny import tiny_flux
from tests.engine.with_loras import relative, together

pytestmark = [
    pytest.mark.long,
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.usefixtures("one_torch_thread"),
]


def graphs():
    return counters["stats"]["unique_graphs"]


class Runs:
    """torch's compiler, without the last step, that counts calls of what it compiled."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, _inputs):
        def run(*inputs):
            self.count += 1
            return graph(*inputs)

        return run


class Studio:
    """An engine with a compiled pipeline, and what its compiler has done."""

    def __init__(self):
        torch._dynamo.reset()
        counters.clear()
        self.pipeline, self.runs = tiny_flux(), Runs()
        self.own = [*self.pipeline.transformer.modules()]
        compile_regions(self.pipeline, self.runs)
        self.engine = Engine(self.pipeline, max_batch=4, threads=1, limit_rows=False)
        self.may_compile = threading.Event()
        self.may_compile.set()
        later = self.engine._compile_later

        def compile_later(compilation):
            def once_allowed():
                assert self.may_compile.wait(300)
                compilation.run()

            later(replace(compilation, run=once_allowed))

        self.engine._loras._compile_later = compile_later

    def image(self, loras=(), **more):
        return self.engine.submit(loras=loras, **call(**more)).result(60).images

    def compiled_steps(self, loras, steps=2, **more):
        """Image, and the steps of which all blocks ran compiled."""
        before = self.runs.count
        image = self.engine.submit(loras=loras, **call(steps=steps), **more).result(60).images
        transformer = self.pipeline.transformer
        blocks = len(transformer.transformer_blocks) + len(transformer.single_transformer_blocks)
        return image, (self.runs.count - before) / blocks

    def wait_for_code(self):
        self.engine._compiler.submit(lambda: None).result(300)


@pytest.fixture(scope="module")
def loras(tmp_path_factory):
    """Three with ranks of one bucket."""
    folder = tmp_path_factory.mktemp("loras")
    return [make_lora(folder, seed, rank) for seed, rank in ((1, 4), (2, 16), (3, 7))]


@pytest.fixture(scope="module")
def studio(loras):
    """It has code for LoRAs of ranks up to 16."""
    studio = Studio()
    with studio.engine as engine:
        engine.precompile(studio.pipeline, lambda: call(seed=9, steps=1))
        studio.image([loras[0]], steps=1)
        studio.wait_for_code()
        yield studio
        studio.may_compile.set()
        studio.wait_for_code()
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def plain():
    """An engine without compiled blocks."""
    with Engine(tiny_flux(), threads=1) as engine:
        yield lambda loras=(), **more: engine.submit(loras=loras, **call(**more)).result(60).images


# Of one kind of blocks, and outside of blocks: each kind is compiled apart, which takes seconds.
LAYERS = [layer for layer in FLUX_LAYERS if not layer.startswith("single")]


def make_lora(folder, seed, rank):
    return Lora(save_lora(folder, tiny_flux(), seed, rank, LAYERS), 0.5)


def test_code_of_a_bucket_runs_all_mixes_ranks_scales_and_rows(studio, plain, loras):
    wishes = [
        [loras[0]],
        [loras[1]],
        [Lora(loras[2].file, -0.7)],
        [loras[0], loras[2]],  # ranks 4 and 7, end to end
        [],
    ]
    known = graphs()
    for its in wishes:
        image, steps = studio.compiled_steps(its)
        assert steps == 2
        assert relative(image, plain(its, steps=2)) <= 1e-5
    for few in (wishes[:2], wishes[1:4], wishes[2:], [wishes[0], wishes[0]]):
        before = studio.runs.count
        calls = [{**call(seed=seed), "loras": its} for seed, its in enumerate(few)]
        images = together(studio.engine, calls)
        assert studio.runs.count > before
        for seed, (image, its) in enumerate(zip(images, few, strict=True)):
            assert relative(image, plain(its, seed=seed)) <= 1e-5
    assert {2, 3} <= studio.engine.counts()["batch_sizes"].keys()
    assert graphs() == known


def test_other_ranks_and_layers_run_as_written_until_their_code_is_there(studio, plain, tmp_path):
    larger = make_lora(tmp_path, 4, 20)
    known = graphs()
    studio.may_compile.clear()
    image, steps = studio.compiled_steps([larger])
    assert (steps, graphs()) == (0, known)
    assert relative(image, plain([larger], steps=2)) <= 1e-5
    studio.may_compile.set()
    studio.wait_for_code()
    assert graphs() > known
    known = graphs()
    image, steps = studio.compiled_steps([larger])
    assert (steps, graphs()) == (2, known)
    assert relative(image, plain([larger], steps=2)) <= 1e-5


def test_other_kinds_of_adapters_and_large_ranks_run_as_written(studio, plain, tmp_path):
    pipeline = tiny_flux()
    width = pipeline.transformer.get_submodule(FLUX_LAYERS[0]).weight.shape[0]
    noise = torch.Generator().manual_seed(5)
    path = f"lora_unet_{FLUX_LAYERS[0].replace('.', '_')}"
    kinds = {
        "lokr": {"lokr_w1": (2, 2), "lokr_w2": (width // 2, width // 2)},
        "loha": {
            "hada_w1_a": (width, 3),
            "hada_w1_b": (3, width),
            "hada_w2_a": (width, 3),
            "hada_w2_b": (3, width),
        },
        "dora": {"lora_down.weight": (3, width), "lora_up.weight": (width, 3), "dora_scale": width},
    }
    known = graphs()
    for name, parts in kinds.items():
        file = tmp_path / f"{name}.safetensors"
        state = {
            f"{path}.{part}": torch.rand(shape, generator=noise) for part, shape in parts.items()
        }
        save_file(state, file)
        image, steps = studio.compiled_steps([Lora(file, 0.5)])
        assert steps == 0
        assert relative(image, plain([Lora(file, 0.5)], steps=2)) <= 1e-5
    largest = make_lora(tmp_path, 6, BUCKETS[-1] + 1)
    assert studio.compiled_steps([largest])[1] == 0
    studio.wait_for_code()
    assert graphs() == known


def test_a_deterministic_generation_does_not_depend_on_the_code_that_is_there(studio, plain, loras):
    image, steps = studio.compiled_steps([loras[0]], deterministic=True)
    assert steps == 0
    assert torch.equal(image, plain([loras[0]], steps=2))


def test_without_memory_for_padded_loras_the_blocks_run_as_written(studio, plain, loras):
    rows = studio.engine._loras.rows
    real = rows.make_room
    rows.make_room = lambda *_: False
    try:
        image, steps = studio.compiled_steps([loras[0]])
    finally:
        rows.make_room = real
    assert steps == 0
    assert relative(image, plain([loras[0]], steps=2)) <= 1e-5


def test_stacks_that_are_dropped_are_not_kept_by_layers(studio, loras):
    running = studio.engine.submit(loras=[loras[0]], **call(steps=100_000))
    rows = studio.engine._loras.rows
    while not rows.kept_bytes:
        assert not running.done()
    running.cancel()
    with pytest.raises(Cancelled):
        running.result(60)
    studio.image()
    assert rows.kept_bytes == 0
    assert [*studio.pipeline.transformer.modules()] == studio.own
    (layers,) = studio.engine._loras._layers.values()
    assert all(entry.halves is None for entry in layers._compiled._padded.values())


CACHED = GenerationOptions(step_cache={"name": "FirstBlockCache", "threshold": 0.9})


def test_steps_of_a_step_cache_run_as_written_with_loras_and_others_stay_compiled(
    studio, plain, loras
):
    mix = [loras[0]]
    for its, after in [(mix, []), ([], mix), (mix, mix), ([], [])]:
        cached = plain(its, steps=6, options=CACHED)
        assert relative(cached, plain(its, steps=6)) > 0  # it skipped something
        before = studio.runs.count
        assert relative(studio.image(its, steps=6, options=CACHED), cached) <= 1e-5
        assert studio.runs.count == before
        image, steps = studio.compiled_steps(after)
        assert steps == 2
        assert relative(image, plain(after, steps=2)) <= 1e-5
