"""All errors of Darkroom, in one tree.

DarkroomError
├── InvalidInput              a field of the request's input is wrong; names the field
├── Unsupported               this installation does not support the requested feature (names it)
│   └── EndpointNotServed     listed in the catalogue, but not usable; says why
├── UntrustedHost             the Host header names a machine that is not ours
├── Unauthenticated           no key, or an unknown key
├── Forbidden                 a known key without the required permission
│   └── TenantDisabled        an operator has disabled the key's tenant
├── TenantBeingDeleted        the tenant of this name is being deleted
├── NotFound
│   ├── EndpointNotFound
│   ├── RequestNotFound
│   └── ArtifactNotFound
├── MethodNotAllowed          the path does not take the method; says which it takes
├── NotFinished               the outcome was read before there is one
├── EntryExists               the call is only for what does not exist yet (`If-None-Match: *`)
├── RequestActive             the action is possible only after the request's end
├── RequestDeleted            the request of this idempotency key was deleted
├── OutcomeForgotten          the outcome was not to be kept, and the time to fetch it is over
├── AlreadyFinal              an action on a request that has ended
├── TooLarge                  a body, an upload or an input over its limit
├── BodyTooSlow               a body that arrives below the least rate
├── Overloaded                retry after ``retry_after_s``
│   └── RateLimited           too many requests of the tenant in a time
├── BudgetExhausted           the tenant's budget does not cover the request
├── Unavailable               a component that Darkroom depends on does not respond
│   ├── EndpointDraining      an operator drains the endpoint
│   ├── NodesUnknown          no replica has described its ComfyUI yet
│   ├── DatabaseUnavailable
│   ├── ProviderUnavailable   the sign-in provider
│   └── StorageUnavailable
│       └── StorageFull       no space for another artifact
├── Fenced                    a write by an attempt that no longer holds the lease
├── GenerationError           failure of an attempt
│   ├── PipelineFailed        the pipeline raised; a retry would raise again
│   ├── WeightsUnavailable    the weights are missing or cannot be loaded
│   ├── AppNotStarted         the process of the endpoint's app does not start; says why
│   ├── SecretMissing         a secret that the endpoint needs is not set; says which
│   ├── HostedFailed          a hosted provider refused or failed the request; says why
│   ├── HostedUnconfirmed     it is not known whether a hosted provider has accepted the request
│   ├── SnapshotRefused       no snapshot is possible, or it cannot be resumed here; says why
│   ├── ForkRefused           no draft is possible, or the generation cannot go on from it; says why
│   ├── MarkMissing           a file does not say that it is AI-generated, and must
│   ├── NotSigned             a file cannot be signed, and must be; says why
│   ├── ContentBlocked        the operator's policy does not let the output be delivered
│   ├── UploadPolicyFailed    the client's own bucket did not take a file; says why
│   ├── OutOfMemory           the generation does not fit this replica
│   ├── ReplicaDied           the process ended while it held the lease
│   ├── Poison                the request ended its replica too many times
│   ├── FailedByHand          an operator ended it
│   ├── Cancelled             it was cancelled on request
│   └── Expired               its time to start or to end has passed
└── Misconfigured             a setting, a file or the machine; the message says what to change
    └── LoraRefused           a LoRA cannot be read, or does not fit the model; says which

Each has a stable ``code``, a flag that says if a retry can help, and a message for the person who
reads it. Every error survives pickle, because it is sent between processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from serve_app.domain.billing.budgets import Allowance


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """A problem with one field of the input.

    ``loc`` is the path from the body, such as ``("body", "image_size", "width")``. ``context``
    holds the bounds that were violated, by pydantic's names (``ge``, ``le``, ``expected`` …).
    """

    loc: tuple[str | int, ...]
    message: str
    type: str
    context: dict[str, Any] | None = None
    value: Any = None


def field_loc(field: str) -> tuple[str | int, ...]:
    """Path of a field from the body: ``loras.0.path`` → ``("body", "loras", 0, "path")``."""
    return ("body", *(int(part) if _is_index(part) else part for part in field.split(".")))


def _is_index(part: str) -> bool:
    """Return whether a part of a field's path is the place in a list. A client's own names may have
    thousands of digits, which Python refuses to read."""
    return part.isdecimal() and len(part) < 10


class DarkroomError(Exception):
    """Root of all errors of Darkroom."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidInput(DarkroomError):
    """The input does not fit the endpoint's schema."""

    code = "invalid_input"

    def __init__(self, message: str, problems: tuple[FieldProblem, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems

    @classmethod
    def of_field(
        cls,
        field: str,
        message: str,
        type: str = "value_error",
        context: dict[str, Any] | None = None,
    ) -> InvalidInput:
        """Error with one problem, of the field ``field``: a field of the body, or one inside it
        (``loras.0.path``)."""
        problem = FieldProblem(field_loc(field), message, type, context)
        return cls(f"{field}: {message}", (problem,))

    @classmethod
    def of_problems(cls, problems: tuple[FieldProblem, ...], count: int = 0) -> InvalidInput:
        """Error whose message names the first of the problems. ``count``: of all that there are, if
        ``problems`` are only some."""
        first, more = problems[0], max(len(problems), count) - 1
        field = ".".join(map(str, first.loc[1:]))
        message = f"{field}: {first.message}" if field else first.message
        return cls(f"{message} (and {more} more)" if more else message, problems)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.problems)


class Unsupported(DarkroomError):
    """Requested feature that this installation does not support. It is refused, never ignored."""

    code = "feature_not_supported"


class UntrustedHost(DarkroomError):
    """The Host header names a machine that is not ours."""

    code = "untrusted_host"


class EndpointNotServed(Unsupported):
    code = "endpoint_not_served"


class Unauthenticated(DarkroomError):
    code = "unauthenticated"


class Forbidden(DarkroomError):
    code = "forbidden"


class TenantDisabled(Forbidden):
    code = "tenant_disabled"


class TenantBeingDeleted(DarkroomError):
    code = "tenant_being_deleted"
    retryable = True


class NotFound(DarkroomError):
    code = "not_found"


class EndpointNotFound(NotFound):
    code = "endpoint_not_found"


class RequestNotFound(NotFound):
    code = "request_not_found"


class ArtifactNotFound(NotFound):
    code = "artifact_not_found"


class MethodNotAllowed(DarkroomError):
    """``allowed``: methods that the path takes, separated by commas."""

    code = "method_not_allowed"

    def __init__(self, message: str, allowed: str = "") -> None:
        super().__init__(message)
        self.allowed = allowed

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.allowed)

    @classmethod
    def of_call(cls, method: str, allowed: Iterable[str]) -> Self:
        """Error of a call with ``method`` to a path that takes others."""
        methods = ", ".join(sorted(allowed))
        return cls(f"This path takes {methods}, not {method}.", methods)


