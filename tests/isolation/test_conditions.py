from __future__ import annotations

import pytest

from tests.isolation.conditions import without_one


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT 1 FROM a WHERE tenant = %(tenant)s", ["SELECT 1 FROM a WHERE true"]),
        ("UPDATE a SET tenant = %(tenant)s WHERE id = 1", []),
        ("UPDATE a SET x = 1, tenant = %(tenant)s", []),
        (
            "SELECT 1 FROM a JOIN b ON b.tenant = a.tenant WHERE a.tenant = ANY(%(tenants)s)",
            ["SELECT 1 FROM a JOIN b ON b.tenant = a.tenant WHERE true"],
        ),
        ("SELECT 1 FROM a WHERE of_tenant = %(tenant)s", []),
    ],
)
def test_each_condition_is_removed_in_turn(statement: str, expected: list[str]) -> None:
    assert [*without_one(statement)] == expected
