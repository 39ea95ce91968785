"""Devices that compute one forward together: a process for each, and torch.distributed among them.

Rank 0 has the engine. The others follow: they hold denoisers, and compute what they are sent.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from diffusers.hooks import context_parallel
from diffusers.models._modeling_parallel import ParallelConfig, gather_size_by_comm

from serve_app.domain.errors import Misconfigured, WeightsUnavailable


class DeviceGroup:
    """One at a time in a process, which torch.distributed wants so. All its processes are on one
    machine."""

    def __init__(self, rank: int, size: int, rendezvous: Path, device: str) -> None:
        """``size``: of the group, at least 2. ``rendezvous``: a file that is not there yet, the
        same for all. ``device``: this process's."""
        self.rank = rank
        self.size = size
        self.device = device
        self._rendezvous = rendezvous
        self._parallel: ParallelConfig | None = None
        self._store: Any = None

    def join(self, within_s: float = 300.0) -> None:
        """Wait for the others. ``Misconfigured`` when they do not come."""
        cuda = self.device.startswith("cuda")
        self._store = dist.FileStore(str(self._rendezvous), self.size)
        self._store.set_timeout(timedelta(seconds=within_s))
        try:
            # On a GPU both: what is said travels by the first, what is computed by the second.
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if cuda else "gloo",
                store=dist.PrefixStore("group", self._store),
                rank=self.rank,
                world_size=self.size,
                timeout=_EVER,
            )
            self._parallel = self._made_parallel("cuda" if cuda else "cpu")
        except RuntimeError as error:
            raise Misconfigured(
                f"The {self.size} devices of this replica did not come together: {error}"
            ) from error
        if not cuda:
            # gloo's own `all_gather` refuses parts of other lengths.
            context_parallel._all_gather_anything = _gathered  # noqa: SLF001

    def leave(self) -> None:
        """The others' next call with this one fails."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def divide(self, module: Any) -> None:
        """From now on each process computes its part of the tokens of a forward of ``module``, at
        the same time as all others, and each gets the whole output. ``WeightsUnavailable`` where
        diffusers cannot do that."""
        parallel = self._parallel
        if parallel is None:
            raise RuntimeError("The group has not been joined.")

        def resolved(config: ParallelConfig) -> ParallelConfig:
            module._parallel_config = config  # noqa: SLF001
            return config

        # diffusers' own makes a mesh for each module, for which all processes would have to be
        # there, while others of them compute; and it divides by the number of accelerators.
        module._resolve_parallel_config = resolved  # noqa: SLF001
        try:
            module.enable_parallelism(config=parallel)
        except ValueError as error:
            raise WeightsUnavailable(
                f"diffusers cannot divide a {type(module).__name__}: {error}"
            ) from error
        finally:
            del module._resolve_parallel_config  # noqa: SLF001

    def send(self, tensor: torch.Tensor) -> torch.Tensor:
        """From rank 0 to all others, which give one of the same shape and dtype to be filled."""
        dist.broadcast(tensor, src=0)
        return tensor

    def tell(self, what: str, message: str = "") -> None:
        """Anybody may, beside what is computed. ``what``: told once."""
        self._store.set(what, message or " ")

    def told(self, what: str, within_s: float) -> bool:
        """Whether somebody has told it, at the latest then."""
        try:
            self._store.wait([what], timedelta(seconds=within_s))
        except RuntimeError:
            return False
        return True

    def _made_parallel(self, device_type: str) -> ParallelConfig:
        mesh = dist.device_mesh.init_device_mesh(
            device_type, (1, self.size), mesh_dim_names=("ring", "ulysses")
        )
        # By heads: torch's own attention, which all models have, cannot go round in a ring.
        config = ParallelConfig(
            context_parallel_config=ContextParallelConfig(
                ulysses_degree=self.size, ulysses_anything=True, mesh=mesh
            )
        )
        config.setup(self.rank, self.size, torch.device(self.device), mesh=mesh)
        return config


def _gathered(tensor: torch.Tensor, dim: int, group: Any) -> torch.Tensor:
    """The parts of all, one after another along ``dim``."""
    parts: list[torch.Tensor] = []
    for rank, length in enumerate(gather_size_by_comm(tensor.shape[dim], group)):
        shape = (*tensor.shape[:dim], length, *tensor.shape[dim:][1:])
        mine = rank == dist.get_rank(group)
        parts.append(tensor.contiguous() if mine else tensor.new_empty(shape))
        dist.broadcast(parts[-1], group=group, group_src=rank)
    return torch.cat(parts, dim=dim)


_EVER = timedelta(days=365)
"""A follower waits for the next call; that the others have died is told by their connections."""
