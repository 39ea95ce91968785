"""A sample of all pipeline classes; `scripts/conformance` runs them all."""

import pytest

from deployments.engine.engine import Engine
from serve_app.domain.progress import Stage
from tests.engine.conformance import classes
from tests.engine.conformance.case import WISHES
from tests.engine.conformance.checks import examine
from tests.engine.conformance.sample import ALWAYS, sample
from tests.engine.conformance.zoo import cases

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


@pytest.mark.variants(1)
def test_a_pipeline_gives_the_same_in_the_engine_alone_beside_a_cancelled_one_and_together(case):
    assert examine(case).wrong == []


@pytest.mark.long
def test_every_case_is_a_class_that_diffusers_exports():
    assert {case.name for case in cases().values()} <= classes.pipeline_classes().keys()


def test_a_sample_is_repeated_by_its_seed_and_holds_the_big_families():
    everything = list(cases().values())
    chosen = sample(everything, seed=7, size=12)
    assert chosen == sample(everything, seed=7, size=12)
    assert chosen != sample(everything, seed=8, size=12)
    assert len(chosen) == 12
    assert {*ALWAYS} <= {case.family for case in chosen}


def test_the_wishes_differ_in_all_but_the_length_of_their_prompts():
    assert len({wish.seed for wish in WISHES}) == len({wish.steps for wish in WISHES}) == 3
    assert len({wish.prompt for wish in WISHES}) == 3
    assert len({tuple(map(len, wish.prompt.split())) for wish in WISHES}) == 1


@pytest.mark.long
@pytest.mark.parametrize(
    "title",
    ["SkyReelsV2DiffusionForcingPipeline", "LTX2Pipeline", "WanPipeline, one expert"],
)
def test_steps_are_counted_whether_a_solver_or_copies_of_it_take_them(title):
    case, wish = cases()[title], WISHES[0]
    reported = []
    with Engine(case.build(), threads=1) as engine:
        generation = engine.submit(on_progress=reported.append, **case.arguments(wish))
        generation.result(60)
    assert generation.steps_done == wish.steps
    denoising = [report for report in reported if report.stage is Stage.DENOISING]
    assert [report.step for report in denoising] == list(range(wish.steps + 1))
    assert {report.steps for report in denoising} == {wish.steps}
