"""Facts about kinds of executors: all that others than an executor itself must know of its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast


def _suffix_of_path(option: Mapping[str, Any]) -> str | None:
    path = option.get("path")
    return "" if path == "/" else path


@dataclass(frozen=True, slots=True)
class ExecutorFacts:
    """Facts about a kind of executor. The defaults are those of code, of an executor that has no
    row in ``FACTS``, and of the engine's families."""

    option: str = "app"
    """Option of an endpoint with what its executor runs."""

    is_hosted: bool = False
    """A provider elsewhere runs it for money, with secrets of tenants."""

    answers_inline: bool = False
    """The answer to the call of the provider is the result, unless the provider makes it a job."""

    slow_on_cpu: str = ""
    """Program that computes on a CPU, if slowly, where its replica has no GPU. Empty: none does."""

    suffix: Callable[[Mapping[str, Any]], str | None] = _suffix_of_path
    """Function from the option to what ``darkroom deploy`` appends to a name for the endpoint's id.
    None: it did not store the endpoint."""


def _no_suffix(option: Mapping[str, Any]) -> str | None:
    return "" if option else None


def _suffix_of_mode(option: Mapping[str, Any]) -> str | None:
    mode = option.get("mode")
    return "" if mode == "predict" else mode and f"/{mode}"


HOSTED = "hosted"
_PROVIDER = ExecutorFacts(HOSTED, is_hosted=True)

FACTS: Mapping[str, ExecutorFacts] = {
    "python": ExecutorFacts(),
    "cog": ExecutorFacts("cog", suffix=_suffix_of_mode),
    "comfyui": ExecutorFacts("comfyui", slow_on_cpu="ComfyUI", suffix=_no_suffix),
    "fal": _PROVIDER,
    "replicate": _PROVIDER,
    "openai": replace(_PROVIDER, answers_inline=True),
    "darkroom": _PROVIDER,
}
"""Facts by the name that endpoints use as their ``family``."""

PROVIDERS = tuple(family for family, facts in FACTS.items() if facts.is_hosted)


def facts_of(family: str) -> ExecutorFacts:
    return FACTS.get(family, FACTS["python"])


def option_of(family: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Option of an endpoint with what its executor runs. Empty if it has none."""
    option = options.get(facts_of(family).option)
    return cast("Mapping[str, Any]", option) if isinstance(option, Mapping) else {}
