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

LORAS = "loras"
"""Field with LoRAs, which have rules of their own."""

MAX_TEXT = 200_000  # characters, of a text that has others than ASCII's: they take long to search
MAX_PLAIN_WORD = 512  # characters; a longer one without a space may be a file in base64

_WORDS = re.compile(r"\w+")
_SPACE = re.compile(r"\s")
_FILE = re.compile(r"https?://|data:", re.I)


def words_of(text: str) -> list[str]:
    """Words of a text in a form in which equal words are equal: without case, accents, compatible
    forms of letters, and characters that are not seen."""
    if text.isascii():  # long ones, such as base64, without a loop over their characters
        return _WORDS.findall(text.lower())
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(char for char in plain if unicodedata.category(char) not in ("Mn", "Cf"))
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
class Likeness:
    """Refusal of input files, and of all LoRAs and fine-tunes but these."""

    repositories: frozenset[str] = frozenset()  # in lower case
    digests: frozenset[str] = frozenset()  # SHA-256 of registered files, in hex

    def allows(self, repository: str, digests: Iterable[str]) -> bool:
        """Return whether registered weights are listed: where they come from, or all files."""
        files = {*digests}
        return repository.lower() in self.repositories or (bool(files) and files <= self.digests)


@dataclass(frozen=True, slots=True)
class SafetyRule:
    """What the operator's rule refuses, and for which requests. Empty patterns: all of them."""

    tenants: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()  # patterns such as ``fal-ai/flux/*``
    words: Blocklist = field(default_factory=lambda: Blocklist(()))
    loras: frozenset[str] = frozenset()  # repositories, in lower case
    lora_digests: tuple[str, ...] = ()  # SHA-256, in hex
    outputs: Mapping[str, Any] | None = None  # how files are checked, see ``Lease.safety``
    likeness: Likeness | None = None  # what could carry the likeness of a person is refused

    def is_for(self, tenant: str, endpoint: str) -> bool:
        """Return whether a request of the tenant to the endpoint is under this rule."""
        return (not self.tenants or tenant in self.tenants) and (
            not self.endpoints or any(fnmatchcase(endpoint, pattern) for pattern in self.endpoints)
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
                if rule.likeness is not None:
                    _check_likeness(rule.likeness, input)

    def check_weights(
        self, tenant: str, endpoint: str, repository: str, digests: Iterable[str], field: str
    ) -> None:
        """Raise ``InvalidInput`` if registered weights are refused, by the repository that they
        come from or by a digest."""
        for rule in self.rules:
            if not rule.is_for(tenant, endpoint):
                continue
            files = {*digests}
            blocked = repository.lower() in rule.loras or files & {*rule.lora_digests}
            if blocked or (rule.likeness and not rule.likeness.allows(repository, files)):
                message = "the operator of this installation does not allow these weights"
                raise InvalidInput.of_field(field, message, VIOLATION)

    def check_types(self, tenant: str, endpoint: str, media_types: Iterable[str]) -> None:
        """Raise ``InvalidInput`` if all files of a request will be audio that a rule withholds.

        The replica decides the same, but only after it has computed them.
        """
        types = {*media_types}
        if not types or any(not media_type.startswith("audio/") for media_type in types):
            return
        for rule in self.outputs(tenant, endpoint):
            if withholds_audio(rule):
                message = (
                    "it makes audio, which no checker of this installation hears, and its safety "
                    f"policy delivers nothing unchecked ({rule['name']}). The operator can let "
                    "audio pass"
                )
                raise InvalidInput.of_field("endpoint", message, VIOLATION)

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


def withholds_audio(rule: Mapping[str, Any]) -> bool:
    """Return whether a rule for files (``SafetyRule.outputs``) delivers no audio, which no checker
    hears. ``flag`` withholds nothing."""
    return rule["action"] != "flag" and rule.get("audio") != "pass"


def _check_words(rule: SafetyRule, input: Mapping[str, Any]) -> None:
    if not rule.words:
        return
    for name, text in _texts(input, ""):
        if len(text) > MAX_TEXT and not text.isascii():
            message = f"a text of more than {MAX_TEXT} characters is not searched: send less"
            raise InvalidInput.of_field(name, message, VIOLATION)
        if (word := rule.words.find(text)) is not None:
            message = f"the operator of this installation does not allow “{word}” in prompts"
            raise InvalidInput.of_field(name, message, VIOLATION)


def _texts(value: Any, field: str, *, negative: bool = False) -> Iterator[tuple[str, str]]:
    """Texts of an input at any depth, by their fields: an endpoint may read each of them as a
    prompt. URLs of files are none, nor are LoRAs. Negative prompts say what not to draw.

    ``negative``: the value's own texts are such prompts. Those of maps within it are not: a client
    chooses the names of a graph's nodes.
    """
    if isinstance(value, str):
        if not negative and _is_text(value, field):
            yield field, value
    elif isinstance(value, Mapping):
        for name, inner in cast("Mapping[str, Any]", value).items():
            if field or name != LORAS:
                inside = f"{field}.{name}" if field else name
                yield from _texts(inner, inside, negative="negative" in name)
    elif isinstance(value, (list, tuple)):
        items = cast("list[Any]", value)
        if not negative:
            # A phrase may go on in the next text.
            texts = [item for item in items if isinstance(item, str) and _is_text(item, field)]
            yield field, " ".join(texts)
        for number, inner in enumerate(items):
            if not isinstance(inner, str):
                yield from _texts(inner, f"{field}.{number}", negative=negative)


def _is_text(value: str, field: str) -> bool:
    """Return whether a string is more than one URL, or than the content of a file."""
    return "prompt" in field or _FILE.match(value) is None or _SPACE.search(value) is not None


def _check_likeness(likeness: Likeness, input: Mapping[str, Any]) -> None:
    loras = input.get(LORAS)
    for number, lora in enumerate(cast("list[Any]", loras) if isinstance(loras, list) else ()):
        path = str(lora.get("path", "")) if isinstance(lora, Mapping) else str(lora)
        # Registered ones were looked at when their names were resolved.
        if not path.startswith("weights:") and _repository(path) not in likeness.repositories:
            message = "requests may use no other LoRAs than those that the operator has listed"
            raise InvalidInput.of_field(f"{LORAS}.{number}.path", message, VIOLATION)
    for name, value in input.items():
        if name != LORAS and (field := _file_in(value, name)) is not None:
            message = "requests may have no input files: they can show real people"
            raise InvalidInput.of_field(field, message, VIOLATION)


def _file_in(value: Any, field: str) -> str | None:
    """First field that has a URL or the content of a file, or that could."""
    if isinstance(value, str):
        opaque = len(value) > MAX_PLAIN_WORD and not _SPACE.search(value)
        return field if opaque or _FILE.match(value.lstrip()) else None
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        inner = cast("Mapping[str, Any]", value).items()
    elif isinstance(value, (list, tuple)):
        inner = enumerate(cast("list[Any]", value))
    places = (_file_in(item, f"{field}.{name}") for name, item in inner)
    return next((place for place in places if place is not None), None)


def _check_loras(rule: SafetyRule, input: Mapping[str, Any]) -> None:
    loras = input.get(LORAS)
    if not rule.loras or not isinstance(loras, list):
        return
    for lora in cast("list[Any]", loras):
        path = str(lora.get("path", "")) if isinstance(lora, Mapping) else str(lora)
        if (repository := _repository(path)) in rule.loras:
            message = f"the operator of this installation does not allow the LoRA {repository}"
            raise InvalidInput.of_field(LORAS, message, VIOLATION)


def _repository(path: str) -> str:
    """Repository that a LoRA's path names, also by a URL of the hub; in lower case."""
    try:
        parsed = parse_lora_path(path)
    except ValueError:
        return ""
    if isinstance(parsed, HubFile):
        return parsed.repository.lower()
    match = re.match(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([^/]+/[^/]+)", path, re.I)
    return match.group(1).lower() if match else ""
