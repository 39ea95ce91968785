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
        evict_last=st.booleans(),
    ),
    max_size=8,
)
sizes = st.integers(0, 300)


@given(residents, sizes, sizes)
def test_none_in_use_goes_and_what_comes_fits(residents, coming, budget):
    evicted = choose_victims(residents, coming, budget)
    if evicted is None:
        in_use = sum(resident.size for resident in residents if resident.users)
        assert in_use + coming > budget
        return
    assert all(resident.users == 0 for resident in evicted)
    stays = sum(resident.size for resident in residents) - sum(
        resident.size for resident in evicted
    )
    assert stays + coming <= budget


@given(residents, sizes, sizes)
def test_none_goes_without_need_nor_before_one_unused_for_longer(residents, coming, budget):
    evicted = choose_victims(residents, coming, budget) or ()
    stayed = [resident for resident in residents if resident.users == 0 and resident not in evicted]
    if evicted:
        without_the_last = sum(resident.size for resident in residents) - sum(
            resident.size for resident in evicted[:-1]
        )
        assert without_the_last + coming > budget
        rank = (evicted[-1].evict_last, evicted[-1].last_used)
        assert all(rank <= (resident.evict_last, resident.last_used) for resident in stayed)


@given(residents, sizes, sizes)
def test_kept_ones_never_go_for_a_spare_load_and_for_a_request_only_if_all_others_did(
    residents, coming, budget
):
    spare = choose_victims(residents, coming, budget, spare=True)
    assert not any(resident.evict_last for resident in spare or ())
    needed = choose_victims(residents, coming, budget)
    if needed is not None and any(resident.evict_last for resident in needed):
        assert spare is None
