"""How people ask for audio: synonyms, word orders and words the model cannot know."""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from training.audio.world import Audio
from training.words import pick, sample_nonsense

PITCH_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "low": ("low", "low", "deep", "low-pitched"),
    "middle": ("", "", "middle", "medium"),
    "high": ("high", "high", "high-pitched", "shrill"),
}
LOUDNESS_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "quiet": ("quiet", "quiet", "soft", "faint"),
    "normal": ("", "", ""),
    "loud": ("loud", "loud", "very loud", "strong"),
}
#: The first way is the regular one; {} stands for loudness and pitch.
MANNER_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "tone": ("a {} tone", "a {} steady tone", "a {} note", "one long {} tone", "a {} hum"),
    "rising": (
        "a {} rising sweep", "a {} sweep going up", "a {} rising tone", "a {} tone that rises",
        "a {} upward glide", "a {} sound gliding up",
    ),
    "falling": (
        "a {} falling sweep", "a {} sweep going down", "a {} falling tone", "a {} tone that falls",
        "a {} downward glide", "a {} sound gliding down",
    ),
    "siren": ("a {} siren", "a {} wailing siren", "a {} alarm", "a {} sound wailing"),
    "two beeps": ("two {} beeps", "2 {} beeps", "two {} short tones", "a {} double beep"),
    "three beeps": ("three {} beeps", "3 {} beeps", "three {} short tones", "a {} triple beep"),
    "four beeps": ("four {} beeps", "4 {} beeps", "four {} short tones"),
}  # fmt: skip

_OPENINGS: Final = ("play", "the sound of", "please play", "i want to hear", "make")
_CLOSINGS: Final = ("please", ", clear", ", studio recording", ".", ", hifi", "in stereo")
_GLUE: Final = ("a", "an", "the", "of", "sound", "pitched", "very", "that")


def known_words() -> list[str]:
    """Every word that carries meaning in a prompt, sorted."""
    tables = (PITCH_WORDS, LOUDNESS_WORDS, MANNER_WORDS)
    phrases = [words for table in tables for choices in table.values() for words in choices]
    return sorted(
        {word for phrase in phrases for word in re.findall("[a-z0-9]+", phrase)} | set(_GLUE)
    )


def plain_prompt(audio: Audio) -> str:
    """The recording in its shortest regular words, as in "three loud high beeps"."""
    pitch = "" if audio.pitch == "middle" else audio.pitch
    loudness = "" if audio.loudness == "normal" else audio.loudness
    return _filled(MANNER_WORDS[audio.manner][0], f"{loudness} {pitch}")


def sample_prompt(rng: np.random.Generator, audio: Audio, *, noise: float = 0.3) -> str:
    """One of the many ways to ask for the recording; `noise` is how often strange words appear."""
    words = [pick(rng, LOUDNESS_WORDS[audio.loudness]), pick(rng, PITCH_WORDS[audio.pitch])]
    adjectives = " ".join(words[:: rng.choice([1, -1])])
    prompt = _filled(pick(rng, MANNER_WORDS[audio.manner]), adjectives)
    if rng.random() < noise:
        prompt = f"{pick(rng, _OPENINGS)} {prompt}"
    if rng.random() < noise:
        prompt = f"{prompt} {pick(rng, _CLOSINGS)}"
    if rng.random() < noise:
        prompt = f"{prompt} {sample_nonsense(rng)}"
    return " ".join(prompt.split())


def _filled(form: str, words: str) -> str:
    return " ".join(form.format(words).split())
