"""``darkroom tune``: measure variants of the recipes on this machine, and keep the fastest."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serve_app.cli.connection import completion, options
from serve_app.cli.connection.installation import Installation
from serve_app.cli.connection.numbers import FiniteNumber
from serve_app.cli.connection.progress_line import ProgressLine
from serve_app.cli.connection.text import echo, size_text
from serve_app.cli.group import interrupted_status
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import EndpointNotServed, InvalidInput, Misconfigured
from serve_app.settings import Config, read_config, refuse_unknown
from serve_app.settings.config_file import read

if TYPE_CHECKING:
    from serve_app.app import TuningSession, tuned
    from serve_app.catalog.catalog import Catalog, CatalogEntry

MINUTES = 60.0
MINUTES_PER_MODEL = 10
"""Estimate for one model on a GPU: five or six variants, each with a load, a warm-up and two
generations. Compilation takes minutes of it. Estimated, not measured."""

QUALITY = 0.9
"""Least MS-SSIM. Rounding of 16 bits, which other kernels do differently, leaves images above it;
a variant that changes what is in the image falls below."""

PROMPTS = (
    "a photograph of a red bicycle leaning against a blue wooden door, morning light",
    "a watercolour of a lighthouse on a cliff, storm clouds, small boats",
)
SEEDS = (7, 11)  # fixed, so that all variants start from the same noise
PLACEHOLDER = "https://example.com/input"  # of input files; plain ones are used in their place

COLUMNS = "  {:<22} {:>9} {:>10} {:>9} {:>8} {:>8}  {}"
HEADER = COLUMNS.format("variant", "s/step", "s in all", "memory", "PSNR", "MS-SSIM", "")


@dataclass(frozen=True, slots=True)
class TuneCommand:
    """Options of ``darkroom tune``."""

    endpoints: tuple[str, ...]
    minutes: float
    quality: float
    steps: int | None
    variants: tuple[str, ...]
    measured: Path | None
    again: bool
    as_json: bool


def run(config: Config, wish: TuneCommand) -> int:
    """Tune the endpoints of ``wish``; returns the exit status."""
    # ``serve_app.app`` imports ray, which other commands do not need.
    from serve_app.app import tuning_session  # noqa: PLC0415

    began = time.monotonic()
    session = tuning_session(config)
    advice = (
        "The measured times would not be right. Stop it, run `darkroom tune`, and start it again."
    )
    with Installation(config.server.data_dir).lock(advice, "darkroom tune"):
        entries = _entries(config, session, wish)
        facts = session.describe_device()
        deadline = began + 60 * wish.minutes
        options = session.options(
            wish.quality, deadline, wish.variants, wish.measured, facts, again=wish.again
        )
        if newer := options.verdicts.unknown:
            echo(
                f"{wish.measured} has verdicts on {', '.join(newer)}, which this Darkroom does not "
                "know. They are ignored.",
                err=True,
            )
        models = session.models(
            [(entry.endpoint, _inputs(entry, wish.steps)) for entry in entries], facts, _skip
        )
        unknown = sorted(set(wish.variants) - set(known := session.variants(models)))
        if unknown:
            raise Misconfigured(
                f"There is no variant {', '.join(unknown)} of these models here. Variants: "
                f"{', '.join(known)}."
            )
        ended, out_of_time = _tune_all(session, models, facts, options, as_json=wish.as_json)
    if wish.as_json:
        echo(json.dumps([tuning.as_json() for tuning in ended], indent=2))
    elif out_of_time:
        echo(
            f"The {wish.minutes:g} minutes are over. What was measured is kept. Run the command "
            "again to continue."
        )
    elif ended:
        echo(f"Kept in {config.tuning_file}. Darkroom uses it from its next start.")
    return 0


def _tune_all(
    session: TuningSession,
    models: Sequence[Any],
    facts: Any,
    options: Any,
    *,
    as_json: bool,
) -> tuple[list[tuned.Tuning], bool]:
    ended: list[tuned.Tuning] = []
    for model in models:
        if not as_json:
            _announce(model.endpoints, facts.machine.device, model.steps)
        with ProgressLine("Measuring", quiet=as_json) as waiting:
            result = session.tune(model, facts, options, _printing(waiting, as_json=as_json))
        ended.append(result.tuning)
        if not as_json:
            echo(_verdict(result.tuning, complete=not result.out_of_time))
        if result.out_of_time:
            return ended, True
    return ended, False


def _entries(config: Config, session: TuningSession, wish: TuneCommand) -> list[CatalogEntry]:
    """Entries to tune, whose weights are here.

    Raises ``EndpointNotFound``, ``EndpointNotServed``, and ``Misconfigured`` if a named one's
    weights are missing, or if nothing is left.
    """
    catalog = _catalog(config)
    if wish.endpoints:
        entries = [catalog.get(endpoint_id) for endpoint_id in dict.fromkeys(wish.endpoints)]
        if absent := [
            entry.endpoint.id for entry in entries if not session.is_here(entry.endpoint)
        ]:
            raise Misconfigured(
                f"The weights of {', '.join(absent)} are not downloaded. Run `darkroom models pull "
                f"{' '.join(absent)}` first."
            )
        return entries
    served = [entry for entry in catalog if not entry.missing]
    entries = [entry for entry in served if session.is_here(entry.endpoint) and _fits(entry)]
    if not entries:
        raise Misconfigured(
            "No weights of the served endpoints are downloaded, so there is nothing to tune. Run "
            "`darkroom models pull` first."
        )
    if len(entries) < len(served) and not wish.as_json:
        echo(
            f"{len(served) - len(entries)} endpoints are left out, because their weights are not "
            "downloaded or they take no prompt."
        )
    return entries


def _fits(entry: CatalogEntry) -> bool:
    try:
        _inputs(entry, None)
    except EndpointNotServed:
        return False
    return True


def _inputs(entry: CatalogEntry, steps: int | None) -> list[dict[str, Any]]:
    """Validated inputs with the fixed prompts and seeds. Raises ``EndpointNotServed``."""
    properties = entry.schema.json_schema().get("properties", {})
    names = [field for field in ("num_inference_steps", "steps") if field in properties]
    files = {
        name: PLACEHOLDER
        for name in entry.schema.json_schema().get("required", ())
        if name.endswith("_url")
    }
    chosen = {} if steps is None else dict.fromkeys(names[:1], steps)
    bodies = [
        {"prompt": prompt, "seed": seed, **files, **chosen}
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]
    try:
        return [entry.schema.validate(body)[0] for body in bodies]
    except InvalidInput as error:
        raise EndpointNotServed(
            f"{entry.endpoint.id} cannot be tuned: its input is more than a prompt "
            f"({error.message})."
        ) from error


def _catalog(config: Config) -> Catalog:
    from serve_app.app import hosted_families  # noqa: PLC0415
    from serve_app.catalog import catalog  # noqa: PLC0415

    spec = find_spec("deployments")
    places = spec.submodule_search_locations if spec is not None else None
    return catalog.load(
        config.models.models,
        demo=config.models.serves_demo,
        demo_dir=Path(next(iter(places or ("/",)))) / "demo",
        families=hosted_families(config),
    )


# Text.


def _skip(endpoint: Endpoint, reason: str) -> None:
    echo(f"{endpoint.id} is left out. {reason}", err=True)


def _announce(endpoints: Sequence[str], device: str, steps: int) -> None:
    also = f" (also {', '.join(endpoints[1:])})" if endpoints[1:] else ""
    echo(f"{endpoints[0]}{also}, {steps} steps, on {device}")
    echo(HEADER)


def _printing(
    waiting: ProgressLine, *, as_json: bool
) -> Callable[[tuned.Tuning, tuned.Measurement], None]:
    """Function that prints what was measured, unless it is printed as JSON at the end."""

    def show(tuning: tuned.Tuning, measured: tuned.Measurement) -> None:
        if not as_json:
            waiting.above(line(tuning, measured))

    return show


def line(tuning: tuned.Tuning, measured: tuned.Measurement) -> str:
    """Row of the table."""
    if not measured.ok:
        return f"  {measured.variant:<22} {measured.error}"
    remarks = [
        "reference" if measured.variant == tuning.reference else "",
        "below --quality" if measured.similarity < tuning.quality else "",
        "" if tuning.fits(measured) else "little memory left",
    ]
    return COLUMNS.format(
        measured.variant,
        f"{measured.step_s:.4f}",
        f"{measured.generation_s:.3f}",
        size_text(measured.peak_bytes),
        "same" if measured.psnr_db is None else f"{measured.psnr_db:.1f} dB",
        f"{measured.similarity:.4f}",
        ", ".join(filter(None, remarks)),
    ).rstrip()


def _verdict(tuning: tuned.Tuning, *, complete: bool) -> str:
    chosen, cache = tuning.chosen_variant, tuning.chosen_step_cache
    so_far = "" if complete else " so far"
    text = "".join(f"  {name:<22} left out, {reason}\n" for name, reason in tuning.left_out.items())
    if chosen is None:
        text += f"  The recipe of the catalogue stays{so_far}.\n"
    else:
        text += f"  Chosen{so_far}: {chosen.variant}{_faster(tuning, chosen)}.\n"
    if cache is not None:
        text += f"  For `acceleration`{so_far}: {cache.variant}{_faster(tuning, cache)}.\n"
    return text


def _faster(tuning: tuned.Tuning, measured: tuned.Measurement) -> str:
    faster = tuning.speedup(measured)
    return f", {faster:.2f} times as fast as the recipe" if faster else ""


def list_kept(config: Config, *, as_json: bool) -> None:
    """Print what is kept."""
    from serve_app.app import tuning_file  # noqa: PLC0415

    kept = tuning_file(config).read()
    if as_json:
        echo(json.dumps([stored.as_json() for stored in kept], indent=2))
        return
    if not kept:
        echo(f"Nothing is kept in {config.tuning_file}. Run `darkroom tune`.")
    for tuning in kept:
        of = tuning.machine
        driver = f", driver {of.driver}" if of.driver else ""
        echo(
            f"{', '.join(tuning.endpoints)}, {tuning.steps} steps, on {of.device}{driver}, torch "
            f"{of.torch}, diffusers {of.diffusers}"
        )
        echo(HEADER)
        for measured in tuning.measurements:
            echo(line(tuning, measured))
        echo(_verdict(tuning, complete=tuning.complete))


def forget(config: Config, endpoints: Sequence[str]) -> None:
    """Remove what is kept of ``endpoints``, or all of it."""
    from serve_app.app import tuning_file  # noqa: PLC0415

    file = tuning_file(config)
    kept = file.read()
    left = [tuning for tuning in kept if endpoints and not set(endpoints) & set(tuning.endpoints)]
    if len(left) < len(kept):
        file.write(left)
    echo(
        f"Deleted the measurements of {len(kept) - len(left)} of {len(kept)} models. Darkroom uses "
        "the catalogue's recipes for them from its next start."
    )


@click.command("tune")
@options.data_dir("data_dir")
@options.config_file("config_path")
@click.argument("endpoints", nargs=-1, shell_complete=completion.endpoints)
@click.option(
    "--minutes",
    type=FiniteNumber(min=0, min_open=True),
    metavar="MINUTES",
    default=MINUTES,
    show_default=True,
    help="Time limit. Run the command again to continue.",
)
@click.option(
    "--quality",
    type=FiniteNumber(0, 1),
    metavar="NUMBER",
    default=QUALITY,
    show_default=True,
    help="Least similarity (MS-SSIM) of a variant's images to those of the plain model.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    default=None,
    help="Steps of each generation. Default: the endpoint's.",
)
@click.option(
    "--variant",
    "variants",
    metavar="NAME",
    multiple=True,
    help="Measure only this variant. May be repeated.",
)
@click.option(
    "--measured",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="results.json of `python -m benchmarks.gpu` on this machine. Variants whose switch is off "
    "there are not measured.",
)
@click.option("--again", is_flag=True, help="Measure again what was measured before.")
@click.option("--list", "lists", is_flag=True, help="List what was measured, and measure nothing.")
@click.option(
    "--forget", "forgets", is_flag=True, help="Delete what was measured of ENDPOINTS, or all of it."
)
@options.as_json
def tune_command(
    data_dir: Path | None,
    config_path: Path | None,
    *,
    lists: bool,
    forgets: bool,
    **wish: Any,
) -> None:
    """Measure which variant of each recipe is the fastest on this machine.

    Measures ENDPOINTS, or all endpoints whose weights are downloaded. Each variant is compared with
    the plain model. Darkroom uses the fastest one within --quality from its next start. Stop
    Darkroom first.
    """
    refuse_unknown()
    settings = {} if config_path is None else dict(read(config_path).arguments)
    config = read_config(settings | ({} if data_dir is None else {"data_dir": data_dir}))
    command = TuneCommand(**wish)
    if lists:
        list_kept(config, as_json=command.as_json)
    elif forgets:
        forget(config, command.endpoints)
    else:
        try:
            sys.exit(run(config, command))
        except KeyboardInterrupt as interrupt:
            echo("\nStopped. What was measured is kept. Run the command to continue.", err=True)
            sys.exit(interrupted_status(interrupt))
