"""Sentences about what an endpoint's own model takes on a machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_app.domain.endpoint import Recipe, WorkLimit
from serve_app.domain.preflight import (
    NOTHING,
    SPARE_BYTES,
    Download,
    HubState,
    MachineFacts,
    Needs,
    Preflight,
    Server,
    summary,
)

GB = 10**9
RECIPES = (
    Recipe(12, "float8", "blocks", ("vae",)),
    Recipe(24, "bfloat16", hot=("vae",), largest=WorkLimit(4.2)),
)
MACHINE = MachineFacts(24 * GB, 64 * GB, 500 * GB)
HERE = Download(30 * GB, 0, HubState.NOT_NEEDED)
TO_COME = Download(30 * GB, 30 * GB, HubState.GIVES)
FLUX = Preflight(
    endpoint_id="house/flux",
    name="Flux",
    kind="image",
    licence="Apache-2.0",
    server=Server.REAL,
    reason="",
    machine=MACHINE,
    needs=Needs(RECIPES, weights_bytes=34 * GB),
    download=HERE,
    pull="darkroom models pull house/flux",
)


def on(**changes: object) -> Preflight:
    return replace(FLUX, **changes)


def test_what_is_here_and_fits_needs_nothing() -> None:
    facts = FLUX.sentences()
    assert facts["served"] == "yes, the real model"
    assert facts["fits"] == "yes: bfloat16 (for 24 GB; this GPU has 24); at most 4.2 megapixels"
    assert facts["download"] == "30.0 GB, all downloaded"
    assert facts["time"] == "unknown until it has run here"
    assert not {"access", "next"} & {*facts}


def test_packages_that_are_not_installed_are_named_with_the_command_that_installs_them() -> None:
    facts = on(needs=replace(FLUX.needs, packages=("cosmos_guardrail", "cv2"))).sentences()
    command = "`pip install cosmos_guardrail opencv-python` where replicas run"
    assert "it needs cosmos_guardrail, cv2, which this machine's Python" in facts["packages"]
    assert command in facts["packages"]
    assert facts["next"] == command


@pytest.mark.parametrize(
    ("machine", "fits", "words"),
    [
        (MachineFacts(12 * GB), True, "yes: float8, offload blocks (for 12 GB; this GPU has 12)"),
        (
            MachineFacts(8 * GB),
            False,
            "no: it needs a GPU with 12 GB or more, and this one has 8 GB",
        ),
        (
            MachineFacts(0),
            False,
            "no: it needs a GPU with 12 GB or more, and this machine has none",
        ),
        (MachineFacts(None), None, "no replica has named its GPU yet"),
        (
            MachineFacts(12 * GB, 16 * GB),
            False,
            "take 17.0 GB of the machine's memory, which is 16.0",
        ),
    ],
)
def test_whether_it_fits_is_said_with_both_figures(
    machine: MachineFacts, fits: bool | None, words: str
) -> None:
    assert on(machine=machine).fits is fits
    assert words in on(machine=machine).sentences()["fits"]


def test_a_download_that_the_disk_cannot_take_does_not_fit() -> None:
    full = replace(MACHINE, free_bytes=20 * GB)
    preflight = on(machine=full, download=TO_COME)
    assert preflight.fits is False
    assert preflight.lacking_bytes == 10 * GB + SPARE_BYTES
    assert "DARKROOM_WEIGHTS_DIR" in preflight.next
    assert on(machine=full).fits, "nothing has to be downloaded"
    unknown = Download(30 * GB, None, HubState.NOT_ASKED, "estimate")
    assert on(machine=full, download=unknown).fits is False


def test_without_recipes_nothing_is_promised() -> None:
    assert on(needs=Needs()).fits is None
    assert on(needs=Needs()).sentences()["fits"].startswith("unknown: ")
    for device in (0, None):  # it needs no GPU, whichever there is
        assert on(needs=Needs(RECIPES, runs_on_cpu=True), machine=MachineFacts(device)).fits


@pytest.mark.parametrize(
    ("download", "access", "then"),
    [
        (TO_COME, "the hub gives it", "`darkroom models pull house/flux` downloads it now"),
        (replace(TO_COME, source=HubState.OFFLINE), "not asked: this machine", "copy its weights"),
        (
            Download(None, None, HubState.REFUSES, "unknown", True, "It is gated."),
            "It is gated.",
            "see to the access",
        ),
        (
            Download(None, None, HubState.UNREACHABLE, "unknown", None, "No answer."),
            "the hub cannot be reached from here",
            "check the network, HTTPS_PROXY and HF_ENDPOINT",
        ),
    ],
)
def test_the_way_to_the_weights_is_said_with_what_to_do(
    download: Download, access: str, then: str
) -> None:
    facts = on(download=download).sentences()
    assert facts["access"].startswith(access)
    assert facts["next"].startswith(then)


def test_a_demo_says_what_stands_in_the_way_of_the_real_model() -> None:
    demo = on(server=Server.DEMO, download=TO_COME)
    assert demo.sentences()["served"] == "a tiny demo model in place of Flux"
    assert demo.next == "set DARKROOM_DEMO=false to serve the real model"
    assert replace(demo, machine=MachineFacts(0)).next.startswith("serve it on a larger machine")


def test_several_repositories_are_one_download_and_what_is_not_known_stays_so() -> None:
    refused = Download(None, None, HubState.REFUSES, "unknown", True, "It is gated.")
    both = Download.together([TO_COME, refused])
    assert (both.total_bytes, both.missing_bytes, both.source) == (None, None, HubState.REFUSES)
    assert (both.gated, both.problem) == (True, "It is gated.")
    assert Download.together([]) is NOTHING
    download = Download.together([HERE, TO_COME])
    assert (download.total_bytes, download.missing_bytes, download.source) == (
        60 * GB,
        30 * GB,
        HubState.GIVES,
    )


def test_sizes_name_where_they_are_from() -> None:
    assert Download(None, None, HubState.NOT_ASKED, "unknown").text() == "size unknown"
    told = Download(30 * GB, None, HubState.NOT_ASKED, "entry")
    assert told.text() == "about 30.0 GB"
    assert replace(told, basis="estimate").text() == "about 30.0 GB (estimated)"
    assert NOTHING.text() == "nothing"
    assert TO_COME.text() == "30.0 GB to download"
    assert replace(TO_COME, missing_bytes=GB).text() == "1.0 GB to download, of 30.0 GB"


def test_all_together_are_counted() -> None:
    assert summary([FLUX]) == "the only one fits this machine"
    assert summary([FLUX, FLUX]) == "all 2 fit this machine"
    small = replace(FLUX, endpoint_id="house/small", needs=Needs(RECIPES, runs_on_cpu=True))
    sentence = summary([replace(preflight, machine=MachineFacts(0)) for preflight in (FLUX, small)])
    assert sentence.startswith(
        "1 of 2 fit this machine (house/small); the smallest GPU that serves one has 12 GB"
    )
    assert "not known of 1 (house/flux)" in summary([replace(FLUX, machine=MachineFacts(None))])
    assert summary([on(pull="")]) == "no endpoint uses weights of the hub"
