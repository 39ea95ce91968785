"""Isolation of generations: state that is restored for a turn and saved at suspension."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from typing import Any

import torch
from greenlet import getcurrent

from deployments.engine.accelerator.selection import KINDS

# Context variables of a generation's submitter, active while the engine works for it. For example
# the request's id, which every log line about the request has. The engine does not know the
# variables; it activates the whole context.


class run_in_context:  # noqa: N801  # it is used as a statement
    """Run a block in ``context``, like ``Context.run``.

    Unlike there, it may be nested in the same context, and two threads may be in one. It takes
    1.5 µs.
    """

    __slots__ = ("_before", "_context", "_here")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._here: Any = None
        self._before: Context | None = None

    def __enter__(self) -> None:
        self._here = here = getcurrent()
        self._before = here.gr_context
        here.gr_context = self._context

    def __exit__(self, *_: object) -> None:
        self._here.gr_context = self._before


# Attention processors that a pipeline sets on a denoiser while it runs. Some pipelines (for
# example perturbed-attention guidance) replace them on the module that all generations share, and
# restore the old ones at the end. Therefore they belong to the generation: they are removed
# whenever it is suspended, and set again for its calls.

Processors = tuple[Any, ...]
"""Processors, one per owner, in a fixed order."""


class ProcessorOwners:
    """Submodules of some modules that have a processor."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        owners = {
            id(part): part
            for module in modules
            for part in module.modules()
            if _NAME in vars(part) or _NAME in part._modules  # noqa: SLF001
        }
        self._owners = list(owners.values())

    def current(self) -> Processors:
        return tuple(getattr(owner, _NAME) for owner in self._owners)

    def put(self, processors: Processors) -> None:
        for owner, processor in zip(self._owners, processors, strict=True):
            if getattr(owner, _NAME) is not processor:
                # A processor with weights is a submodule; any other is a plain attribute.
                delattr(owner, _NAME)
                setattr(owner, _NAME, processor)


def same(some: Processors, others: Processors) -> bool:
    """Return whether both are the identical objects."""
    return all(processor is other for processor, other in zip(some, others, strict=True))


def describe_processors(processors: Processors, usual: Processors) -> Hashable:
    """Hashable difference from the usual processors, for a batch key.

    Differences of two generations are equal when they do the same: processors of one class that
    have only plain attributes, all equal.
    """
    return tuple(
        (place, _description(processor))
        for place, (processor, other) in enumerate(zip(processors, usual, strict=True))
        if processor is not other
    )


def _description(processor: Any) -> Hashable:
    state = getattr(processor, "__dict__", None)
    if isinstance(processor, torch.nn.Module) or state is None:
        return id(processor)
    if not all(isinstance(value, _PLAIN) for value in state.values()):
        return id(processor)
    return type(processor), tuple(sorted(state.items()))


_NAME = "processor"
_PLAIN = (str, int, float, bool, type(None))


# Settings on the blocks of a shared denoiser: FreeU and scales of IP-adapters. A generation can
# call diffusers' switches (``enable_freeu``, ``set_ip_adapter_scale``) on its own pipeline. The
# settings are therefore removed while the generation is suspended, set again for its calls, and
# part of its batch key.

Settings = Sequence[tuple[Any, str, Any]]
"""Tuples of (object, attribute name, value)."""


class ComponentSettings:
    """Blocks of some modules that FreeU changes. Other settings are on attention processors."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        blocks: Iterable[Any] = (getattr(module, "up_blocks", ()) for module in modules)
        self._blocks = [block for of_module in blocks for block in of_module]

    def current(self, processors: Processors) -> Settings:
        """Current values of all settings; ``processors`` may have a scale."""
        freeu = [
            (block, name, vars(block).get(name, _ABSENT))
            for block in self._blocks
            for name in _FREEU
        ]
        scaled = [
            processor for processor in processors if "scale" in getattr(processor, "__dict__", ())
        ]
        return freeu + [(processor, "scale", _copy_lists(processor.scale)) for processor in scaled]


def again(settings: Settings) -> Settings:
    """Read the current values of the same settings."""
    return [(part, name, _copy_lists(vars(part).get(name, _ABSENT))) for part, name, _ in settings]


def put(settings: Settings) -> None:
    for part, name, value in settings:
        if value is _ABSENT:
            vars(part).pop(name, None)
        else:
            setattr(part, name, _copy_lists(value))


def changes(before: Settings, after: Settings) -> Settings:
    """Entries of ``after`` that differ from ``before``, which has the same settings."""
    return [
        now
        for was, now in zip(before, after, strict=True)
        if was[2] is not now[2] and _frozen(was[2]) != _frozen(now[2])
    ]


def describe_settings(settings: Settings) -> Hashable:
    """Hashable form for a batch key."""
    return tuple((id(part), name, _frozen(value)) for part, name, value in settings)


def _copy_lists(value: Any) -> Any:
    """Copy nested lists, because diffusers writes into the lists of scales."""
    return [_copy_lists(item) for item in value] if isinstance(value, list) else value


def _frozen(value: Any) -> Hashable:
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    return value if isinstance(value, _PLAIN) else id(value)


_ABSENT = object()
_FREEU = ("s1", "s2", "b1", "b2")


# torch's per-thread state, which must be switched with the generations. Pipelines run under
# ``torch.no_grad()``, which restores the previous state on exit. With generations interleaved in
# one thread, one that ends would otherwise enable gradients for the others.


@dataclass(frozen=True, slots=True)
class ThreadState:
    """Gradient and autocast modes of the calling thread.

    Inference mode is not included: Python can enter it, but not set it.
    """

    gradients: bool
    autocast: tuple[tuple[bool, torch.dtype], ...]  # per device type: (enabled, dtype)
    autocast_cache: bool

    @classmethod
    def of_this_thread(cls) -> ThreadState:
        return cls(
            gradients=torch.is_grad_enabled(),
            autocast=tuple(
                (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in KINDS
            ),
            autocast_cache=torch.is_autocast_cache_enabled(),
        )

    def apply(self) -> None:
        torch.set_grad_enabled(self.gradients)
        for kind, (enabled, dtype) in zip(KINDS, self.autocast, strict=True):
            torch.set_autocast_enabled(kind, enabled)
            torch.set_autocast_dtype(kind, dtype)
        torch.set_autocast_cache_enabled(self.autocast_cache)


class SharedComponents:
    """Places on shared denoisers that hold a generation's settings during its turn."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        denoisers = list(modules)
        self.processors = ProcessorOwners(denoisers)
        self.settings = ComponentSettings(denoisers)


