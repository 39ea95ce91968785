"""LoRA cache on disk: which files stay, and which are evicted."""

import pytest

from deployments.transfer.lora_cache import LoraCache
from serve_app.domain.errors import WeightsUnavailable
from tests.fakes.clock import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def cache(tmp_path, clock):
    return LoraCache(tmp_path / "loras", 100, clock.now)


def keep(cache, clock, key, size=40):
    clock.advance(1)
    with cache.part() as part:
        part.write(bytes(size))
        part.flush()
        cache.keep(part, key)
    use(cache, clock, key)


def use(cache, clock, key):
    clock.advance(1)
    file = cache.acquire(key)
    if file is None:
        return False
    file.release()
    return True


def test_what_is_kept_is_found_and_nothing_else(cache, clock, tmp_path):
    assert cache.acquire("a") is None
    keep(cache, clock, "a")
    file = cache.acquire("a")
    assert file.path.read_bytes() == bytes(40)
    assert [path.name for path in (tmp_path / "loras").iterdir()] == ["a.safetensors"]
    assert cache.acquire("b") is None


def test_what_was_unused_for_longest_makes_room(cache, clock):
    keep(cache, clock, "a")
    keep(cache, clock, "b")
    use(cache, clock, "a")
    keep(cache, clock, "c")
    assert [use(cache, clock, key) for key in "abc"] == [True, False, True]


def test_what_is_in_use_stays_also_when_another_process_makes_room(cache, clock, tmp_path):
    keep(cache, clock, "a")
    file = cache.acquire("a")
    other = LoraCache(tmp_path / "loras", 100, clock.now)
    keep(other, clock, "b", 90)
    assert file.path.exists()
    file.release()
    keep(other, clock, "c", 90)
    assert [use(cache, clock, key) for key in "abc"] == [False, False, True]


def test_using_a_file_does_not_look_like_a_change_of_it(cache, clock):
    keep(cache, clock, "a")
    file = cache.acquire("a")
    before = file.path.stat().st_mtime_ns
    use(cache, clock, "a")
    assert file.path.stat().st_mtime_ns == before


def test_a_half_written_file_is_never_found(cache, tmp_path):
    with cache.part() as part:
        part.write(b"half")  # an interrupted download
    assert list((tmp_path / "loras").iterdir()) == []


def test_parts_of_killed_processes_are_removed_and_those_underway_are_not(cache, clock, tmp_path):
    with cache.part() as part:
        left = tmp_path / "loras" / "left.part"
        left.write_bytes(b"half")
        keep(cache, clock, "a")
        assert not left.exists()
        cache.keep(part, "b")
    assert use(cache, clock, "b")


def test_some_of_the_disk_stays_free(tmp_path, clock):
    LoraCache(tmp_path, 100, clock.now, spare_bytes=0).check_space(1)
    with pytest.raises(WeightsUnavailable, match="DARKROOM_ADAPTERS_DIR"):
        LoraCache(tmp_path, 100, clock.now, spare_bytes=2**60).check_space(1)


def test_a_directory_that_cannot_be_written_is_reported_with_the_setting(tmp_path, clock):
    (tmp_path / "file").write_bytes(b"")
    cache = LoraCache(tmp_path / "file", 100, clock.now)
    with pytest.raises(WeightsUnavailable, match="DARKROOM_ADAPTERS_DIR"), cache.part():
        pass
