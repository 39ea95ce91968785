"""Group of devices that compute one forward together: one process each, with torch.distributed.

Rank 0 runs the engine. The other ranks hold denoisers and compute the calls that rank 0 sends.
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

from deployments.engine.accelerator.selection import accelerator_for
from serve_app.domain.errors import Misconfigured


class ParallelGroup:
    """Group of processes on one machine.

    A process can be in one group at a time, because torch.distributed has process-wide state.
    """

    def __init__(self, rank: int, size: int, rendezvous: Path, device: str) -> None:
        """``size``: processes in the group, at least 2. ``device``: this process's device.

        ``rendezvous``: path of a file that does not exist yet, the same for all processes.
        """
        self.rank = rank
        self.size = size
        self.device = device
        self.accelerator = accelerator_for(device)
        self._rendezvous = rendezvous
        self._parallel: ParallelConfig | None = None
        self._store: Any = None

    def join(self, within_s: float = 300.0) -> None:
        """Wait for the other processes. Raises ``Misconfigured`` when they do not join in time."""
        self._store = dist.FileStore(str(self._rendezvous), self.size)
        self._store.set_timeout(timedelta(seconds=within_s))
        try:
            dist.init_process_group(
                self.accelerator.capabilities.collectives,
                store=dist.PrefixStore("group", self._store),
                rank=self.rank,
                world_size=self.size,
                timeout=_EVER,
            )
            self._parallel = self._made_parallel(self.accelerator.kind)
        except RuntimeError as error:
            raise Misconfigured(
                f"The {self.size} devices of this replica could not form a group: {error}"
            ) from error
        if not self.accelerator.capabilities.discrete:
            # gloo's own `all_gather` refuses parts of different lengths.
            context_parallel._all_gather_anything = _all_gather  # noqa: SLF001

    def leave(self) -> None:
        """Leave the group. The other processes' next call with this one fails."""
        if dist.is_initialized():
            dist.destroy_process_group()

    @property
    def config(self) -> ParallelConfig:
        """diffusers' configuration of the group. It has been joined."""
        if self._parallel is None:
            raise RuntimeError("The group has not been joined.")
        return self._parallel

    def send(self, tensor: torch.Tensor, between: tuple[int, int] | None = None) -> torch.Tensor:
        """Send a tensor from rank 0 to all others, or ``between`` one rank and another.

        The receivers pass a tensor of the same shape and dtype, which is filled.
        """
        if between is None:
            dist.broadcast(tensor, src=0)
        elif between[0] == self.rank:
            dist.send(tensor, dst=between[1])
        else:
            dist.recv(tensor, src=between[0])
        return tensor

    def publish(self, what: str, message: str = "") -> None:
        """Publish a message from any rank, independent of the computation.

        ``what``: the message's key, which is published at most once.
        """
        self._store.set(what, message or " ")

    def wait_for(self, what: str, within_s: float) -> bool:
        """Wait up to ``within_s`` seconds for the message ``what``; return whether it came."""
        try:
            self._store.wait([what], timedelta(seconds=within_s))
        except RuntimeError:
            return False
        return True

    def _made_parallel(self, device_type: str) -> ParallelConfig:
        mesh = dist.device_mesh.init_device_mesh(
            device_type, (1, self.size), mesh_dim_names=("ring", "ulysses")
        )
        # Ulysses (split by heads): torch's own attention, which all models have, cannot do ring.
        split: Any = ContextParallelConfig(
            ulysses_degree=self.size, ulysses_anything=True, mesh=mesh
        )
        config = ParallelConfig(context_parallel_config=split)
        config.setup(self.rank, self.size, torch.device(self.device), mesh=mesh)
        return config


def _all_gather(tensor: torch.Tensor, dim: int, group: Any) -> torch.Tensor:
    """Concatenate the parts of all ranks along ``dim``."""
    parts: list[torch.Tensor] = []
    for rank, length in enumerate(gather_size_by_comm(tensor.shape[dim], group)):
        shape = (*tensor.shape[:dim], length, *tensor.shape[dim:][1:])
        mine = rank == dist.get_rank(group)
        parts.append(tensor.contiguous() if mine else tensor.new_empty(shape))
        dist.broadcast(parts[-1], group=group, group_src=rank)
    return torch.cat(parts, dim=dim)


_EVER = timedelta(days=365)
"""Timeout of collective calls. A follower waits for its next call without limit; it notices the
death of other ranks by their connections."""