@dataclass(slots=True)
class Isolation:
    """A suspended generation's thread state, attention processors and block settings."""

    shared: SharedComponents
    context: Context  # the caller's; entered for work that is done for it alone
    thread: ThreadState | None = None  # None: it has not begun, or uses the engine's
    processors: Processors | None = None  # None: the usual ones
    settings: Settings = ()  # those that differ from the usual ones

    @contextmanager
    def in_place(self, *, keep: bool = False) -> Generator[None]:
        """Apply the generation's state inside the block, and the engine's afterwards.

        ``keep``: changes made inside belong to the generation from then on.
        """
        owners = self.shared.processors
        usual = owners.current()
        settled = self.shared.settings.current(usual)
        engine = ThreadState.of_this_thread()
        if self.thread is not None:
            self.thread.apply()
        if self.processors is not None:
            owners.put(self.processors)
        put(self.settings)
        try:
            yield
        finally:
            left = again(settled)
            if keep:
                self.thread = ThreadState.of_this_thread()
                now = owners.current()
                self.processors = None if same(now, usual) else now
                self.settings = changes(settled, left)
            put(changes(left, settled))
            owners.put(usual)
            engine.apply()

    def key(self) -> Hashable:
        """Batch key: equal for equal state. Valid only while the generations are suspended."""
        processors = None
        if self.processors is not None:
            processors = describe_processors(self.processors, self.shared.processors.current())
        return (self.thread, processors, describe_settings(self.settings))


# torch's global random state, for the few pipelines that draw from it beside their generator.
# diffusers' own rule is that the generator determines everything. These pipelines encode an image
# without passing their generator on, so the result depends on earlier draws of other code. Inside
# the engine, each such generation has its own global state, seeded like its generator: the same
# seed gives the same result, whatever else is running.


class RandomState:
    """Global random state of one generation.

    It does nothing unless the pipeline is declared to draw globally. The conformance runs found
    those pipelines: with the same generator, plain calls differ when the global state does.
    Switching the state costs some microseconds a turn, and affects other threads that draw in that
    time.
    """

    def __init__(self, seed: int | None = None, generators: Sequence[torch.Generator] = ()) -> None:
        """``seed``: None to use the shared state. ``generators``: the global ones."""
        self._seed = seed
        self._generators = generators
        self._states: list[torch.Tensor] = []  # state of each generator, while suspended

    @classmethod
    def of(cls, arguments: Mapping[str, Any], generators: Sequence[torch.Generator]) -> RandomState:
        """State for a call that draws globally.

        Without a generator, the caller does not expect repeatable output, and the state is shared.
        """
        generator = arguments.get("generator")
        first = next(iter(generator), None) if isinstance(generator, list | tuple) else generator
        if not isinstance(first, torch.Generator):
            return cls()
        return cls(first.initial_seed(), generators)

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Use this state inside the block, and restore the shared state afterwards."""
        if self._seed is None:
            yield
            return
        outside = [rng.get_state() for rng in self._generators]
        for number, generator in enumerate(self._generators):
            if self._states:
                generator.set_state(self._states[number])
            else:
                generator.manual_seed(self._seed)
        try:
            yield
        finally:
            self._states = [rng.get_state() for rng in self._generators]
            for generator, state in zip(self._generators, outside, strict=True):
                generator.set_state(state)
