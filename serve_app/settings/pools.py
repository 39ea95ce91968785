"""Values of settings that are objects: worker pools, and limits of tenants and endpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from serve_app.domain.billing.price import CURRENCY, DECIMALS
from serve_app.domain.executors.kinds import PROVIDERS, facts_of
from serve_app.domain.operations import WeightsLevel
from serve_app.domain.workflows.definition import POOL as WORKFLOWS
from serve_app.settings import schedule
from serve_app.settings.bounds import MAX_BYTES, MAX_COUNT, MAX_DAYS, MAX_MONEY
from serve_app.settings.overflow import OverflowPools, canary_mistakes, mistakes

INLINE_SHUTDOWN_S = 620.0  # longer than a call whose answer is the result
SLOTS_ON_GPU = 8  # for families of which nothing is known
MAX_SLOTS = 1000
MAX_HOSTED_SLOTS = 3000
"""Slots of a replica of hosted providers, each of which is a coroutine that mostly waits: more than
one process can poll for would delay one another (``benchmarks.executors --only waiting``)."""
SLOTS_ON_CPU = 2  # with few cores, more slots only share the same compute

SLOTS: Mapping[str, Mapping[float, int]] = {
    "audio": {0: 4, 48: 8},
    "flux": {0: 4, 80: 8},
    "flux2": {0: 2, 80: 4},
    "generic": {0: 2, 80: 4},
    "sdxl": {0: 8, 48: 16},
    "video": {0: 2, 141: 4},
}
"""Slots of a replica by family and by the least memory of its GPU, in GB.

A forward of one FLUX.1 image of 1024 pixels, or of a video, occupies a GPU, and a second row gains
nothing. More slots only let a request encode or decode while another one computes, and keep it from
other replicas. SDXL at 512 pixels gains up to 16 rows. On small GPUs weights leave no memory for
more. Computed, not measured.
"""

MEMORY_GB: Mapping[str, float] = {
    "T4": 16,
    "P100": 16,
    "L4": 24,
    "A10G": 24,
    "L40S": 48,
    "H100": 80,
    "H20": 96,
    "RTX-PRO-6000": 96,
    "H200": 141,
    "B200": 192,
}
"""Memory of GPUs by Ray's names for them. Not here: names of GPUs that are sold with several
amounts, such as A100."""


BOUNDS = frozenset(
    {
        "canary_of",
        "endpoints",
        "keep_alive_s",
        "max_replicas",
        "min_replicas",
        "overflow_after_s",
        "overflow_of",
        "spare_replicas",
        "target_wait_s",
        "warm",
    }
)
"""Keys of a pool that only the ingress and the scaling policy read, while they run."""


class WarmConfig(BaseModel):
    """Replicas of a pool that are kept ready, at all times or in some hours."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    endpoint: str = Field(
        default="", description="Endpoint whose weights they hold; empty: only the replicas."
    )
    replicas: int = Field(default=1, ge=1)
    level: WeightsLevel = Field(
        default=WeightsLevel.HOT,
        description="Where the weights are held: `hot` on the GPU, `host` in host memory, `disk`.",
    )
    hours: str = Field(default="", description="Such as `08:00-20:00`; empty: all day.")
    days: str = Field(default="", description="Such as `mon-fri`; empty: every day.")
    timezone: str = Field(
        default="UTC",
        validate_default=True,  # reads the zone's file, before the ingress needs it
        description="Time zone of the hours and days.",
    )

    @field_validator("hours")
    @classmethod
    def _hours(cls, value: str) -> str:
        schedule.hours_of(value)
        return value

    @field_validator("days")
    @classmethod
    def _check_days(cls, value: str) -> str:
        schedule.days_of(value)
        return value

    @field_validator("timezone")
    @classmethod
    def _timezone(cls, value: str) -> str:
        schedule.zone_of(value)
        return value

    def is_in_force(self, now: datetime) -> bool:
        return schedule.is_within(now, self.hours, self.days, self.timezone)


