"""Text encoders suspend their generations, share forwards and are asked once."""

import threading

import pytest
import torch
from torch.utils._pytree import tree_leaves

from deployments.engine.engine import Engine
from serve_app.domain.errors import Cancelled, SnapshotRefused
from serve_app.domain.progress import Stage
from tests.engine.calls import call
from tests.engine.conformance.case import WISHES
from tests.engine.conformance.zoo import cases
from tests.engine.gate import Gate, merging_engine
from tests.engine.tiny import tiny_flux

pytestmark = pytest.mark.engine

PROMPTS = ("a red circle", "a blue square", "a green star", "a pink heart")


@pytest.fixture(scope="module")
def pipeline():
    return tiny_flux()


@pytest.fixture
def engine(pipeline):
    with merging_engine(pipeline, threads=1, max_batch=4, verify_merges=True) as engine:
        yield engine


def together(engine, wishes):
    gate = Gate(engine)
    running = [engine.submit(**wish) for wish in wishes]
    gate.open()
    return [generation.result(60).images for generation in running]


def test_new_prompts_share_the_forwards_of_both_encoders(engine, pipeline):
    wishes = [call(prompt, seed=seed, steps=2) for seed, prompt in enumerate(PROMPTS)]
    results = together(engine, wishes)
    for seed, (prompt, images) in enumerate(zip(PROMPTS, results, strict=True)):
        alone = pipeline(**call(prompt, seed=seed, steps=2)).images
        assert (images - alone).abs().max() <= 1e-4
    counts = engine.counts()
    # Of a first merge, two are compared with what they give alone, then the others follow.
    assert counts["encoders"]["batch_sizes"] == {2: 4}
    assert counts["batch_sizes"] == {2: 2, 4: 1}  # and all of them step together afterwards
    assert counts["prompts_encoded"] == 8


@pytest.mark.filterwarnings("ignore")
def test_layers_of_clip_can_be_skipped():
    """diffusers alone raises an ``AttributeError`` with transformers 5."""
    case = cases()["StableDiffusionPipeline"]
    reference, pipeline = case.build(), case.build()
    vars(reference.text_encoder)["text_model"] = reference.text_encoder
    with Engine(pipeline, device="cpu", threads=1) as engine:
        images = [
            engine.submit(**case.arguments(WISHES[0]), clip_skip=skipped).result(60).images
            for skipped in (None, 1)
        ]
    expected = reference(**case.arguments(WISHES[0]), clip_skip=1).images
    assert (images[1] - expected).abs().max() <= 1e-4
    assert (images[1] - images[0]).abs().max() > 1e-4


def test_one_new_prompt_of_many_is_encoded_once_and_no_two_share_tensors(engine, pipeline):
    wishes = [call(seed=seed, steps=2) for seed in range(4)]
    results = together(engine, wishes)
    for seed, images in enumerate(results):
        assert (images - pipeline(**call(seed=seed, steps=2)).images).abs().max() <= 1e-4
    counts = engine.counts()
    assert counts["encoders"]["batch_sizes"] == {1: 2}
    assert (counts["prompts_encoded"], counts["prompts_remembered"]) == (2, 6)


def test_what_was_encoded_with_others_is_not_remembered_for_one_that_is_alone(engine, pipeline):
    together(engine, [call(prompt, steps=1) for prompt in PROMPTS])
    before = engine.counts()["prompts_encoded"]
    for again in range(2):
        result = engine.submit(**call(PROMPTS[0])).result(60)
        assert torch.equal(result.images, pipeline(**call(PROMPTS[0])).images)
        assert engine.counts()["prompts_encoded"] == before + 2, again
    # Nor for a deterministic one beside others, whose bits no other may change.
    wishes = [call(PROMPTS[1], deterministic=True), call(PROMPTS[2])]
    result, _ = together(engine, wishes)
    assert torch.equal(result, pipeline(**call(PROMPTS[1])).images)


