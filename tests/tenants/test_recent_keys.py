from __future__ import annotations

from serve_app.tenants.recent_keys import RecentKeys


def test_a_value_is_kept_for_its_time() -> None:
    recent: RecentKeys[int] = RecentKeys(10, keep_s=5)
    recent.put("a", 1, now=0)
    assert recent.get("a", now=4.9) == 1
    assert recent.get("a", now=5) is None
    assert len(recent) == 0


def test_the_least_recently_used_goes_first() -> None:
    recent: RecentKeys[int] = RecentKeys(2, keep_s=5)
    recent.put("a", 1, now=0)
    recent.put("b", 2, now=0)
    recent.get("a", now=1)
    recent.put("c", 3, now=1)
    assert [recent.get(name, now=1) for name in "abc"] == [1, None, 3]


def test_what_is_dropped_is_gone() -> None:
    recent: RecentKeys[int] = RecentKeys(2, keep_s=5)
    recent.put("a", 1, now=0)
    recent.drop("a")
    recent.drop("a")
    assert recent.get("a", now=0) is None
