"""What an installation serves by its settings, and sentences about it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from serve_app.catalog.catalog import Catalog
from serve_app.catalog.entries import EntryBuilder, EntryOrigin
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import DarkroomError, Misconfigured
from serve_app.domain.executors.gpus import OPTION, PoolGpus, cpu_problem, gpu_problem
from serve_app.ingress.services.pool_map import PoolMap
from serve_app.settings import Config


def entry_builder(config: Config) -> EntryBuilder:
    """Builder of entries for an installation with these settings."""
    models, pools = config.models, config.models.pools
    if pools is None:
        return EntryBuilder(models.serves_demo, _demo_dir())
    hosted = {
        name: frozenset(pool.families) for name, pool in pools.items() if not pool.beside_or_after
    }
    gpus = {
        name: PoolGpus(
            pools[name].num_gpus * pools[name].devices_per_replica,
            pools[name].accelerator,
            families,
        )
        for name, families in hosted.items()
    }
    elsewhere = {name for name, settings in models.executors.items() if settings.address}
    places = PoolMap(pools)

    def problem(endpoint: Endpoint, named: str) -> str:
        gpu = endpoint.options.get(OPTION)
        may_choose = not named and endpoint.family not in elsewhere
        program = endpoint.executor.slow_on_cpu if may_choose else ""
        if gpu is None and not program:
            return ""
        try:
            pool = places.pool_of(endpoint, named)
        except DarkroomError:
            return ""  # another reason says more
        if gpu is None:
            return cpu_problem(program, endpoint.family, pool, gpus)
        return gpu_problem(str(gpu), endpoint.family, pool, gpus)

    families = frozenset().union(*hosted.values())
    return EntryBuilder(models.serves_demo, _demo_dir(), families, hosted, problem)


def _demo_dir() -> Path:
    """Directory of the demo models. It is in the data plane's package, which is not imported."""
    spec = find_spec("deployments")
    if spec is None or not spec.submodule_search_locations:
        raise Misconfigured(
            "The package `deployments` is not installed, so the demo models are missing. "
            "Install it beside `serve_app`."
        )
    return Path(next(iter(spec.submodule_search_locations))) / "demo"


def startup_lines(catalog: Catalog) -> Iterator[str]:
    """Yield one sentence each for the endpoints that are served by their real model, served by a
    demo model, and not served."""
    served = [entry for entry in catalog if not entry.missing]
    if real := [entry.endpoint.id for entry in served if not entry.demo]:
        yield f"Serving {', '.join(real)}."
    if demo := [entry.endpoint.id for entry in served if entry.demo]:
        yield f"Serving {', '.join(demo)} by Darkroom's own demo model, not the real ones."
    missing = [candidate for candidate in catalog if candidate.missing]
    # The others are passed through to a provider.
    if missing := [
        candidate.endpoint.id
        for candidate in missing
        if catalog.find(candidate.endpoint.id) is candidate
    ]:
        yield f"Not serving {', '.join(missing)}: run `darkroom models --all` to see why."


def conflicts(catalog: Catalog) -> Iterator[str]:
    """Yield one sentence for each id that both the file and the database have, and for each entry
    of the database that is not valid."""
    for entry in catalog:
        if EntryOrigin.FILE in entry.replaces:
            yield (
                f"{entry.endpoint.id} is in the file of DARKROOM_MODELS and in the database. The "
                "entry of the database is in force; `darkroom models delete` deletes it."
            )
    for endpoint_id, why in catalog.invalid.items():
        yield (
            f"Not serving {endpoint_id}: its entry in the database is not valid: {why} Add it "
            "again with `darkroom models add --replace`, or remove it."
        )