def test_an_encoder_that_fails_for_one_prompt_fails_it_alone(engine, pipeline):
    embeddings = pipeline.text_encoder_2.get_input_embeddings()
    too_large = torch.full((1, 8), embeddings.num_embeddings + 1)

    class Asks:
        def __init__(self, ids):
            self.text_encoder_2 = pipeline.text_encoder_2
            self.ids = ids

        def __call__(self):
            return self.text_encoder_2(self.ids)[0]

    for name, ids in {"wrong": too_large, "right": torch.ones(1, 8, dtype=torch.long)}.items():
        engine.add(name, Asks(ids))
    gate = Gate(engine)
    running = {name: engine.submit(pipeline=name) for name in ("wrong", "right")}
    gate.open()
    with pytest.raises(IndexError):
        running["wrong"].result(60)
    with torch.no_grad():
        expected = pipeline.text_encoder_2(torch.ones(1, 8, dtype=torch.long))[0]
    assert torch.equal(running["right"].result(60), expected)


def test_one_that_waits_for_its_encoder_can_be_cancelled_and_says_what_it_does(engine):
    gate = Gate(engine)
    reported = []

    def cancel(progress):  # on the engine's thread, before the encoder has its turn
        reported.append(progress.stage)
        doomed.cancel()

    doomed = engine.submit(on_progress=cancel, **call("a new prompt"))
    gate.open()
    with pytest.raises(Cancelled):
        doomed.result(60)
    assert reported == [Stage.ENCODING_TEXT]
    assert engine.counts()["encoders"]["forwards"] == 0


def test_a_snapshot_of_one_that_encodes_comes_at_its_first_step(engine, pipeline):
    snapshots = []

    def ask(progress):
        if progress.stage is Stage.ENCODING_TEXT:
            snapshots.append(running.request_snapshot())

    gate = Gate(engine)
    running = engine.submit(on_progress=ask, **call("a snapshot"))
    gate.open()
    running.result(60)
    snapshot = snapshots[0].result(60)
    assert snapshot.step == 0
    with Engine(pipeline, threads=1) as other:
        resumed = other.submit(snapshot=snapshot.to_bytes(), **call("a snapshot")).result(60)
        assert other.counts()["encoders"]["forwards"] == 2
    assert torch.equal(resumed.images, pipeline(**call("a snapshot")).images)


def test_one_that_stands_still_before_its_first_step_gives_none(engine):
    gate, paused = Gate(engine), threading.Event()

    def pause(progress):
        if progress.stage is Stage.ENCODING_TEXT:
            running.pause()
            paused.set()

    running = engine.submit(on_progress=pause, **call("it stands still"))
    gate.open()
    assert paused.wait(60)  # one that has not begun gives none for another reason
    with pytest.raises(SnapshotRefused, match="Unpause"):
        running.snapshot(60)
    running.resume()
    running.result(60)


@pytest.mark.parametrize("form", [lambda it: it, lambda it: it[0], lambda it: {"all": [it[0]]}])
def test_a_pipeline_that_returns_what_its_encoder_gave_returns_plain_tensors(pipeline, form):
    class Encodes:
        text_encoder_2 = pipeline.text_encoder_2

        def __call__(self, ids):
            return form(self.text_encoder_2(ids))

    ids = torch.ones(1, 8, dtype=torch.long)
    with Engine(Encodes(), threads=1) as engine:
        results = [engine.submit(ids=ids).result(60) for _ in range(2)]
    with torch.no_grad():
        expected = tree_leaves(form(pipeline.text_encoder_2(ids)))
    for result in results:
        for tensor, other in zip(tree_leaves(result), expected, strict=True):
            assert type(tensor) is torch.Tensor
            assert torch.equal(tensor, other)


class Writer:
    """A language model that writes: each word is a call, with what it remembers of those before."""

    def __init__(self, model):
        self.text_encoder = model

    def __call__(self, ids):
        return self.text_encoder.generate(ids, max_new_tokens=5, do_sample=False)


def test_a_language_model_that_writes_is_not_interrupted():
    from transformers import GPT2Config, GPT2LMHeadModel  # noqa: PLC0415

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=50,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = GPT2LMHeadModel(config).eval()
    pipeline = Writer(model)
    inputs = [torch.tensor([[number, 7, 9]]) for number in (3, 4)]
    with Engine(pipeline, threads=1) as engine:
        gate = Gate(engine)
        running = [engine.submit(ids=ids) for ids in inputs]
        gate.open()
        written = [generation.result(60) for generation in running]
        assert engine.counts()["encoders"]["forwards"] == 0
    for ids, words in zip(inputs, written, strict=True):
        assert torch.equal(words, pipeline(ids))
