"""Expected cost of requests, learned from finished ones."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.catalog.work import work_of
from serve_app.queue.fairness.cost_model import DEFAULT_S, Fit, expected_s

POSITIVE = st.floats(min_value=1e-3, max_value=1e4)


def learn(*samples: tuple[float, float], fit: Fit | None = None) -> Fit:
    fit = fit or Fit()
    for work, seconds in samples:
        fit = fit.learn(work, seconds)
    return fit


def test_one_request_says_what_one_of_twice_the_work_takes() -> None:
    fit = learn((20.0, 2.0))
    assert fit.expect(20.0) == pytest.approx(2.0)
    assert fit.expect(40.0) == pytest.approx(4.0)


def test_fixed_cost_is_distinguished_from_cost_by_work() -> None:
    works = [4.0, 20.0, 50.0, 28.0] * 15
    fit = learn(*((work, 3.0 + 0.1 * work) for work in works))
    assert fit.expect(4.0) == pytest.approx(3.4, rel=0.1)
    assert fit.expect(50.0) == pytest.approx(8.0, rel=0.1)


def test_a_first_request_that_loaded_weights_is_forgotten_soon() -> None:
    fit = learn((20.0, 60.0), *[(20.0, 2.0)] * 6)
    assert fit.expect(20.0) == pytest.approx(2.0, rel=0.25)


def test_one_that_loaded_weights_among_many_hardly_counts() -> None:
    fit = learn(*[(20.0, 2.0)] * 50, (20.0, 90.0))
    assert fit.expect(20.0) == pytest.approx(2.0, rel=0.1)


def test_a_slower_machine_is_learned_within_some_dozens() -> None:
    fit = learn(*[(20.0, 2.0)] * 50)
    fit = learn(*[(20.0, 6.0)] * 80, fit=fit)
    assert fit.expect(20.0) == pytest.approx(6.0, rel=0.25)


def test_noise_is_averaged() -> None:
    dice = random.Random(7)  # noqa: S311 nothing secret
    fit = learn(*((20.0, 2.0 * dice.uniform(0.7, 1.3)) for _ in range(100)))
    assert fit.expect(20.0) == pytest.approx(2.0, rel=0.1)


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=30), POSITIVE)
def test_what_is_expected_is_positive_and_more_work_never_takes_less(
    samples: list[tuple[float, float]], work: float
) -> None:
    fit = learn(*samples)
    assert 0 < fit.expect(work) <= fit.expect(2 * work) * (1 + 1e-9)


def test_an_unknown_endpoint_is_expected_to_take_as_the_pool_s_others() -> None:
    fits = {("a", "studio"): learn((1.0, 4.0)), ("b", "other"): learn((1.0, 90.0))}
    assert expected_s(fits, "new", "studio", 1.0) == pytest.approx(4.0)
    assert expected_s(fits, "new", "nowhere", 1.0) == DEFAULT_S


def test_work_is_steps_times_megapixels_times_images() -> None:
    size = {"width": 1000, "height": 500}
    given_ = {"num_inference_steps": 20, "image_size": size, "num_images": 3, "seed": 5}
    assert work_of(given_) == pytest.approx(30.0)
    assert work_of({"prompt": "x"}) == 1.0
    assert work_of({"width": 2000, "height": 1000, "num_inference_steps": None}) == 2.0


def test_a_video_is_as_much_work_as_its_frames_in_their_resolution() -> None:
    video = {"num_inference_steps": 10, "resolution": "720p", "num_frames": 81}
    assert work_of(video) == pytest.approx(10 * 81 * 0.9216)
    assert work_of({**video, "resolution": "480p"}) == pytest.approx(10 * 81 * 0.4096)
    assert work_of({**video, "num_frames": "81"}) == work_of(video)
    seconds = {"duration": "6", "fps": "25", "resolution": "1080p"}
    assert work_of(seconds) == pytest.approx(150 * 2.0736)
    assert work_of({"resolution": "auto", "duration": "auto"}) == 1.0
