"""Verdicts about the switches of ADR 0036: pure functions of the sections' figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Sections = Mapping[str, Mapping[str, Any]]
Figures = Mapping[str, float]

ON, OFF, UNDECIDED = "on", "off", "undecided"

WORTHWHILE = 1.1
"""Times as fast as without a switch, that pay for compiling, recording or rounding."""

FASTER = 1.03
"""Times as fast, where a switch costs nothing else: more than measurements differ by."""

SHARE = 0.03
"""Of an image's seconds that a compiled decoder must save."""

MOST_DISTANCE = 0.05
"""Of images by compiled blocks from those as written, relative root mean square: more than 28 steps
of bfloat16 by other kernels; a wrong kernel gives 0.5 and more. Estimated, not measured."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided about a switch, with the two figures that decide."""

    verdict: Literal["on", "off", "undecided"]
    reason: str
    figures: Figures = field(default_factory=dict[str, float])


def verdicts(sections: Sections) -> dict[str, Verdict]:
    """By switch. What was not measured is undecided."""
    return {switch: decide(sections) for switch, decide in _DECISIONS.items()}


def figures_of(sections: Sections, section: str, **case: Any) -> Mapping[str, Any]:
    """The last figure of a section with these values; empty if there is none with seconds."""
    figures = sections.get(section, {}).get("figures", ())
    matching = [
        figure
        for figure in figures
        if all(figure.get(name) == value for name, value in case.items()) and "s" in figure
    ]
    return matching[-1] if matching else {}


def _seconds(sections: Sections, section: str, **case: Any) -> float | None:
    return figures_of(sections, section, **case).get("s")


def _compile(sections: Sections) -> Verdict:
    written = figures_of(sections, "compiled", image="dev", by="as written")
    compiled = figures_of(sections, "compiled", image="dev", by="compiled")
    verdict = _by_ratio("FLUX.1 [dev]", written, compiled, ("as written", "compiled"))
    if verdict.verdict != ON:
        return verdict
    if compiled["distance"] > MOST_DISTANCE:
        return Verdict(
            OFF,
            f"Its image differs by {compiled['distance']:.3g}, more than {MOST_DISTANCE}.",
            verdict.figures,
        )
    for figure in sections["compiled"]["figures"]:
        if figure.get("compiled_again"):
            return Verdict(OFF, "Blocks were compiled while requests ran.", verdict.figures)
    return verdict


def _compile_decoder(sections: Sections) -> Verdict:
    written = _seconds(sections, "decode", by="as written")
    compiled = _seconds(sections, "decode", by="compiled")
    images = {
        "FLUX.1 [dev]": _seconds(sections, "compiled", image="dev", by="compiled"),
        "SDXL": _seconds(sections, "graphs", by="as written", side=1024, images=1),
    }
    if written is None or compiled is None:
        return Verdict(UNDECIDED, "The section `decode` did not measure it.")
    figures = {"decode as written, s": written, "compiled, s": compiled}
    shares = {name: (written - compiled) / s for name, s in images.items() if s is not None}
    if not shares:
        return Verdict(UNDECIDED, "No image was measured to compare it with.", figures)
    name = max(shares, key=lambda model: shares[model])
    reason = f"It saves {shares[name]:.1%} of an image of {name}; {SHARE:.0%} is asked."
    if shares[name] < SHARE:
        return Verdict(OFF, reason, figures)
    blocks = _compile(sections).verdict
    return (
        Verdict(ON, reason, figures)
        if blocks == ON
        else Verdict(UNDECIDED, f"{reason} It needs compiled blocks, which are {blocks}.", figures)
    )


def _float8(sections: Sections) -> Verdict:
    plain = figures_of(sections, "compiled", image="dev", by="compiled") or figures_of(
        sections, "eight_bits", image="dev", by="as written"
    )
    rounded = figures_of(sections, "eight_bits", image="dev", by="float8, compiled")
    verdict = _by_ratio("FLUX.1 [dev]", plain, rounded, ("bfloat16", "float8, compiled"))
    if verdict.verdict != ON:
        return verdict
    return Verdict(
        UNDECIDED,
        f"{verdict.reason} `darkroom tune` decides, as only the real weights show what rounding "
        "does to an image.",
        verdict.figures,
    )


def _graphs(sections: Sections) -> Verdict:
    verdicts_of_cases = list[tuple[float, Verdict]]()
    for side, images in ((1024, 1), (512, 1), (512, 8)):
        case = {"side": side, "images": images}
        written = figures_of(sections, "graphs", by="as written", **case)
        replayed = figures_of(sections, "graphs", by="graphs", **case)
        if not written or not replayed:
            continue
        what = f"SDXL, {side}², {images} at once"
        verdict = _by_ratio(what, written, replayed, ("as written", "graphs"))
        if not replayed.get("replays"):
            return Verdict(UNDECIDED, "No forward was recorded.", verdict.figures)
        verdicts_of_cases.append((written["s"] / replayed["s"], verdict))
    if not verdicts_of_cases:
        return Verdict(UNDECIDED, "The section `graphs` did not measure it.")
    _, best = max(verdicts_of_cases, key=lambda pair: pair[0])
    tests = sections.get("tests_graphs", {}).get("figures", ())
    if best.verdict == ON and not any(figure.get("exit_status") == 0 for figure in tests):
        reason = f"{best.reason} tests/gpu/test_graphs.py did not pass."
        return Verdict(UNDECIDED, reason, best.figures)
    return best


def _attention(*, masked: bool) -> Callable[[Sections], Verdict]:
    def decide(sections: Sections) -> Verdict:
        case = {"of": "FLUX 1024²", "masked": masked}
        own = figures_of(sections, "attention", kernel="torch's choice", **case)
        others = {
            name: figure
            for name in ("flash", "cuDNN", "efficient")
            if (figure := figures_of(sections, "attention", kernel=name, **case))
        }
        name = min(others, key=lambda kernel: others[kernel]["s"], default="another")
        what = "Attention of FLUX with a mask" if masked else "Attention of FLUX"
        return _by_ratio(what, own, others.get(name, {}), ("torch's choice", name), FASTER)

    return decide


def _by_ratio(
    what: str,
    without: Mapping[str, Any],
    with_it: Mapping[str, Any],
    names: Sequence[str],
    least: float = WORTHWHILE,
) -> Verdict:
    figures = {
        f"{name}, s": figure["s"]
        for name, figure in zip(names, (without, with_it), strict=True)
        if figure
    }
    if not without or not with_it:
        return Verdict(UNDECIDED, "It was not measured, or not beside its baseline.", figures)
    ratio = without["s"] / with_it["s"]
    reason = f"{what}: {ratio:.2f} times as fast; {least} is asked."
    return Verdict(ON if ratio >= least else OFF, reason, figures)


_DECISIONS: Mapping[str, Callable[[Sections], Verdict]] = {
    "compile": _compile,
    "compile_decoder": _compile_decoder,
    "float8-dynamic": _float8,
    "graphs": _graphs,
    "attention": _attention(masked=False),
    "attention with masks": _attention(masked=True),
}
"""By the name of the recipe's field or precision."""
