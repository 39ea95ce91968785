"""The operator's policy for what requests may ask for: words of prompts, and LoRAs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, cast

from serve_app.domain.errors import InvalidInput
from serve_app.domain.lora import HubFile, parse_lora_path

VIOLATION = "content_policy_violation"
"""fal's type of the error."""

_WORDS = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """Words of a text in a form in which equal words are equal: without case, accents, compatible
    forms of letters, and characters that are not seen."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(each for each in plain if unicodedata.category(each) not in ("Mn", "Cf"))
    return _WORDS.findall(kept)


class Blocklist:
    """Words and phrases that prompts may not have. Only whole words count: ``ass`` is not in
    ``assess``."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self._phrases: dict[str, list[tuple[list[str], str]]] = {}
        for phrase in phrases:
            if words := words_of(phrase):
                self._phrases.setdefault(words[0], []).append((words, phrase.strip()))

    def __bool__(self) -> bool:
        return bool(self._phrases)

    def find(self, text: str) -> str | None:
        """First phrase that is in the text, as the operator wrote it. None if there is none."""
        words = words_of(text)
        for place, word in enumerate(words):
            for phrase, written in self._phrases.get(word, ()):
                if words[place : place + len(phrase)] == phrase:
                    return written
        return None


@dataclass(frozen=True, slots=True)
class SafetyRule:
    """What the operator's rule refuses, and for which requests. Empty patterns: all of them."""

    tenants: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()  # patterns such as ``fal-ai/flux/*``
    words: Blocklist = field(default_factory=lambda: Blocklist(()))
    loras: frozenset[str] = frozenset()  # repositories, in lower case
    lora_digests: tuple[str, ...] = ()  # SHA-256, in hex
    outputs: Mapping[str, Any] | None = None  # how files are checked, see ``Lease.safety``

    def is_for(self, tenant: str, endpoint: str) -> bool:
        """Return whether a request of the tenant to the endpoint is under this rule."""
        return (not self.tenants or tenant in self.tenants) and (
            not self.endpoints or any(fnmatchcase(endpoint, each) for each in self.endpoints)
        )


@dataclass(frozen=True, slots=True)
class SafetyPolicy:
    """All rules of the installation. Every rule that a request is under applies."""

    rules: tuple[SafetyRule, ...] = ()

    def check(self, tenant: str, endpoint: str, input: Mapping[str, Any]) -> None:
        """Raise ``InvalidInput``, with the field and the word or LoRA, if the input is refused."""
        for rule in self.rules:
            if rule.is_for(tenant, endpoint):
                _check_words(rule, input)
                _check_loras(rule, input)

    def check_weights(
        self, tenant: str, endpoint: str, repository: str, digests: Iterable[str], field: str
    ) -> None:
        """Raise ``InvalidInput`` if registered weights are refused, by the repository that they
        come from or by a digest."""
        for rule in self.rules:
            if not rule.is_for(tenant, endpoint):
                continue
            blocked = repository.lower() in rule.loras or {*digests} & {*rule.lora_digests}
            if blocked:
                message = "the operator of this installation does not allow these weights"
                raise InvalidInput.of_field(field, message, VIOLATION)

    def of_lease(self, tenant: str, endpoint: str) -> tuple[Mapping[str, Any], ...]:
        """What only a replica can check. See ``Lease.safety``."""
        mine = [rule for rule in self.rules if rule.is_for(tenant, endpoint)]
        loras = tuple({"loras": list(rule.lora_digests)} for rule in mine if rule.lora_digests)
        return (*self.outputs(tenant, endpoint), *loras)

    def outputs(self, tenant: str, endpoint: str) -> tuple[Mapping[str, Any], ...]:
        """How the files of a request are checked."""
        return tuple(
            rule.outputs
            for rule in self.rules
            if rule.outputs is not None and rule.is_for(tenant, endpoint)
        )


def _check_words(rule: SafetyRule, input: Mapping[str, Any]) -> None:
    if not rule.words:
        return
    for name, text in _prompts(input):
        if (found := rule.words.find(text)) is not None:
            message = f"the operator of this installation does not allow “{found}” in prompts"
            raise InvalidInput.of_field(name, message, VIOLATION)


def _prompts(input: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Texts that say what to draw, by their field. Negative prompts say what not to draw."""
    for name, value in input.items():
        if "prompt" not in name or "negative" in name:
            continue
        values = cast("list[Any]", value) if isinstance(value, list) else [value]
        for each in values:
            if isinstance(each, str):
                yield name, each


def _check_loras(rule: SafetyRule, input: Mapping[str, Any]) -> None:
    given = input.get("loras")
    if not rule.loras or not isinstance(given, list):
        return
    for each in cast("list[Any]", given):
        path = str(each.get("path", "")) if isinstance(each, Mapping) else str(each)
        if (found := _repository(path)) in rule.loras:
            message = f"the operator of this installation does not allow the LoRA {found}"
            raise InvalidInput.of_field("loras", message, VIOLATION)


def _repository(path: str) -> str:
    """Repository that a LoRA's path names, also by a URL of the hub; in lower case."""
    try:
        parsed = parse_lora_path(path)
    except ValueError:
        return ""
    if isinstance(parsed, HubFile):
        return parsed.repository.lower()
    found = re.match(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([^/]+/[^/]+)", path, re.I)
    return found.group(1).lower() if found else ""
