"""Verdicts about switches, and the table that a run prints last."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gpu.section import sections
from benchmarks.gpu.table import LONGEST, table
from benchmarks.gpu.verdicts import verdicts

ADR = Path(__file__).parents[3] / "docs/adr/0036-the-machine-measures-itself.md"


def done_section(*figures):
    return {"status": "done", "took_s": 1.0, "figures": list(figures)}


def flux(by, s, image="dev", **more):
    return {"image": image, "by": by, "s": s, **more}


def sdxl(by, s, images=1, side=1024, **more):
    return {"by": by, "side": side, "images": images, "s": s, **more}


def attention(kernel, s, *, masked=False):
    return {"of": "FLUX 1024²", "kernel": kernel, "masked": masked, "s": s}


BETTER = {
    "compiled": done_section(flux("as written", 4.4), flux("compiled", 3.2, distance=0.01)),
    "eight_bits": done_section(flux("float8, compiled", 2.0)),
    "graphs": done_section(sdxl("as written", 1.5), sdxl("graphs", 1.2, replays=30)),
    "tests_graphs": done_section({"passed": 20, "names": [], "exit_status": 0}),
    "decode": done_section({"by": "as written", "s": 0.2}, {"by": "compiled", "s": 0.1}),
    "attention": done_section(
        attention("torch's choice", 0.16),
        attention("flash", 0.16),
        attention("cuDNN", 0.12),
        attention("torch's choice", 0.2, masked=True),
        attention("efficient", 0.15, masked=True),
        {"of": "FLUX 1024²", "kernel": "flash", "masked": True, "left_out": "RuntimeError"},
    ),
}


def verdict(switch, **changed):
    return verdicts({**BETTER, **changed})[switch]


def test_what_is_faster_on_this_card_is_on_and_the_figures_that_decide_are_named():
    decided = verdicts(BETTER)
    assert decided.pop("float8-dynamic").verdict == "undecided"
    assert {decision.verdict for decision in decided.values()} == {"on"}
    assert all(len(decision.figures) == 2 for decision in decided.values())
    assert decided["compile"].figures == {"as written, s": 4.4, "compiled, s": 3.2}
    assert "1.38 times as fast" in decided["compile"].reason


def test_products_in_8_bits_are_left_to_the_real_weights_and_off_where_they_are_slower():
    assert "darkroom tune" in verdict("float8-dynamic").reason
    slower = done_section(flux("float8, compiled", 3.1))
    assert verdict("float8-dynamic", eight_bits=slower).verdict == "off"


def test_compiled_blocks_that_draw_something_else_are_off():
    other = done_section(flux("as written", 4.4), flux("compiled", 3.2, distance=0.7))
    assert verdict("compile", compiled=other).verdict == "off"


def test_blocks_that_are_compiled_again_beside_requests_are_off():
    again = done_section(*BETTER["compiled"]["figures"], {"graphs": 4, "compiled_again": 1})
    assert verdict("compile", compiled=again).verdict == "off"


def test_a_compiled_decoder_waits_for_compiled_blocks():
    slow = done_section(flux("as written", 3.2), flux("compiled", 3.2, distance=0.01))
    decided = verdict("compile_decoder", compiled=slow)
    assert (decided.verdict, "which are off" in decided.reason) == ("undecided", True)


def test_graphs_are_undecided_while_their_tests_have_not_passed():
    for tests in ({}, done_section({"failed": 1, "names": ["x"], "exit_status": 1})):
        assert verdict("graphs", tests_graphs=tests).verdict == "undecided"
    none = done_section(sdxl("as written", 1.5), sdxl("graphs", 1.2, replays=0))
    assert verdict("graphs", graphs=none).verdict == "undecided"
    slow = done_section(sdxl("as written", 1.5), sdxl("graphs", 1.49, replays=30))
    assert verdict("graphs", graphs=slow, tests_graphs={}).verdict == "off"


def test_where_no_other_kernel_is_faster_torch_s_choice_stays():
    slower = done_section(attention("torch's choice", 0.2), attention("cuDNN", 0.21))
    assert verdict("attention", attention=slower).verdict == "off"


def test_attention_with_a_mask_is_no_figure_of_one_without():
    masked = (attention("torch's choice", 0.2, masked=True), attention("cuDNN", 0.1, masked=True))
    assert verdict("attention", attention=done_section(*masked)).verdict == "undecided"


@given(st.data())
def test_whatever_is_missing_nothing_raises_and_the_rest_is_decided(data):
    some = {
        name: {**section, "figures": data.draw(st.lists(st.sampled_from(section["figures"])))}
        for name, section in BETTER.items()
        if data.draw(st.booleans())
    }
    decided = verdicts(some)
    assert decided.keys() == verdicts(BETTER).keys()
    assert json.dumps([decision.reason for decision in decided.values()])
    if not some:
        assert {decision.verdict for decision in decided.values()} == {"undecided"}


def test_each_switch_of_adr_0090_has_a_verdict_and_each_verdict_its_row():
    rows = ADR.read_text().split("| switch |")[1].splitlines()
    names = {row.split("|")[1].strip().strip("`") for row in rows if row.startswith("| ")}
    assert names == verdicts({}).keys()


@pytest.mark.parametrize("figures", [0, 3, 200])
def test_the_table_fits_into_what_a_lent_machine_gives_back(figures):
    many = {
        section.name: done_section(
            *({"by": "as written", "s": 0.123456789, "n": n} for n in range(figures))
        )
        for section in sections()
    }
    content = {"machine": {"card": "NVIDIA H200"}, "sections": BETTER | many}
    content["verdicts"] = {
        name: {"verdict": decision.verdict, "reason": decision.reason, "figures": decision.figures}
        for name, decision in verdicts(BETTER).items()
    }
    text = table(content, sections())
    assert len(text) <= LONGEST
    assert "NVIDIA H200" in text
    assert ("more lines: see results.json" in text) == (figures == 200)
