"""Running generations on the device: snapshots, previews, cancelling, and too little memory."""

from io import BytesIO

import pytest
import torch
from PIL import Image

from serve_app.domain.errors import Cancelled, OutOfMemory
from tests.engine.calls import call as tiny_call
from tests.engine.demo_calls import CALLS, call, made_of
from tests.engine.tiny import tiny_flux
from tests.gpu.device import (
    DEVICE,
    MARKS,
    RESULT_S,
    demo,
    engine_of,
    free_bytes,
    on_device,
    only_gpu,
    relative,
    together,
)

pytestmark = MARKS

STEPS = 5


class AskAfter:
    """Asks a generation for something once ``step`` steps are done. Called on the engine's thread,
    which must not wait for the answer."""

    def __init__(self, step, ask):
        self._step = step
        self._ask = ask
        self.generation = None
        self.answer = None

    def __call__(self, progress):
        if progress.step >= self._step and self.answer is None and self.generation is not None:
            self.answer = self._ask(self.generation)


def generate_and_ask(engine, step, ask, **arguments):
    """Result of a generation, and the answer to ``ask`` after ``step`` steps."""
    asking = AskAfter(step, ask)
    asking.generation = running = engine.submit(on_progress=asking, **arguments)
    result = running.result(RESULT_S)
    return result, asking.answer


@pytest.mark.parametrize("family", CALLS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_generation_goes_on_from_a_snapshot_bit_for_bit(family, dtype):
    pipeline = demo(family, dtype)
    with engine_of(pipeline) as engine:
        whole, snapshot = generate_and_ask(
            *(engine, 1, lambda generation: generation.request_snapshot()),
            deterministic=True,
            **call(family, 1, STEPS),
        )
        content = snapshot.result(RESULT_S).to_bytes()
        of_whole = engine.counts()["single_calls"]
        resumed = engine.submit(
            snapshot=content,
            deterministic=True,
            **call(family, 1, STEPS),
        ).result(RESULT_S)
        assert engine.counts()["single_calls"] < 2 * of_whole  # the first steps are not repeated
    assert torch.equal(made_of(resumed).cpu(), made_of(whole).cpu())


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_preview_shows_the_image_and_changes_nothing_of_it(dtype):
    arguments = {"width": 128, "height": 128, "num_images_per_prompt": 1}
    pipeline = demo("flux", dtype)
    plain = pipeline(**{**call("flux", 3, 8), **arguments}).images
    with engine_of(pipeline) as engine:
        running = engine.submit(**{**call("flux", 3, 8), **arguments})
        preview = running.request_preview(after=3).result(RESULT_S)
        final = running.result(RESULT_S).images
    assert torch.equal(final.cpu(), plain.cpu())
    image = Image.open(BytesIO(preview.jpeg()))
    levels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    shown = levels.view(image.height, image.width, 3).permute(2, 0, 1).float() / 255
    small = [
        torch.nn.functional.adaptive_avg_pool2d(picture.float().cpu(), (8, 8)).flatten()
        for picture in (shown, final[0])
    ]
    assert torch.corrcoef(torch.stack(small))[0, 1] > 0.7


def test_a_cancelled_generation_ends_and_the_others_get_their_own_images():
    pipeline = on_device(tiny_flux())
    plain = pipeline(**tiny_call(seed=2, steps=6)).images
    with engine_of(pipeline) as engine:
        long = engine.submit(**tiny_call(seed=1, steps=400))
        other = engine.submit(**tiny_call(seed=2, steps=6))
        result = other.result(RESULT_S)
        long.cancel()
        with pytest.raises(Cancelled):
            long.result(RESULT_S)
        assert relative(result.images, plain) <= 1e-3
        again = engine.submit(deterministic=True, **tiny_call(seed=2, steps=6)).result(RESULT_S)
    assert torch.equal(again.images.cpu(), plain.cpu())


@only_gpu
def test_eight_rows_that_do_not_fit_together_are_made_in_smaller_batches():
    pipeline = demo("sdxl", "float16")
    big = {**call("sdxl", 0, 3), "width": 1024, "height": 1024}
    pipeline(**{**big, "num_inference_steps": 1})  # kernels' workspaces
    with engine_of(pipeline, verify_merges=False) as engine:
        torch.cuda.synchronize()
        before = free_bytes()
        with_one = engine.submit(**fresh(big, 0)).result(RESULT_S)
        del with_one
        torch.cuda.empty_cache()
        peak = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
        left = int(2.5 * peak)  # two images fit, and eight do not
        taken = torch.empty(max(0, before - left), dtype=torch.uint8, device=DEVICE)
        results = together(engine, [fresh(big, seed) for seed in range(8)])
        del taken
        sizes = engine.counts()["batch_sizes"]
    assert len(results) == 8
    assert all(made_of(result).isfinite().all() for result in results)
    assert sum(int(size) * count for size, count in sizes.items()) >= 8 * 3


@only_gpu
def test_one_that_fits_nowhere_fails_alone_and_the_model_goes_on():
    pipeline = demo("sdxl", "float16")
    plain = made_of(pipeline(**call("sdxl", 1, 2)))
    with engine_of(pipeline, verify_merges=False) as engine:
        huge = {**call("sdxl", 0, 2), "width": 16384, "height": 16384}
        taken = torch.empty(max(0, free_bytes() - 2 * 10**9), dtype=torch.uint8, device=DEVICE)
        with pytest.raises(OutOfMemory):
            engine.submit(**huge).result(RESULT_S)
        after = engine.submit(deterministic=True, **call("sdxl", 1, 2)).result(RESULT_S)
        del taken
    assert torch.equal(made_of(after).cpu(), plain.cpu())


def fresh(arguments, seed):
    return {**arguments, "generator": torch.Generator().manual_seed(seed)}
