"""Weaving and taking apart are inverse, whatever the arguments look like."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deployments.engine.interception.model_traits import KNOWN
from deployments.engine.interception.proxy import ComponentCall
from deployments.engine.merging.arguments import ContentDigests, bind
from deployments.engine.merging.plan import NotMergeable, plan_merge
from deployments.engine.merging.stack import CannotSplit, Splitter, stack

pytestmark = pytest.mark.engine

GENERATIONS = st.integers(2, 4)
ROWS = st.integers(1, 3)


@dataclass
class Output:
    sample: torch.Tensor
    residuals: tuple


class Takes(torch.nn.Module):
    """Has the signature of a denoiser."""

    def forward(
        self,
        hidden_states,
        timestep=None,
        encoder_hidden_states=None,
        image_rotary_emb=None,
        added_cond_kwargs=None,
        controls=None,
        scale=1.0,
        **more,
    ):
        raise NotImplementedError


def plan(*arguments, module=None, **keywords):
    module = module or Takes()
    return plan_merge(
        ComponentCall(module, arguments, keywords), ContentDigests(), KNOWN.of(type(module))
    )


def numbers(*shape):
    return torch.randn(shape)


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and all(map(equal, one, other))
    return one == other


trees = st.recursive(
    st.lists(st.integers(1, 3), max_size=3).map(tuple),  # the shape after the rows
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.lists(inner, min_size=1, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3)
    ),
    max_leaves=6,
)


def fill_tree(tree, rows):
    """Random tensors in the place of shapes."""
    if isinstance(tree, tuple) and all(isinstance(side, int) for side in tree):
        return numbers(rows, *tree)
    if isinstance(tree, dict):
        return {key: fill_tree(branch, rows) for key, branch in tree.items()}
    return type(tree)(fill_tree(branch, rows) for branch in tree)


@given(trees, GENERATIONS, ROWS)
def test_what_is_woven_comes_apart_as_it_was(tree, generations, rows):
    given_ = [(numbers(rows, 4), fill_tree(tree, rows)) for _ in range(generations)]
    plans = [plan(main, added_cond_kwargs=more) for main, more in given_]
    assert len({call_plan.signature for call_plan in plans}) == 1
    parts = Splitter.of(plans).split(tuple(stack(plans).named.values()))
    for original, part in zip(given_, parts, strict=True):
        assert equal(original, part)


@given(GENERATIONS, ROWS, st.integers(2, 4))
def test_what_has_frames_folded_into_its_rows_comes_apart_as_it_was(generations, rows, frames):
    given_ = [
        (numbers(rows, 4, frames, 2, 2), numbers(rows * frames, 3)) for _ in range(generations)
    ]
    plans = [plan(main, encoder_hidden_states=text) for main, text in given_]
    together = stack(plans).named
    assert together["encoder_hidden_states"].shape[0] == generations * rows * frames
    for original, part in zip(
        given_, Splitter.of(plans).split(tuple(together.values())), strict=True
    ):
        assert equal(original, part)


@given(GENERATIONS, ROWS)
def test_lists_with_one_tensor_per_row_come_apart_as_they_were(generations, rows):
    given_ = [[numbers(3, 2) for _ in range(rows)] for _ in range(generations)]
    plans = [plan(sample) for sample in given_]
    together = stack(plans).named["hidden_states"]
    assert len(together) == generations * rows
    assert equal(given_, Splitter.of(plans).split(together))


def test_rows_are_woven_sample_by_sample():
    first, two = torch.tensor([[1.0], [2.0]]), torch.tensor([[10.0], [20.0]])
    assert stack([plan(first), plan(two)]).named["hidden_states"].flatten().tolist() == [
        1,
        10,
        2,
        20,
    ]


def test_a_dataclass_comes_apart_as_dataclasses():
    plans = [plan(numbers(1, 2)), plan(numbers(1, 2))]
    sample, residual = numbers(2, 3), numbers(2, 5)
    first, two = Splitter.of(plans).split(Output(sample, (residual, None)))
    assert torch.equal(first.sample, sample[:1])
    assert torch.equal(two.residuals[0], residual[1:])
    assert two.residuals[1] is None


@pytest.mark.parametrize("timesteps", [(3, 7), (0.5, 0.25), (torch.tensor(3), torch.tensor(7))])
def test_timesteps_become_a_vector_with_one_entry_per_row(timesteps):
    plans = [plan(numbers(2, 4), timestep) for timestep in timesteps]
    assert len({call_plan.signature for call_plan in plans}) == 1
    first, two = timesteps
    vector = stack(plans).named["timestep"]
    assert vector.tolist() == [first, two, first, two]
    assert (
        vector.dtype == torch.as_tensor(first, dtype=torch.float64 if first == 0.5 else None).dtype
    )


def test_one_entry_for_all_rows_is_given_to_each():
    plans = [plan(numbers(2, 4), encoder_hidden_states=torch.full((1, 1), n)) for n in (1.0, 2.0)]
    assert stack(plans).named["encoder_hidden_states"].flatten().tolist() == [1, 2, 1, 2]


def may_merge(one, other):
    return (one.signature, one.contents) == (other.signature, other.contents)


def test_positions_are_shared_where_they_are_equal_and_kept_apart_where_not():
    here, there = torch.arange(6.0).reshape(3, 2), torch.arange(6.0).reshape(3, 2) + 1
    first, same, other = (
        plan(numbers(1, 4), image_rotary_emb=(positions, positions.clone()))
        for positions in (here, here.clone(), there)
    )
    assert may_merge(first, same)
    assert not may_merge(first, other)
    assert equal(stack([first, same]).named["image_rotary_emb"], (here, here))


def test_positions_with_rows_must_be_equal_too():
    here, there = torch.zeros(1, 3, 2), torch.ones(1, 3, 2)
    first, same, other = (
        plan(numbers(1, 4), image_rotary_emb=positions) for positions in (here, here, there)
    )
    assert may_merge(first, same)
    assert not may_merge(first, other)
    assert stack([first, same]).named["image_rotary_emb"].shape == (2, 3, 2)


def test_positions_that_were_written_to_are_looked_at_again():
    digests, positions = ContentDigests(), torch.zeros(3, 2)
    before = digests.of(positions)
    assert digests.of(positions) == before
    positions += 1
    assert digests.of(positions) != before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"scale": 1.0}, {"scale": 0.5}),
        ({"scale": 1.0}, {"scale": 1}),
        ({"scale": True}, {"scale": 1}),
        ({"scale": None}, {}),
        ({"controls": [None]}, {"controls": [None, None]}),
        ({"timestep": 1}, {"timestep": 1.0}),
        (
            {"encoder_hidden_states": torch.zeros(1, 3)},
            {"encoder_hidden_states": torch.zeros(1, 4)},
        ),
        ({"more": torch.zeros(1, 3)}, {"more": torch.zeros(1, 3, dtype=torch.float16)}),
        ({"added_cond_kwargs": {"a": 1}}, {"added_cond_kwargs": {"b": 1}}),
    ],
)
def test_calls_that_differ_otherwise_are_kept_apart(one, other):
    main = numbers(1, 4)
    assert not may_merge(plan(main, **one), plan(main, **other))
    assert may_merge(plan(main, **one), plan(numbers(1, 4), **one))


def test_another_number_of_rows_is_kept_apart():
    assert not may_merge(plan(numbers(1, 4)), plan(numbers(2, 4)))


@pytest.mark.parametrize(
    "opaque", [object(), torch.Generator(), {1, 2}, iter(()), torch.Size((1,))]
)
def test_what_cannot_be_compared_is_refused(opaque):
    with pytest.raises(NotMergeable, match="opaque"):
        plan(numbers(1, 4), controls=[opaque])


@pytest.mark.parametrize("main", [None, 3, torch.tensor(1.0), [], [1], torch.zeros(0, 3)])
def test_a_call_without_rows_is_refused(main):
    with pytest.raises(NotMergeable):
        plan(main)


def test_arguments_that_the_module_does_not_take_are_refused():
    with pytest.raises(NotMergeable):
        plan_merge(ComponentCall(torch.nn.Identity(), (numbers(1, 2), 3), {}), ContentDigests())


@pytest.mark.parametrize(
    "output", [torch.zeros(3, 2), torch.tensor(1.0), object(), (torch.zeros(5),)]
)
def test_an_output_without_the_rows_cannot_come_apart(output):
    plans = [plan(numbers(1, 2)), plan(numbers(1, 2))]
    with pytest.raises(CannotSplit):
        Splitter.of(plans).split(output)


class Wrapped(torch.nn.Module):
    """Looks for one argument among the keywords, as diffusers' wrapper for LoRA scales does."""

    def forward(self, hidden_states, timestep=None, scale=1.0, *rest, **more):
        return hidden_states, timestep, scale, rest, more

    def __call__(self, *places, **keywords):
        return len(places), sorted(keywords), super().__call__(*places, **keywords)


