"""A pipeline class with the tiny components that it is made of and the arguments of its call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from deployments.engine.interception.modular import hide_progress_bars, is_modular
from deployments.engine.pipelines import pipeline_class
from deployments.families.call_mapping import chosen_results, parameters

Parts = Callable[[], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Wish:
    """What differs between the generations of a case."""

    prompt: str
    seed: int
    steps: int

    def generator(self) -> torch.Generator:
        return torch.Generator("cpu").manual_seed(self.seed)


#: Texts of equal length, word by word: calls with texts of other lengths are not merged.
WISHES = (
    Wish("a red dog", seed=1, steps=4),
    Wish("a big cat", seed=2, steps=6),
    Wish("a new hat", seed=3, steps=5),
)


@dataclass(frozen=True, slots=True)
class Case:
    """``parts`` makes components under the names of the constructor's parameters, or of those that
    its blocks expect; what the class does not take is left out, so that variants share them.
    ``call`` gives the arguments that ``arguments`` does not know by itself, or other values for
    those.
    ``attributes`` are set on the pipeline: sizes that its constructor fixes."""

    family: str
    name: str  # of the class, as diffusers exports it
    parts: Parts
    call: Callable[[Wish], Mapping[str, Any]]
    attributes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    variant: str = ""  # in words, where a class has a second case
    heavy: bool = False  # takes half a minute or more: in whole runs only
    resumes: bool = True  # False: snapshots of it are refused

    @property
    def title(self) -> str:
        return f"{self.name}, {self.variant}" if self.variant else self.name

    @property
    def kind(self) -> type:
        kind = pipeline_class(self.name)
        assert kind is not None, self.name
        return kind

    def build(self) -> Any:
        """The pipeline, with the same weights at every call."""
        torch.manual_seed(0)
        pipeline = _built(self.kind, self.parts())
        for component in pipeline.components.values():
            if isinstance(component, torch.nn.Module):
                enliven(component)
        hide_progress_bars(pipeline)
        for name, value in self.attributes.items():
            setattr(pipeline, name, value)
        return pipeline

    def arguments(self, wish: Wish) -> dict[str, Any]:
        """One call's arguments. Generators and inputs are new each time: pipelines use them up."""
        usual = {
            "prompt": wish.prompt,
            "num_inference_steps": wish.steps,
            "generator": wish.generator(),
            "output_type": "pt",
        }
        takes = parameters(self.kind)
        known = {name: value for name, value in usual.items() if name in takes}
        return known | chosen_results(self.kind) | dict(self.call(wish))


def _built(kind: type, parts: Mapping[str, Any]) -> Any:
    if is_modular(kind):
        pipeline = kind()
        pipeline.register_components(
            **{name: parts[name] for name in pipeline.component_names if name in parts}
        )
        settings = (pipeline.config.keys() - pipeline.components.keys()) & parts.keys()
        pipeline.register_to_config(**{name: parts[name] for name in settings})
        return pipeline
    takes = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return kind(
        **{
            parameter.name: _part(parameter, parts)
            for parameter in takes
            if parameter.kind is not parameter.VAR_KEYWORD
        }
    )


def _part(parameter: inspect.Parameter, parts: Mapping[str, Any]) -> Any:
    if parameter.name in parts:
        return parts[parameter.name]
    if parameter.name in {"requires_safety_checker", "add_watermarker", "enable_safety_checker"}:
        return False
    return None if parameter.default is parameter.empty else parameter.default


@torch.no_grad()
def enliven(module: torch.nn.Module) -> None:
    """Weights under which every input reaches the output, for evaluation.

    Many layers begin at zero (ControlNets, the last layer of most transformers), so that wrong
    inputs would give right outputs; others are left uninitialised for weights to be loaded.
    """
    module.eval()
    for parameter in module.parameters():
        if not parameter.is_floating_point() or bool((parameter == 1).all()):
            continue  # norms
        fan_in = max(parameter[0].numel(), 8) if parameter.ndim > 1 else 100
        parameter.normal_(std=0.9 * fan_in**-0.5)
