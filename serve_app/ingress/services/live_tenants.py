"""Limits of tenants that operators have set, and disabled tenants, in force in an ingress process.

Limits that operators have set come before those of the settings, field by field.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import ValidationError

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import FieldProblem, InvalidInput, NotFound, TenantBeingDeleted
from serve_app.domain.ports import Queue
from serve_app.domain.request import State
from serve_app.domain.rest import Rest
from serve_app.ingress.services.followed import LOOK_EVERY_S, Followed
from serve_app.resources.tenants import TenantLimit
from serve_app.settings import BUDGET, FIELDS, NO_LIMITS, STORAGE, Config, TenantLimits
from serve_app.settings.config import AREA_OF
from serve_app.storage.locations import check_known
from serve_app.tenants.api_keys import tenant_disabled_error
from serve_app.tenants.deletions import TenantDeletion, TenantDeletions, UsageKept
from serve_app.tenants.key_ring import CACHE_S
from serve_app.tenants.tenants import Limits, TenantChange, TenantInfo, Tenants

log = logging.getLogger(__name__)

PAGE = 500
"""Queued requests that are read at once to cancel them."""


class LiveTenants(Followed):
    """Adds the limits that operators have set to the settings."""

    def __init__(
        self,
        tenants: Tenants,
        deletions: TenantDeletions,
        locations: frozenset[str] = frozenset(),
    ) -> None:
        """``locations``: storage locations that a tenant can have, by id."""
        super().__init__("tenants")
        self.stored = tenants
        self.deletions = deletions
        self.locations = locations
        self._changed: Callable[[], None] = lambda: None
        self._version = ""
        self._limits: Mapping[str, Limits] = {}
        self.disabled: frozenset[str] = frozenset()
        self._changing = asyncio.Lock()  # a slower, older load must not replace a newer one

    async def refresh(self) -> None:
        """Put limits in force that have changed, and disabled tenants."""
        async with self._changing:
            version = await self.stored.version()  # first, or a change would be missed
            if version == self._version:
                return
            tenants = await self.stored.special()
            self._limits = {tenant.id: tenant.limits for tenant in tenants if tenant.limits}
            self.disabled = frozenset(
                tenant.id for tenant in tenants if tenant.disabled_at is not None
            )
            self._version = version
            self._changed()

    def start(self, changed: Callable[[], None], rest: Rest | None = None) -> None:
        """Follow the changes of other processes. ``changed``: puts ``merge_limits`` and
        ``disabled`` in force here."""
        self._changed = changed
        self.follow(rest)

    def merge_limits(self, config: Config) -> Config:
        """``config`` with the limits that operators have set."""
        if not self._limits:
            return config
        of_file = config.queue.tenant_limits
        limits = dict(of_file)
        for tenant, own in self._limits.items():
            try:
                limits[tenant] = merged_limits(of_file.get(tenant, NO_LIMITS), own)
            except ValidationError:  # by a newer version, or a limit that is gone
                log.warning("The stored limits of the tenant %s are not valid here.", tenant)
        queue = config.queue.model_copy(update={"tenant_limits": limits})
        return config.model_copy(update={"queue": queue})

    # Calls of operators.

    async def create(self, tenant: str, name: str, limits: Limits, actor: Actor) -> TenantInfo:
        """Create a tenant. ``InvalidInput``: it exists, or a limit is not valid."""
        check_limits(limits)
        check_known(limits.get(STORAGE), self.locations)
        own_limits = {field: value for field, value in limits.items() if value is not None}
        if not await self.stored.create(tenant, name, own_limits, actor):
            await self.require_not_deleted(tenant)
            raise InvalidInput.of_field("tenant", f"The tenant {tenant} exists already")
        await self.put_in_force()
        return await self.find(tenant)

    async def change(self, tenant: str, change: TenantChange, actor: Actor) -> TenantInfo:
        """Change a tenant. ``NotFound``, ``InvalidInput``."""
        check_limits(change.limits)
        check_known(change.limits.get(STORAGE), self.locations)
        if change.disabled is False:
            await self.require_not_deleted(tenant)
        record = await self.stored.change(tenant, change, actor)
        if record is None:
            raise _unknown(tenant)
        await self.put_in_force()
        return record

    async def delete(self, tenant: str, usage: UsageKept, actor: Actor) -> TenantDeletion:
        """Begin the deletion of a tenant, which is disabled from now on. ``NotFound``."""
        begun = await self.deletions.ask(tenant, usage, actor)
        if begun is None:
            raise _unknown(tenant)
        await self.put_in_force()
        return begun

    async def require_not_deleted(self, tenant: str) -> None:
        """``TenantBeingDeleted``: nothing can be added to it any more."""
        deletion = await self.deletions.find(tenant)
        if deletion is not None and deletion.ended_at is None:
            raise TenantBeingDeleted(
                f"The tenant {tenant} is being deleted. Wait until `darkroom tenants deletion "
                f"{tenant}` says that it has ended, then use the name again."
            )

    def require_enabled(self, tenant: str) -> None:
        """``TenantDisabled``, also while it is being deleted."""
        if tenant in self.disabled:
            raise tenant_disabled_error(tenant)

    async def find(self, tenant: str) -> TenantInfo:
        record = await self.stored.find(tenant)
        if record is None:
            raise _unknown(tenant)
        return record


async def cancel_queued(queue: Queue, tenant: str, actor: Actor) -> None:
    """Cancel what is queued of a disabled tenant, and look again when no replica of the ingress
    accepts its keys any more."""
    for wait_s in (0.0, CACHE_S + LOOK_EVERY_S):
        await asyncio.sleep(wait_s)
        while requests := await queue.page(tenant, states=[State.QUEUED], limit=PAGE):
            for request in requests:
                await queue.cancel(tenant, request.id, actor)


def limits_in_force(info: TenantInfo, file: Config, merged: Config) -> Mapping[str, TenantLimit]:
    """Each limit of a tenant. ``file``: the settings without what operators have set; ``merged``:
    with it."""
    own = merged.queue.tenant_limits.get(info.id, NO_LIMITS)
    of_file = file.queue.tenant_limits.get(info.id, NO_LIMITS)
    return {
        name: TenantLimit(
            getattr(own, name) if getattr(own, name) is not None else default_of(file, name),
            _source(name, info, of_file),
        )
        for name in TenantLimits.model_fields
        if name not in (BUDGET, STORAGE)
    }


def default_of(config: Config, name: str) -> Any:
    """Value of a limit for tenants without their own: the setting of the same name, which may end
    with ``_per_tenant``, or else the default of ``TenantLimits``."""
    for setting in (f"{name}_per_tenant", name):
        if setting in FIELDS:
            return getattr(getattr(config, AREA_OF[setting]), setting)
    return TenantLimits.model_fields[name].default


def merged_limits(of_file: TenantLimits, own: Limits) -> TenantLimits:
    """``of_file`` with ``own`` before it. Raises pydantic's ``ValidationError``."""
    return TenantLimits.model_validate(of_file.model_dump(exclude_unset=True) | dict(own))


def check_limits(limits: Limits) -> None:
    """``InvalidInput`` with every limit that is unknown or whose value is not valid."""
    try:
        TenantLimits.model_validate({k: v for k, v in limits.items() if v is not None})
        unknown = [limit for limit in limits if limit not in TenantLimits.model_fields]
    except ValidationError as error:
        problems = tuple(
            FieldProblem(("body", "limits", *problem["loc"]), problem["msg"], problem["type"])
            for problem in error.errors()
        )
        raise InvalidInput.of_problems(problems) from None
    if unknown:
        raise InvalidInput.of_field(f"limits.{unknown[0]}", "There is no such limit")


def _source(
    name: str, info: TenantInfo, of_file: TenantLimits
) -> Literal["file", "api", "default"]:
    if name in info.limits:
        return "api"
    return "file" if getattr(of_file, name) != getattr(NO_LIMITS, name) else "default"


def _unknown(tenant: str) -> NotFound:
    return NotFound(f"There is no tenant {tenant[:64]}.")