class PoolConfig(BaseModel):
    """Worker pool: a Serve deployment, the model families that it hosts, and its scaling."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    families: tuple[str, ...] = Field(
        default=(),
        description="Model families that its replicas host. With `overflow_of` or `canary_of`, "
        "leave it out.",
    )
    endpoints: tuple[str, ...] = Field(
        default=(),
        description="The only endpoints that it serves; empty: all of its families that no other "
        "pool names. With `overflow_of`: the only ones that it takes; empty: all.",
    )
    overflow_of: str = Field(
        default="",
        description="Pool whose requests it takes when that pool has no free slot. It has the "
        "families of that pool and grows for what that pool cannot take.",
    )
    overflow_after_s: float = Field(
        default=180.0,
        ge=0,
        description="Time that the pool before it has to start what is queued and to have its "
        "replicas ready. What it cannot, this pool does. Longer than a cold start.",
    )
    canary_of: str = Field(
        default="",
        description="Pool whose requests it takes beside that pool's own replicas, to try other "
        "`code` or settings. It stops when its attempts fail more often or take longer. What it "
        "does not set, besides the numbers of replicas, it has from that pool.",
    )
    code: str = Field(
        default="",
        pattern=r"^$|^local:///.+$|^(file|https?|s3|gs|azure|abfss)://.+\.zip$",
        description="Darkroom's code that its replicas run in place of the installed one: a folder "
        "that each node has (`local:///opt/darkroom-next`), or a zip that Ray fetches (`s3://`, "
        "`gs://`, `https://`).",
    )
    slots: int = Field(
        default=0,
        ge=0,
        le=MAX_HOSTED_SLOTS,
        description="Generations that a replica runs at once if its memory allows, or requests "
        f"that it holds for apps (at most {MAX_SLOTS}) and hosted providers; "
        f"0: by families and GPU, {SLOTS_ON_CPU} on a CPU.",
    )
    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=1, ge=1)
    spare_replicas: int = Field(
        default=0, ge=0, description="Replicas beyond what the demand needs."
    )
    keep_alive_s: float = Field(
        default=300.0, ge=0, description="Time for which a replica that is not needed is kept."
    )
    warm: tuple[WarmConfig, ...] = Field(
        default=(), description="Replicas that are kept ready, by endpoint and hours."
    )
    target_wait_s: float = Field(
        default=5.0,
        ge=0,
        description="Time in which all that is queued should have started; "
        "0: a slot for each queued request.",
    )
    devices_per_replica: int = Field(
        default=1, ge=1, le=64, description="Devices that compute each denoiser call together."
    )
    num_cpus: float = Field(default=0.1, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    accelerator: str | None = Field(
        default=None, description="Required GPU type, by Ray's name: L4, A10G, H100 …"
    )
    resources: dict[str, float] = Field(
        default_factory=dict, description="Custom resources that a node must have."
    )
    threads: int = Field(default=0, ge=0, description="Torch threads; 0: torch's default.")
    weights_bytes: int = Field(
        default=0,
        ge=0,
        description="Bytes of weights that a replica keeps loaded; 0: depends on the device.",
    )
    warm_weights_share: float = Field(
        default=0.4,
        ge=0,
        le=0.8,
        description="Share of a node's memory for weights that were evicted from its GPU, per "
        "replica; 0: none.",
    )
    adapter_bytes: int = Field(
        default=0,
        ge=0,
        description="Bytes of LoRAs that a replica keeps on the device; 0: depends on the device.",
    )
    warm_up: bool = Field(
        default=True, description="Run a short generation after loading weights on a GPU."
    )
    prefetch: bool = Field(
        default=True,
        description="While all slots are taken, load the weights that queued requests need next, "
        "into memory that nothing uses.",
    )
    graceful_shutdown_timeout_s: float = Field(default=20.0, ge=6)
    snapshot_interval_s: float = Field(
        default=10.0,
        ge=0,
        description="Interval of snapshots of running requests; 0: only at shutdown.",
    )
    stuck_after_s: float = Field(
        default=600.0, gt=0, description="A step that takes longer ends the replica."
    )

    @model_validator(mode="after")
    def _bounds_in_order(self) -> PoolConfig:
        if self.min_replicas > self.max_replicas:
            raise ValueError("it has more min_replicas than max_replicas; change one of them")
        if self.slots > MAX_SLOTS and not {*self.families} <= {*PROVIDERS}:
            raise ValueError(
                f"it has {self.slots} slots; more than {MAX_SLOTS} are for pools that host only "
                f"providers ({', '.join(PROVIDERS)})"
            )
        for target in self.warm:
            if target.replicas > self.max_replicas:
                raise ValueError(
                    f"warm asks for {target.replicas} replicas, and max_replicas is "
                    f"{self.max_replicas}; change one of them"
                )
        return self

    @model_validator(mode="after")
    def _families_of_its_own_or_of_another(self) -> PoolConfig:
        if not self.families and not self.beside_or_after:
            raise ValueError("it needs families, overflow_of or canary_of")
        if self.canary_of and not self.min_replicas:
            raise ValueError("it is a canary without replicas; set min_replicas to 1 or more")
        return self

    @property
    def beside_or_after(self) -> str:
        """Pool whose requests it takes, as a canary or as overflow. Empty: it has a queue."""
        return self.canary_of or self.overflow_of

    @property
    def shutdown_s(self) -> float:
        """Time that a replica has to end. Images of OpenAI are the answer of a call, which takes
        minutes and is paid, so that a replica without a limit of its own waits for it."""
        is_set = "graceful_shutdown_timeout_s" in self.model_fields_set
        inline = any(facts_of(family).answers_inline for family in self.families)
        return INLINE_SHUTDOWN_S if inline and not is_set else self.graceful_shutdown_timeout_s

    @property
    def device_bytes(self) -> int | None:
        """Memory of each of its GPUs. None if its settings do not say."""
        memory = MEMORY_GB.get(self.accelerator or "")
        return int(memory * 1e9) if memory is not None and self.num_gpus else None

    @property
    def slots_by_memory(self) -> Mapping[float, int]:
        """Slots of a replica by the least memory of its GPU in GB, ascending; that of the family
        that needs the most. Empty if the number does not depend on it."""
        if self.slots or not self.num_gpus:
            return {}
        tables = [SLOTS.get(family, {0: SLOTS_ON_GPU}) for family in self.families]
        steps = sorted({least for table in tables for least in table})
        return {
            step: max(table[max(least for least in table if least <= step)] for table in tables)
            for step in steps
        }

    @property
    def max_slots(self) -> int:
        """Maximum number of generations that a replica runs at once.

        A pool that names no GPU class counts as one of the smallest.
        """
        if not self.slots_by_memory:
            return self.slots or (SLOTS_ON_GPU if self.num_gpus else SLOTS_ON_CPU)
        memory = MEMORY_GB.get(self.accelerator or "", 0.0)
        return [slots for least, slots in self.slots_by_memory.items() if least <= memory][-1]


def with_families(pools: Mapping[str, PoolConfig]) -> dict[str, PoolConfig]:
    """The pools, where each that takes requests of another one has its families, and a canary also
    its other settings.

    Raises ``ValueError`` with each mistake in ``overflow_of`` and ``canary_of``, and for a name
    that is taken.
    """
    before = {name: pool.overflow_of for name, pool in pools.items()}
    canary_of = {name: pool.canary_of for name, pool in pools.items() if pool.canary_of}
    problems = [*mistakes(before), *canary_mistakes(canary_of, before)]
    if WORKFLOWS in pools:
        problems.append(f"The name {WORKFLOWS} is taken: requests to workflows wait there.")
    if problems:
        raise ValueError(" ".join(problems))
    chains = overflow_pools(pools)
    configs: dict[str, PoolConfig] = {}
    for name, pool in pools.items():
        head = pools[chains.queue_of(name)]
        if pool.beside_or_after and pool.families not in ((), head.families):
            key = "canary_of" if pool.canary_of else "overflow_of"
            raise ValueError(
                f"{name}.families differ from those of the pool in {name}.{key}, whose "
                f"requests it takes. Remove {name}.families; {name}.endpoints can limit what it "
                "takes."
            )
        inherited = _canary_defaults(pools[pool.canary_of]) if pool.canary_of else {}
        own = {key: getattr(pool, key) for key in pool.model_fields_set}
        configs[name] = pool.model_copy(update={**inherited, **own, "families": head.families})
    return configs


def _canary_defaults(pool: PoolConfig) -> dict[str, Any]:
    """What the canaries of a pool have from it."""
    return pool.model_dump(exclude={*OWN_OF_CANARY}, exclude_unset=True)


OWN_OF_CANARY = frozenset(
    {
        "canary_of",
        "code",
        "max_replicas",
        "min_replicas",
        "overflow_after_s",
        "overflow_of",
        "spare_replicas",
        "warm",
    }
)
"""Keys of a pool that its canaries do not have from it."""


def overflow_pools(pools: Mapping[str, PoolConfig] | None) -> OverflowPools:
    """Which of the pools take requests of another one."""
    own = {name: pool for name, pool in (pools or {}).items() if pool.beside_or_after}
    return OverflowPools(
        {name: pool.beside_or_after for name, pool in own.items()},
        {name: frozenset(pool.endpoints) for name, pool in own.items()},
        {name: pool.device_bytes for name, pool in own.items() if pool.device_bytes is not None},
        {name: _digest(pool) for name, pool in own.items() if pool.canary_of},
    )


def _digest(pool: PoolConfig) -> str:
    """Digest of what the replicas of a pool run, which its bounds are no part of."""
    text = pool.model_dump_json(exclude={*BOUNDS} - {"canary_of"})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class BudgetConfig(BaseModel):
    """Money that a tenant may spend in a period."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    amount: Decimal = Field(
        gt=0, le=MAX_MONEY, decimal_places=DECIMALS, description="Money in a period."
    )
    currency: str = Field(
        default=CURRENCY,
        pattern=r"^[A-Z]{3}$",
        description="Requests whose price has another one do not count.",
    )
    period: Literal["day", "month"] = Field(default="month", description="In UTC.")
    warn_at: tuple[Annotated[float, Field(gt=0, le=MAX_COUNT)], ...] = Field(
        default=(0.8,), max_length=10, description="Shares of the amount that warn, once a period."
    )
    stop: bool = Field(default=True, description="Refuse requests that exceed the amount.")
    webhook: str | None = Field(
        default=None, pattern=r"^https?://", description="URL that is called with each warning."
    )


