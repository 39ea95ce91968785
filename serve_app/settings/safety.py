"""Settings of the safety policy: rules, and checkers of files."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from serve_app.domain.errors import Misconfigured
from serve_app.domain.media.safety import Blocklist, Likeness, SafetyPolicy, SafetyRule
from serve_app.paths import AbsolutePath

Action = Literal["off", "flag", "blur", "block"]


class CheckerConfig(BaseModel):
    """A checker of images: one of ``repository``, ``directory``, ``url`` and ``class_path``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: str = Field(
        default="", description="Image classifier of transformers on the hub, owner/name."
    )
    revision: str = Field(default="", description="Commit of the repository, 40 digits.")
    directory: str = Field(default="", description="The same classifier, on each node.")
    labels: tuple[str, ...] = Field(
        default=("nsfw",), description="Labels of the classifier that are unsafe."
    )
    threshold: float = Field(default=0.5, gt=0, le=1, description="Least score that counts.")
    url: str = Field(default="", description="HTTP service that gets each image.")
    class_path: str = Field(default="", description="Your own class, `module:Class`.")
    timeout_s: float = Field(default=10.0, gt=0, description="Longest check of one image.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(map(bool, (self.repository, self.directory, self.url, self.class_path))) != 1:
            raise ValueError(
                "it should have exactly one of repository, directory, url and class_path"
            )
        if self.repository and not re.fullmatch("[0-9a-f]{40}", self.revision):
            raise ValueError("a repository needs its revision: a commit, 40 digits")
        if self.class_path and self.class_path.count(":") != 1:
            raise ValueError("class_path should be `module:Class`")
        return self


class SafetyRuleConfig(BaseModel):
    """A rule, for some tenants and endpoints."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenants: tuple[str, ...] = Field(default=(), description="Tenants; empty: all.")
    endpoints: tuple[str, ...] = Field(
        default=(), description="Endpoints, or patterns such as `fal-ai/flux/*`; empty: all."
    )
    blocked_words: tuple[str, ...] = Field(
        default=(), description="Words and phrases that prompts may not have."
    )
    blocked_words_file: AbsolutePath | None = Field(
        default=None, description="The same, one a line, in a file on every ingress node."
    )
    blocked_loras: tuple[str, ...] = Field(
        default=(),
        description="LoRAs that requests may not use: repositories, owner/name, or SHA-256.",
    )
    outputs: Action = Field(
        default="off", description="What happens to a file that the checker finds unsafe."
    )
    likeness: Literal["allow", "refuse"] = Field(
        default="allow",
        description="`refuse`: no input files, and no LoRAs and fine-tunes but the allowed ones.",
    )
    allowed_loras: tuple[str, ...] = Field(
        default=(),
        description="LoRAs that `likeness` lets pass: repositories, owner/name, or SHA-256.",
    )
    checker: str = Field(default="", description="Name of the checker of the files.")
    on_error: Literal["block", "pass"] = Field(
        default="block", description="What happens to a file that cannot be checked."
    )
    audio: Literal["block", "pass"] = Field(
        default="block",
        description="What happens to audio, which no checker hears, where files are blurred or "
        "blocked.",
    )

    @field_validator("blocked_loras", "allowed_loras")
    @classmethod
    def _known_forms(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for lora in value:
            if lora.count("/") != 1 and not re.fullmatch("[0-9A-Fa-f]{64}", lora):
                raise ValueError(f"{lora} is neither owner/name nor a SHA-256 digest")
        return value

    @model_validator(mode="after")
    def _checker_for_outputs(self) -> Self:
        if (self.outputs == "off") == bool(self.checker):
            raise ValueError("outputs and checker belong together: give both or none")
        if self.allowed_loras and self.likeness == "allow":
            raise ValueError("allowed_loras belongs to likeness: refuse")
        return self

    @model_validator(mode="after")
    def _checked_likeness(self) -> Self:
        # Prompts alone make likenesses, which only a checker can find in the outputs.
        if self.likeness == "refuse" and (self.outputs, self.on_error) != ("block", "block"):
            raise ValueError(
                "likeness: refuse needs a checker that recognises people: give checker, with "
                "outputs: block, and on_error: block"
            )
        return self


def policy_of(
    rules: tuple[SafetyRuleConfig, ...], checkers: dict[str, CheckerConfig]
) -> SafetyPolicy:
    """Policy of the settings. Reads the files of words.

    Raises ``Misconfigured`` if a file cannot be read or a checker is not there.
    """
    return SafetyPolicy(tuple(_rule(rule, checkers) for rule in rules))


def _rule(config: SafetyRuleConfig, checkers: dict[str, CheckerConfig]) -> SafetyRule:
    words = [*config.blocked_words]
    if (path := config.blocked_words_file) is not None:
        try:
            words += path.read_text().splitlines()
        except (OSError, UnicodeError) as error:
            raise Misconfigured(
                f"DARKROOM_SAFETY_RULES: blocked_words_file cannot be read: {error}"
            ) from error
    outputs: dict[str, Any] | None = None
    if config.outputs != "off":
        if config.checker not in checkers:
            known = ", ".join(checkers) or "none"
            raise Misconfigured(
                f"DARKROOM_SAFETY_RULES names the checker {config.checker}, which is not in "
                f"DARKROOM_SAFETY_CHECKERS. There: {known}."
            )
        outputs = {
            "name": config.checker,
            "action": config.outputs,
            "on_error": config.on_error,
            "audio": config.audio,
            "checker": checkers[config.checker].model_dump(mode="json"),
        }
    blocked, likeness = _split_loras(config.blocked_loras), None
    if config.likeness == "refuse":
        likeness = Likeness(*_split_loras(config.allowed_loras))
    return SafetyRule(
        tenants=config.tenants,
        endpoints=config.endpoints,
        words=Blocklist(words),
        loras=blocked[0],
        lora_digests=tuple(sorted(blocked[1])),
        outputs=outputs,
        likeness=likeness,
    )


def _split_loras(loras: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """Repositories and digests, in lower case."""
    names = {lora.lower() for lora in loras}
    repositories = frozenset(name for name in names if "/" in name)
    return repositories, frozenset(names - repositories)
