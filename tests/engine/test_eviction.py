"""What goes so that others fit, as properties."""

from hypothesis import given
from hypothesis import strategies as st

from deployments.engine.eviction import Resident, choose_victims

residents = st.lists(
    st.builds(
        Resident,
        name=st.uuids().map(str),
        size=st.integers(0, 100),
        users=st.integers(0, 2),
        last_used=st.integers(0, 9),
    ),
    max_size=8,
)
sizes = st.integers(0, 300)


@given(residents, sizes, sizes)
def test_none_in_use_goes_and_what_comes_fits(residents, coming, budget):
    evicted = choose_victims(residents, coming, budget)
    if evicted is None:
        in_use = sum(each.size for each in residents if each.users)
        assert in_use + coming > budget
        return
    assert all(each.users == 0 for each in evicted)
    kept = sum(each.size for each in residents) - sum(each.size for each in evicted)
    assert kept + coming <= budget


@given(residents, sizes, sizes)
def test_none_goes_without_need_nor_before_one_unused_for_longer(residents, coming, budget):
    evicted = choose_victims(residents, coming, budget) or ()
    stayed = [each for each in residents if each.users == 0 and each not in evicted]
    if evicted:
        without_the_last = sum(each.size for each in residents) - sum(
            each.size for each in evicted[:-1]
        )
        assert without_the_last + coming > budget
        assert all(evicted[-1].last_used <= each.last_used for each in stayed)