@pytest.mark.parametrize(
    ("places", "keywords"),
    [
        ((), {"hidden_states": 0, "timestep": 1, "scale": 2.0}),
        ((0,), {"scale": 2.0}),
        ((0, 1), {"other": 3}),
        ((0, 1, 2.0, 4, 5), {"other": 3}),
    ],
)
def test_arguments_are_given_by_place_or_by_name_as_they_were(places, keywords):
    assert bind(Wrapped(), places, keywords).call(Wrapped()) == Wrapped()(*places, **keywords)


class QwenImageTransformer2DModel(torch.nn.Module):
    """Has the name and arguments of the one whose mask allows for padding."""

    def forward(self, hidden_states, encoder_hidden_states, encoder_hidden_states_mask, img_shapes):
        raise NotImplementedError


def test_prompts_of_other_lengths_are_padded_where_the_model_honours_a_mask():
    def qwen(length, mask=None):
        return plan(
            numbers(1, 4, 2),
            torch.ones(1, length, 2),
            mask,
            [[(1, 2, 2)]],
            module=QwenImageTransformer2DModel(),
        )

    plans = [qwen(2), qwen(3), qwen(4, torch.tensor([[True, True, True, False]]))]
    assert may_merge(plans[0], plans[1])
    assert may_merge(plans[0], plans[2])
    named = stack(plans).named
    assert named["encoder_hidden_states"].sum((1, 2)).tolist() == [4, 6, 8]
    assert named["encoder_hidden_states_mask"].sum(1).tolist() == [2, 3, 3]
    assert named["img_shapes"] == [[(1, 2, 2)]] * 3
    assert stack([qwen(2), qwen(2)]).named["encoder_hidden_states_mask"] is None
