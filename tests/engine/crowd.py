"""Generations that join, are cancelled, fail, go on elsewhere, have LoRAs and set attention
processors of their own, at random."""

import gc
from collections import Counter
from concurrent.futures import Future
from contextlib import contextmanager
from random import Random

import torch
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from greenlet import greenlet
from peft.tuners.lora import LoraLayer

from deployments.engine.engine import Engine
from deployments.engine.loop.options import GenerationOptions
from deployments.engine.lora.format import Lora
from serve_app.domain.errors import Cancelled
from tests.engine.calls import call
from tests.engine.gate import Gate
from tests.engine.loras import save_lora, with_encoders
from tests.engine.tiny import tiny_flux

SEEDS = 6
AT_ONCE = 10
FATES = ("made", "made", "cancelled", "failed", "resumed", "paused")


def fail(pipeline, step, timestep, tensors):
    raise ZeroDivisionError


def own_processors(pipeline):
    """Others that do the same."""
    pipeline.transformer.set_attn_processor(FluxAttnProcessor())


def lies_on(pipeline):
    """Hooks, attention processors and whatever else a module has beside its weights, by place."""
    return {
        (name, place, key): value if isinstance(value, int | float | str) else id(value)
        for name, component in pipeline.components.items()
        if isinstance(component, torch.nn.Module)
        for place, module in component.named_modules()
        for kept in vars(module).items()
        for key, value in _entries(*kept)
    }


def changes(before, after):
    """Where the two differ."""
    return {key for key in before | after if before.get(key) != after.get(key)}


def _entries(name, kept):
    """Each entry of a dictionary on its own, as hooks are in one."""
    if isinstance(kept, dict):
        return [(f"{name}.{key}", value) for key, value in kept.items()]
    return [(name, kept)]


def wish(seed, **more):
    return call(seed=seed, steps=2 + seed, **more)


class AskOnTheWay:
    """A listener that asks for a snapshot after the first step."""

    def __init__(self):
        self.asked = None
        self._generation = Future()

    def __call__(self, progress):
        if self.asked is None and progress.step == 1:
            self.asked = self._generation.result(60).request_snapshot()

    def watch(self, generation):
        self._generation.set_result(generation)


class Crowd:
    """Generations of a few seeds. ``ended`` counts how they ended."""

    def __init__(self, engine, expected, loras):
        """``expected`` and ``LoRAs``: of each seed."""
        self._engine = engine
        self._expected = expected
        self._loras = loras
        self._dice = Random(1)  # noqa: S311
        self.ended = Counter()

    def run(self, count):
        running = []
        for _ in range(count):
            running.append(self._submit())
            while len(running) > AT_ONCE:
                running += self._end(*running.pop(self._dice.randrange(len(running))))
        while running:
            running += self._end(*running.pop(0))

    def _submit(self):
        dice = self._dice
        seed, fate = dice.randrange(SEEDS), dice.choice(FATES)
        listener = AskOnTheWay() if fate == "resumed" else None
        # One that has begun would keep its LoRAs, and others would wait for their space.
        gate = Gate(self._engine) if fate == "paused" else None
        options = GenerationOptions(
            priority=dice.randrange(2),
            deadline_s=dice.choice([None, 1.0]),
            set_up=own_processors if dice.random() < 0.2 else None,
        )
        generation = self._engine.submit(
            on_progress=listener,
            deterministic=dice.random() < 0.1,
            loras=self._loras[seed],
            options=options,
            **wish(seed, **({"callback_on_step_end": fail} if fate == "failed" else {})),
        )
        if listener is not None:
            listener.watch(generation)
        if fate == "cancelled" and dice.random() < 0.5:
            generation.cancel()
        if gate is not None:
            generation.pause()
            gate.open()
        return fate, seed, generation, listener

    def _end(self, fate, seed, generation, listener):
        """What goes on in its place, if anything."""
        if fate == "cancelled":
            generation.cancel()
        if fate == "paused":
            generation.resume()
            return [("made", seed, generation, None)]
        if fate == "resumed":
            return [("made", seed, self._resumed(seed, generation, listener), None)]
        try:
            images = generation.result(60).images
        except Cancelled:
            self.ended["cancelled"] += 1
        except ZeroDivisionError:
            self.ended["failed"] += 1
        else:
            self.ended["made"] += 1
            assert (images - self._expected[seed]).abs().max() <= 1e-4
        return []

    def _resumed(self, seed, generation, listener):
        """Another that goes on from its first step."""
        generation.result(60)
        state = listener.asked.result(60).to_bytes()
        self.ended["resumed"] += 1
        return self._engine.submit(snapshot=state, loras=self._loras[seed], **wish(seed))


def alive(kind):
    gc.collect()
    return sum(issubclass(type(instance), kind) for instance in gc.get_objects())


@contextmanager
def crowd_of(folder):
    """A crowd in an engine with room for few LoRAs at a time; at the end, what an engine leaves
    behind is looked at."""
    pipeline = tiny_flux()
    files = [save_lora(folder, pipeline, seed) for seed in range(3)]
    files[1] = with_encoders(files[1], pipeline, 1, folder)
    room_for_two = files[0].stat().st_size + files[1].stat().st_size
    loras = [[Lora(files[seed], 0.5)] if seed < len(files) else [] for seed in range(SEEDS)]
    plain = pipeline(**wish(3)).images
    before = lies_on(pipeline)
    with Engine(pipeline, threads=1) as engine:
        alone = [
            engine.submit(loras=lora_list, **wish(seed)) for seed, lora_list in enumerate(loras)
        ]
        expected = [generation.result(60).images for generation in alone]
    # All that can be merged is merged: whether it gains something depends on what else runs here.
    options = {"max_batch": 4, "max_generations": 6, "limit_rows": False}
    with Engine(pipeline, threads=1, lora_bytes=room_for_two, **options) as engine:
        crowd = Crowd(engine, expected, loras)
        yield crowd
        counts = engine.counts()
    assert counts["merged_calls"] > counts["single_calls"]
    assert counts["trial_forwards"] == 0
    assert torch.equal(pipeline(**wish(3)).images, plain)
    for changed in (pipeline.transformer, pipeline.text_encoder):
        assert not any(isinstance(module, LoraLayer) for module in changed.modules())
    assert changes(before, lies_on(pipeline)) == set()


def left_over():
    """Tensors and greenlets that are alive."""
    return alive(torch.Tensor), alive(greenlet)
