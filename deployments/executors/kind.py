"""An executor as the rest of Darkroom knows it: its names, its apps, and how they are deployed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from deployments.executors.base import AppExecutor
from deployments.executors.environment import Environments
from deployments.ingress_client.repeating import ExecutorIngress
from deployments.replica.config import ReplicaConfig
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.executors.deployable import Choices, Deployable
from serve_app.domain.executors.secrets import Secret


class KindIngress(ExecutorIngress, Protocol):
    """The ingress, as executors call it."""

    async def for_executor(self, name: str, *arguments: Any) -> Any:
        """Answer to a call that only executors of one kind make, by its name at the ingress."""
        ...


@dataclass(frozen=True, slots=True)
class ExecutorContext:
    """What a replica has for the executors that it makes."""

    config: ReplicaConfig
    code: Callable[[str], Awaitable[Path]]  # from a bundle's digest to the folder with its files
    environments: Environments
    ingress: KindIngress


@dataclass(frozen=True, slots=True)
class DeployContext:
    """What there is where ``darkroom deploy`` runs."""

    environments: Environments
    settings: Mapping[str, Any]  # of executors, by family
    weights: Path | None  # directory of Darkroom's store


@dataclass(frozen=True, slots=True)
class AppPlan:
    """The app of an endpoint: its name, and how its executor is made."""

    name: str
    make: Callable[[Path], AppExecutor]  # from the folder for the files of its process
    version: str = ""  # another one of the same app is ended when it is not in use


@dataclass(frozen=True, slots=True)
class ExecutorKind:
    """One kind of executor. Each folder beside this module has one, as ``KIND`` in its ``kind.py``:
    ``registry`` finds it there."""

    families: Sequence[str]
    """Names that endpoints use as their ``family``."""

    plan: Callable[[ExecutorContext, Endpoint, Sequence[Secret]], AppPlan]
    """Function from an endpoint, and the secrets that it names, to its app. ``Misconfigured`` if
    its options are not usable."""

    deploy: Callable[[Choices, DeployContext], Deployable | None] = lambda *_: None
    """Function that reads and describes what it could run. None: it is something else.
    ``Misconfigured`` says what is wrong with it."""

    at_start: Callable[[ExecutorContext], AppPlan | None] = lambda _: None
    """Function to the app that starts with the replica. None: apps start with their requests."""
