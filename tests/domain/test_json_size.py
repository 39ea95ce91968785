from __future__ import annotations

from collections.abc import Iterator, Mapping

from serve_app.domain.json_size import JsonRoom


class Unread(Mapping[str, int]):
    """An object of many fields, none of which may be looked at."""

    def __getitem__(self, name: str) -> int:
        raise AssertionError(name)

    def __iter__(self) -> Iterator[str]:
        raise AssertionError

    def __len__(self) -> int:
        return 1_000_000


def test_an_object_of_more_fields_than_there_is_room_is_not_read() -> None:
    assert not JsonRoom(bytes=1000, values=1000).take(Unread())


def test_a_list_of_more_items_than_there_is_room_is_not_copied() -> None:
    room = JsonRoom(bytes=1 << 30, values=1000)
    assert not room.take([0] * 1_000_000)
    assert room.values > 0
