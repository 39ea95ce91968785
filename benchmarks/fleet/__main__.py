"""Where the control plane of 100, 1,000 and 10,000 GPUs is full, and what cells change.

    python -m benchmarks.fleet [--gpus 100 1000 10000] [--gpus-per-ingress 50] [--cores 16]
        [--cells 20] [--slots 8] [--request-s 5] [--load 0.7] [--seconds 1] [--tenants 1000]

Events with the costs of ``benchmarks/fleet/costs.py``; no clock and no process, so the figures
depend on nothing but the arguments. Three tables: use of each part by size, the same GPUs in cells
with the tenants spread in two ways, and weights to nodes that start together.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks.fleet.cell import Cell, Result, Shape
from benchmarks.fleet.costs import Costs
from benchmarks.fleet.tenants import loads, place_by_hash, place_by_size, sizes, split_large
from benchmarks.fleet.weights import Delivery, deliver

CONNECTIONS = 12  # of an ingress to PostgreSQL


def use(result: Result) -> Mapping[str, float]:
    """Use of each part; of the ingresses, that of the busiest."""
    shares = {name: station.use(result.seconds) for name, station in result.stations.items()}
    ingresses = [share for name, share in shares.items() if name.startswith("ingress")]
    return {
        "ingress": max(ingresses),
        "database": shares["database"],
        "control store": shares["control store"],
    }


def line(name: str, result: Result) -> str:
    shown = "  ".join(f"{part} {share:5.0%}" for part, share in use(result).items())
    wait_ms = max(station.p99_wait_ms for station in result.stations.values())
    verdict = "" if result.keeps_up else "  FULL"
    return (
        f"{name:>14s}: {shown}  slots {result.slot_use:4.0%}  longest p99 wait {wait_ms:8.1f} ms"
        f"  queued {result.queued}{verdict}"
    )


def ingresses(gpus: int, per_ingress: int) -> int:
    return max(1, -(-gpus // per_ingress))


def show_sizes(shape: Shape, gpus: Sequence[int], per_ingress: int, seconds: float) -> None:
    print(f"One cluster, {shape.database_cores} cores of PostgreSQL")
    for number in gpus:
        processes = ingresses(number, per_ingress)
        sized = replace(shape, gpus=number, ingresses=processes)
        print(line(f"{number} GPUs", Cell(sized, Costs()).run(seconds)))
        print(
            f"{sized.requests_per_s:20.0f} requests/s, {processes} ingresses, "
            f"{processes * CONNECTIONS} connections"
        )


def show_cells(shape: Shape, gpus: int, cells: int, tenants: int, seconds: float) -> None:
    """``shape``: of one cell."""
    total = replace(shape, gpus=gpus).requests_per_s
    rates = sizes(tenants, total)
    print(
        f"\n{gpus} GPUs in {cells} cells of {gpus // cells}; {tenants} tenants, the largest with "
        f"{rates[0] / total:.0%} of the load"
    )
    parts = split_large(rates, cells)
    ways = {
        "hashed": (place_by_hash, rates),
        "placed": (place_by_size, rates),
        "divided": (place_by_size, parts),
    }
    for name, (place, demand) in ways.items():
        of_cells = loads(demand, place(demand, cells), cells)
        largest = max(of_cells) / (total / cells)
        busiest = replace(shape, load=min(1.0, shape.load * largest))
        print(f"{name:>14s}: the fullest cell has {largest:.2f} of the mean load")
        print(line("its parts", Cell(busiest, Costs()).run(seconds)))


def show_weights() -> None:
    print("\n24 GB to nodes that start together: until the median and the last node is ready")
    ways = {
        "hub only": Delivery(0, peers=0),
        "peers, files in the same order": Delivery(0, same_order=True),
        "peers, files in random order": Delivery(0),
    }
    for nodes in (10, 100, 300):
        for name, way in ways.items():
            delivery = deliver(replace(way, nodes=nodes))
            print(
                f"{nodes:5d} nodes, {name:>30s}: median {delivery.median_s:6.0f} s, last "
                f"{delivery.seconds:6.0f} s; the hub sends {delivery.hub_gb:5.0f} GB"
            )


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--gpus", type=int, nargs="*", default=[100, 1000, 10_000])
    parser.add_argument("--gpus-per-ingress", type=int, default=50)
    parser.add_argument("--cores", type=int, default=16, help="of PostgreSQL")
    parser.add_argument("--cells", type=int, default=20)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--request-s", type=float, default=5.0)
    parser.add_argument("--load", type=float, default=0.7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--tenants", type=int, default=1000)
    options = parser.parse_args(arguments)
    shape = Shape(
        gpus=0,
        database_cores=options.cores,
        slots=options.slots,
        request_s=options.request_s,
        load=options.load,
    )
    show_sizes(shape, options.gpus, options.gpus_per_ingress, options.seconds)
    of_cell = max(options.gpus) // options.cells
    cell = replace(shape, gpus=of_cell, ingresses=ingresses(of_cell, options.gpus_per_ingress))
    show_cells(cell, max(options.gpus), options.cells, options.tenants, options.seconds)
    show_weights()
    print("\nOrigin of the costs")
    for name, origin in Costs().origins().items():
        print(f"{name:>14s}: {origin}")


if __name__ == "__main__":
    main(sys.argv[1:])
