"""What a replica says of the weights that it loads."""

from serve_app.domain.progress import (
    MAX_STEPS,
    Loading,
    Progress,
    Stage,
    describe,
    from_plain,
    to_plain,
)

FLUX = ("fal-ai/flux/dev",)
COLD = Loading(FLUX, Stage.LOADING, 3_200_000_000, 33_700_000_000)
WARM = Loading(FLUX, Stage.LOADING, warm=True)


def test_a_load_says_where_the_weights_come_from_and_how_far_it_is():
    assert describe([COLD]) == "loading fal-ai/flux/dev from disk, 3.2 of 33.7 GB"
    assert describe([WARM]) == "loading fal-ai/flux/dev from host memory"
    waiting = Loading(FLUX, Stage.LOADING)
    assert describe([waiting]) == "loading fal-ai/flux/dev"


def test_it_crosses_to_the_ingress_and_an_older_version_says_less():
    assert from_plain(to_plain([COLD, WARM])) == (COLD, WARM)
    older = [{name: value for name, value in to_plain([COLD])[0].items() if name != "warm"}]
    assert from_plain(older) == (COLD,)


def test_numbers_of_an_app_that_no_database_stores_are_bounded():
    wild = Progress(Stage.RUNNING, -5, 10**400)
    assert wild.bounded() == Progress(Stage.RUNNING, 0, MAX_STEPS)
    usual = Progress(Stage.RUNNING, 3, 28)
    assert usual.bounded() is usual


def test_the_amount_of_a_stage_is_in_its_own_unit():
    assert Progress(Stage.DENOISING, 3, 28).amount == "3/28"
    assert Progress(Stage.LOADING, 3_200_000_000, 33_700_000_000).amount == "3.2/33.7 GB"
    assert Progress(Stage.COMPILING).amount == ""
