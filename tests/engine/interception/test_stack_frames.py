"""Local variables of frames: what is read stays nowhere, and what others keep stays theirs."""

import sys
import weakref

import pytest
import torch

from deployments.engine.interception.stack_frames import read, write

pytestmark = pytest.mark.engine


def test_a_variable_that_was_read_lives_no_longer_for_that():
    """Of a step's prediction and latents, up to gigabytes of a video."""
    prediction = torch.zeros(1)
    alive = weakref.ref(prediction)
    assert read(sys._getframe())["prediction"] is prediction
    prediction = None
    assert alive() is None


@pytest.mark.long
def test_nor_after_a_failed_compilation():
    """Then torch evaluates all frames of the process, and calls keep their arguments for longer."""

    def refuses(_graph, _inputs):
        raise NotImplementedError

    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed):
        torch.compile(lambda x: x + 1, backend=refuses)(torch.ones(2))
    prediction = torch.zeros(1)
    alive = weakref.ref(prediction)
    assert read(sys._getframe())["prediction"] is prediction
    prediction = None
    assert alive() is None


def test_a_variable_that_was_written_lives_no_longer_for_that():
    prediction = None
    alive = [write(sys._getframe(), {"prediction": torch.zeros(1)}), weakref.ref(prediction)]
    assert isinstance(prediction, torch.Tensor)
    prediction = None
    assert alive[1]() is None


def test_what_code_keeps_of_its_variables_itself_stays():
    kept = locals()
    value = 1
    assert read(sys._getframe())["value"] == value
    assert "kept" in kept


def test_the_variables_of_a_class_body_stay():
    class Body:
        value = 1
        variables = read(sys._getframe())
        same = value

    assert Body.same == Body.variables["value"] == 1