FileDefault = Literal["public", "private"]
MAX_URL_VALID_S = 366 * 86400.0


class TenantLimits(BaseModel):
    """Share and limits of a tenant."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    weight: float = Field(
        default=1.0,
        # The time of a lane divides by it: one that is far below all others would overflow there,
        # and nothing of the pool would start.
        ge=0.001,
        le=1000,
        description="Share relative to other tenants, from 0.001 to 1000.",
    )
    max_running: int | None = Field(
        default=None, ge=1, le=MAX_COUNT, description="Running requests."
    )
    max_waiting: int | None = Field(
        default=None, ge=1, le=MAX_COUNT, description="Queued requests."
    )
    max_waiting_bytes: int | None = Field(
        default=None, ge=1, le=MAX_BYTES, description="Bytes of its queued inputs above 64 KiB."
    )
    max_uploads_bytes: int | None = Field(
        default=None, ge=1, le=MAX_BYTES, description="Bytes of all its uploaded files."
    )
    max_drafts_bytes: int | None = Field(
        default=None, ge=1, le=MAX_BYTES, description="Bytes of all its drafts."
    )
    max_weights_bytes: int | None = Field(
        default=None, ge=1, le=MAX_BYTES, description="Bytes of all weights that it has registered."
    )
    max_private_endpoints: int | None = Field(
        default=None, ge=1, le=MAX_COUNT, description="Private endpoints."
    )
    requests_per_minute: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Requests that it may submit on average."
    )
    requests_burst: int | None = Field(
        default=None,
        ge=1,
        le=MAX_COUNT,
        description="Requests at once. Unset: those of ten seconds.",
    )
    budget: BudgetConfig | None = Field(default=None, description="Money that it may spend.")
    retention_days: float | None = Field(
        default=None,
        gt=0,
        le=MAX_DAYS,
        description="Days after which its ended requests are deleted.",
    )
    prompt_retention_days: float | None = Field(
        default=None,
        gt=0,
        le=MAX_DAYS,
        description="Days after which inputs, outputs and logs of its ended requests are erased.",
    )
    file_retention_days: float | None = Field(
        default=None,
        gt=0,
        le=MAX_DAYS,
        description="Days after which its output files and uploads are deleted.",
    )
    storage: str | None = Field(
        default=None,
        pattern=r"^[a-z][a-z0-9-]{1,31}$",
        description="Storage location of its new files.",
    )
    files: FileDefault | None = Field(
        default=None,
        description="Its new files are `public`: anyone who knows a URL reads it; or `private`.",
    )
    file_url_valid_s: float | None = Field(
        default=None,
        ge=60,
        le=MAX_URL_VALID_S,
        description="Seconds for which URLs of its private files in results are valid at least.",
    )


BUDGET = "budget"
"""Limit that is no number: an object of its own in the settings and in calls."""

STORAGE = "storage"
"""Field that is no number and no limit."""

NO_LIMITS = TenantLimits()
"""Limits of a tenant that has none of its own. A tenant's own limit is above 0."""


class EndpointLimits(BaseModel):
    """Limits of an endpoint, for all tenants together."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_running: int | None = Field(
        default=None, ge=1, le=MAX_COUNT, description="Running requests."
    )
    max_waiting: int | None = Field(
        default=None, ge=1, le=MAX_COUNT, description="Queued requests."
    )
