"""Splitting of a request with several outputs, and merging of the products."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.families.base import Product
from deployments.families.multi_output import merge, seeds_of, split
from deployments.transfer.uploader import MediaFile
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.lease import Lease
from serve_app.domain.request import Priority

ENDPOINT = Endpoint("house/any", "any", Weights("any"), "any")


def make_lease(tickets: int, *, alone: bool = False, **input: Any) -> Lease:
    upload_tickets = tuple(
        UploadTicket(f"{n}", f"http://s/{n}", "image/png", 10) for n in range(tickets)
    )
    return Lease("one", 1, 5.0, ENDPOINT, input, upload_tickets, Priority.NORMAL, alone=alone)


def test_seeds_are_the_inputs_or_follow_its_seed_or_the_one_for_inputs_without() -> None:
    assert seeds_of({"seeds": [5, 3, 5]}, 9) == [5, 3, 5]
    assert seeds_of({"seed": 4, "num_images": 3}, 9) == [4, 5, 6]
    assert seeds_of({"seed": 0, "num_images": None}, 9) == [0]
    assert seeds_of({"num_images": 2, "seed": None}, 9) == [9, 10]


def test_after_the_greatest_seed_comes_nought() -> None:
    assert seeds_of({"seed": 2**64 - 1, "num_images": 2}, 9) == [2**64 - 1, 0]


def test_images_come_out_of_one_call_and_those_of_seeds_alone_out_of_one_each() -> None:
    arguments: dict[str, Any] = {"prompt": "x", "seeds": [7, 3], "num_images": 2}
    (whole,) = split(make_lease(2, **arguments), 9)
    assert (whole.input, len(whole.tickets)) == (arguments, 2)
    first, second = split(make_lease(2, alone=True, **arguments), 9)
    assert first.input == {"prompt": "x", "seed": 7, "seeds": None, "num_images": 1}
    assert second.input["seed"] == 3
    assert [part.tickets[0].key for part in (first, second)] == ["0", "1"]


def test_images_without_seeds_come_out_of_one_call_alone_too() -> None:
    arguments: dict[str, Any] = {"num_images": 4, "seed": 1}
    (whole,) = split(make_lease(4, alone=True, **arguments), 9)
    assert (whole.input, len(whole.tickets)) == (arguments, 4)


def test_images_that_were_together_are_again() -> None:
    arguments: dict[str, Any] = {"num_images": 2, "seeds": [1, 2]}
    assert len(split(make_lease(2, alone=True, **arguments), 9, together=True)) == 1


def test_each_video_is_a_call_with_its_own_tickets() -> None:
    parts = split(make_lease(4, seeds=[7, 3]), 9)
    assert [part.input["seed"] for part in parts] == [7, 3]
    assert [[ticket.key for ticket in part.tickets] for part in parts] == [["0", "1"], ["2", "3"]]


@pytest.mark.parametrize("input", [{}, {"seed": 3}, {"seed": 3, "num_images": 1}])
def test_a_single_one_is_what_was_asked_for(input: dict[str, Any]) -> None:
    (only,) = split(make_lease(1, alone=True, **input), 9)
    assert only.input == input


def test_lists_are_lined_up_and_files_that_stand_alone_are_listed_beside_the_first() -> None:
    def product(name: str, seconds: float) -> Product:
        ticket = UploadTicket(name, "http://s", "video/mp4", 10)
        output = {
            "video": {"artifact": name},
            "flags": [name],
            "seed": 1,
            "timings": {"inference": seconds},
        }
        return Product(output, [MediaFile(ticket, b"")], units=2.0)

    both = merge([product("a", 1.0), product("b", 0.5)], [1, 2])
    assert both.output == {
        "video": {"artifact": "a"},
        "videos": [{"artifact": "a"}, {"artifact": "b"}],
        "flags": ["a", "b"],
        "seed": 1,
        "seeds": [1, 2],
        "timings": {"inference": 1.5},
    }
    assert [file.ticket.key for file in both.files] == ["a", "b"]
    assert both.units == 4.0


def test_one_without_seeds_stays_as_it_is() -> None:
    alone = Product({"images": [{"artifact": "a"}], "image": {"artifact": "a"}}, (), 1.0)
    assert merge([alone], None).output == alone.output
