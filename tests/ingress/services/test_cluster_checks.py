"""An installation with data on one machine refuses a second node."""

import pytest

from serve_app.domain.errors import Misconfigured
from serve_app.ingress.services.health import SingleNodeCheck


@pytest.mark.parametrize(
    ("database", "storage", "settings"),
    [
        (True, False, ["DARKROOM_DATABASE_URL"]),
        (False, True, ["DARKROOM_S3_BUCKET"]),
        (True, True, ["DARKROOM_DATABASE_URL", "DARKROOM_S3_BUCKET"]),
    ],
)
async def test_a_second_node_is_refused_with_the_setting_to_set(
    database: bool, storage: bool, settings: list[str]
) -> None:
    with pytest.raises(Misconfigured, match="2 nodes") as refused:
        await SingleNodeCheck(database=database, storage=storage, nodes=lambda: ["a", "b"]).check()
    assert all(setting in refused.value.message for setting in settings)


async def test_one_node_is_enough_for_everything() -> None:
    await SingleNodeCheck(database=True, storage=True, nodes=lambda: ["a"]).check()


async def test_what_is_kept_elsewhere_may_have_any_number_of_nodes() -> None:
    await SingleNodeCheck(database=False, storage=False, nodes=lambda: ["a", "b", "c"]).check()
