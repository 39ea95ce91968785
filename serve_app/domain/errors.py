"""Everything that can go wrong, as one tree.

DarkroomError
├── InvalidInput              a field of the request's input is wrong; names the field
├── Unsupported               asked for something this installation does not do (names it)
│   └── EndpointNotServed     listed in the catalogue, but it lacks something; says what
├── UntrustedHost             the Host header names a machine that is not ours
├── Unauthenticated           no key, or one that is not known
├── Forbidden                 a known key that may not do this
├── NotFound
│   ├── EndpointNotFound
│   ├── RequestNotFound
│   └── ArtifactNotFound
├── NotFinished               the outcome was read before there is one
├── RequestActive             what was asked for can be done only after the request's end
├── RequestDeleted            the request of this idempotency key was deleted
├── OutcomeForgotten          it was not to be kept, and the time to fetch it is over
├── AlreadyFinal              an act on a request that has ended
├── TooLarge                  a body, an upload or an input over its limit
├── Overloaded                try again after ``retry_after_s``
├── Unavailable               a part that Darkroom stands on does not answer
│   ├── EndpointDraining      an operator lets it run empty
│   ├── DatabaseUnavailable
│   └── StorageUnavailable
│       └── StorageFull       no room for another artifact
├── Fenced                    a write by an attempt that no longer holds the lease
├── GenerationError           how an attempt can fail
│   ├── PipelineFailed        the pipeline raised; trying again would raise again
│   ├── WeightsUnavailable    the weights are missing or cannot be loaded
│   ├── SnapshotRefused       it cannot be taken, or nothing can go on from it here; says why
│   ├── OutOfMemory           the generation does not fit this replica
│   ├── ReplicaDied           the process ended while it held the lease
│   ├── Poison                the request ended its replica too many times
│   ├── FailedByHand          an operator ended it
│   ├── Cancelled             somebody asked for it
│   └── Expired               its time to start or to end has passed
└── Misconfigured             a setting, a file or the machine; the message says what to change
    └── AdapterRefused        an adapter cannot be read, or does not fit the model; says which

Each carries a stable ``code``, whether trying the same thing again can help, and a message written
for the person who meets it. Every error survives pickle, because it crosses processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with one field of the input.

    ``loc`` is the path from the body, such as ``("body", "image_size", "width")``. ``context``
    holds the bounds that were missed, by pydantic's names (``ge``, ``le``, ``expected`` …).
    """

    loc: tuple[str | int, ...]
    message: str
    type: str
    context: dict[str, Any] | None = None
    value: Any = None


def field_loc(field: str) -> tuple[str | int, ...]:
    """The path of a field from the body: of ``loras.0.path``, ``("body", "loras", 0, "path")``."""
    return ("body", *(int(part) if part.isdecimal() else part for part in field.split(".")))


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
        """One problem, with the field ``field``: of the body itself, or inside one of its fields
        (``loras.0.path``)."""
        problem = FieldProblem(field_loc(field), message, type, context)
        return cls(f"{field}: {message}", (problem,))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.problems)


class Unsupported(DarkroomError):
    """Asked for something that this installation does not do. It is refused, never ignored."""

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


class NotFound(DarkroomError):
    code = "not_found"


class EndpointNotFound(NotFound):
    code = "endpoint_not_found"


class RequestNotFound(NotFound):
    code = "request_not_found"


class ArtifactNotFound(NotFound):
    code = "artifact_not_found"


class NotFinished(DarkroomError):
    code = "not_finished"
    retryable = True


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


class Overloaded(DarkroomError):
    """Past capacity. ``retry_after_s`` is an estimate of when asking again can succeed."""

    code = "overloaded"
    retryable = True

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.retry_after_s)


class Unavailable(DarkroomError):
    """``retry_after_s``: after which asking again is worth it."""

    code = "unavailable"
    retryable = True
    retry_after_s: ClassVar[int] = 1  # something is about to be known


class EndpointDraining(Unavailable):
    code = "endpoint_draining"
    retry_after_s = 30  # until an operator decides otherwise


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"
    retry_after_s = 5  # a PostgreSQL that was killed is back by then


class StorageUnavailable(Unavailable):
    code = "storage_unavailable"
    retry_after_s = 10  # a network, or a store, that recovers


class StorageFull(StorageUnavailable):
    code = "storage_full"
    retry_after_s = 30  # until somebody, or age, has deleted something


class Fenced(DarkroomError):
    """The attempt that writes does not hold the lease any more: drop the work."""

    code = "fenced"


class GenerationError(DarkroomError):
    """How an attempt can fail. ``retryable`` decides whether another attempt is made."""

    code = "generation_failed"


class PipelineFailed(GenerationError):
    code = "pipeline_failed"


class WeightsUnavailable(GenerationError):
    code = "weights_unavailable"


class SnapshotRefused(GenerationError):
    code = "snapshot_refused"


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


TOO_LATE = "The request did not end within the time that its X-Darkroom-Deadline allowed."
"""Said by whoever notices it, replica or queue."""


class Misconfigured(DarkroomError):
    """Something on this machine or in its settings. The message says what, and what to change."""

    code = "misconfigured"


class AdapterRefused(Misconfigured):
    """An adapter that a generation asks for. ``number``: which of its adapters, from 0; None: all
    of them together."""

    code = "adapter_refused"

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.number)