class NotFinished(DarkroomError):
    code = "not_finished"
    retryable = True


class EntryExists(DarkroomError):
    code = "entry_exists"


class RequestActive(DarkroomError):
    code = "request_active"
    retryable = True


class RequestDeleted(DarkroomError):
    code = "request_deleted"


class OutcomeForgotten(DarkroomError):
    code = "outcome_forgotten"


class AlreadyFinal(DarkroomError):
    code = "already_final"


class TooLarge(DarkroomError):
    code = "too_large"


class BodyTooSlow(DarkroomError):
    """The client sends the body below the least rate."""

    code = "body_too_slow"
    retryable = True


class Overloaded(DarkroomError):
    """Capacity exceeded. ``retry_after_s`` estimates when a retry can succeed. ``reason`` names the
    limit in the metrics, such as ``tenant_limit``."""

    code = "overloaded"
    retryable = True

    def __init__(
        self, message: str, retry_after_s: float = 1.0, reason: str = "overloaded"
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.retry_after_s, self.reason)


class RateLimited(Overloaded):
    """More requests in a time than the tenant may submit. ``allowance``: what it has left."""

    code = "rate_limited"

    def __init__(
        self, message: str, retry_after_s: float = 1.0, allowance: Allowance | None = None
    ) -> None:
        super().__init__(message, retry_after_s, "rate_limit")
        self.allowance = allowance

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.retry_after_s, self.allowance)


class BudgetExhausted(DarkroomError):
    """The tenant's budget does not cover the request. ``allowance``: what it has left."""

    code = "budget_exhausted"

    def __init__(self, message: str, allowance: Allowance | None = None) -> None:
        super().__init__(message)
        self.allowance = allowance

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.allowance)


class Unavailable(DarkroomError):
    """Component that does not respond. ``retry_after_s``: time until a retry is worthwhile."""

    code = "unavailable"
    retryable = True
    retry_after_s: ClassVar[int] = 1  # for information that is about to be available


class EndpointDraining(Unavailable):
    code = "endpoint_draining"
    retry_after_s = 30  # until an operator changes it


class NodesUnknown(Unavailable):
    """No replica has described the nodes of its ComfyUI yet."""

    code = "nodes_unknown"
    retry_after_s = 30  # a start of ComfyUI


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"
    retry_after_s = 5  # a killed PostgreSQL has restarted by then


class ProviderUnavailable(Unavailable):
    code = "provider_unavailable"
    retry_after_s = 10


class StorageUnavailable(Unavailable):
    code = "storage_unavailable"
    retry_after_s = 10  # until a network or store recovers


class StorageFull(StorageUnavailable):
    code = "storage_full"
    retry_after_s = 30  # until files are deleted by a user or by retention


class Fenced(DarkroomError):
    """The writing attempt no longer holds the lease: it must drop its work."""

    code = "fenced"


class GenerationError(DarkroomError):
    """Failure of an attempt. ``retryable`` decides if there is another attempt."""

    code = "generation_failed"


class PipelineFailed(GenerationError):
    code = "pipeline_failed"


class WeightsUnavailable(GenerationError):
    code = "weights_unavailable"


class AppNotStarted(GenerationError):
    code = "app_not_started"
    retryable = True  # another replica may reach the index of packages, or have the memory


class SecretMissing(GenerationError):
    code = "secret_missing"


class HostedFailed(GenerationError):
    code = "hosted_failed"


class HostedUnconfirmed(GenerationError):
    code = "hosted_unconfirmed"


class MarkMissing(GenerationError):
    code = "mark_missing"


class NotSigned(GenerationError):
    code = "not_signed"
    retryable = True


class ContentBlocked(GenerationError):
    code = "content_policy_violation"


class UploadPolicyFailed(GenerationError):
    """The bucket that the client named did not take a file. The client has to change something."""

    code = "upload_policy_failed"


class SnapshotRefused(GenerationError):
    code = "snapshot_refused"


class ForkRefused(GenerationError):
    code = "fork_refused"


class OutOfMemory(GenerationError):
    code = "out_of_memory"
    retryable = True


class ReplicaDied(GenerationError):
    code = "replica_died"
    retryable = True


class Poison(GenerationError):
    code = "poison"


class FailedByHand(GenerationError):
    code = "failed_by_hand"


class Cancelled(GenerationError):
    code = "cancelled"


class Expired(GenerationError):
    code = "expired"


TOO_LATE = "The request did not end by its deadline (X-Darkroom-Deadline or Cancel-After)."
"""Message of ``Expired``, used by replicas and by the queue."""


class Misconfigured(DarkroomError):
    """Problem of this machine or its settings. The message says what to change."""

    code = "misconfigured"


class LoraRefused(Misconfigured):
    """Problem of a generation's LoRA. ``number``: index of the LoRA, from 0; None: all of them
    together."""

    code = "adapter_refused"

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.number)
