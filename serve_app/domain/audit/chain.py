"""The audit log as a chain of hashes: how an entry is hashed, and how a chain is checked.

An entry's hash covers all of its fields and the hash of the entry before. So an entry that was
changed, removed, added or moved breaks the chain from there on. A chain that was written anew, or
cut at its end, is found by a hash that was kept elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

FIRST_PREVIOUS = "0" * 64
"""What the first entry of a chain has as the hash of the entry before."""

PRUNE = "audit.prune"
"""Action of a checkpoint: entries up to one were deleted by age, with that one's hash."""

FIELDS = (
    "sequence", "id", "at", "actor", "address", "action", "subject", "detail", "tenant", "previous",
)  # fmt: skip
"""Fields that the hash covers."""

MAX_LINE = 2**22  # characters


@dataclass(frozen=True, slots=True)
class SealedAct:
    """Entry of the audit log in its place of the chain."""

    sequence: int  # from 1, without gaps
    id: int
    at: datetime
    actor: str
    address: str
    action: str
    subject: str
    detail: Mapping[str, Any]
    tenant: str  # whom the act is about; empty: no tenant
    previous: str  # hash of the entry before
    hash: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """Fields that the hash covers, as JSON has them."""
        record = {name: getattr(self, name) for name in FIELDS}
        return record | {"at": self.at.astimezone(UTC).isoformat(timespec="microseconds")}

    @property
    def computed_hash(self) -> str:
        return hash_of(self.record)

    @property
    def line(self) -> str:
        """Line of an export."""
        return _text(self.record | {"hash": self.hash}) + "\n"


def hash_of(record: Mapping[str, Any]) -> str:
    """SHA-256 of an entry's fields as JSON: sorted names, no spaces, ASCII."""
    return hashlib.sha256(_text(record).encode()).hexdigest()


def _text(record: Mapping[str, Any]) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


class BrokenChain(ValueError):
    """An export that is not a chain. ``line``: the first line that is wrong, from 1."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(line, problem)
        self.line = line
        self.problem = problem

    def __str__(self) -> str:
        return f"line {self.line}: {self.problem}"


@dataclass(slots=True)
class ChainCheck:
    """What a chain has, found by ``verify``."""

    entries: int = 0
    first: int = 0
    last: int = 0
    last_hash: str = FIRST_PREVIOUS


def verify(lines: Iterable[str], anchors: Mapping[int, str] | None = None) -> ChainCheck:
    """Check an export. ``anchors``: hashes by place in the chain, kept elsewhere. Those of entries
    that were deleted by age, before the first line, are not checked.

    Reads one line at a time. Raises ``BrokenChain`` at the first wrong line.
    """
    known, check = anchors or {}, ChainCheck()
    begins_after: tuple[int, str] | None = None  # where a checkpoint must say that it begins
    for number, text in enumerate(lines, 1):
        entry = _parse_entry(number, text)
        if entry["hash"] != hash_of({name: entry[name] for name in FIELDS}):
            raise BrokenChain(number, "its hash does not fit its content: it was changed")
        if check.entries == 0:
            check.first, check.last = entry["sequence"], entry["sequence"] - 1
            check.last_hash = entry["previous"]
            begins_after = _beginning(number, entry)
        if entry["sequence"] != check.last + 1:
            raise BrokenChain(
                number, f"it is entry {entry['sequence']}, and entry {check.last + 1} is expected"
            )
        if entry["previous"] != check.last_hash:
            raise BrokenChain(number, "it does not continue the entry before")
        check.entries, check.last = check.entries + 1, entry["sequence"]
        check.last_hash = entry["hash"]
        if known.get(check.last, check.last_hash) != check.last_hash:
            raise BrokenChain(number, "its hash is not the one that was kept: it was written anew")
        if entry["action"] == PRUNE:
            pruned = (entry["detail"].get("sequence"), entry["detail"].get("hash"))
            begins_after = None if pruned == begins_after else begins_after
    if begins_after is not None:
        raise BrokenChain(
            1,
            f"entries 1 to {begins_after[0]} are missing, and no {PRUNE} entry of the chain says "
            "that they were deleted by age",
        )
    if known and max(known) > check.last:
        raise BrokenChain(
            check.entries + 1, f"entry {max(known)} was kept elsewhere, but is missing here"
        )
    return check


def _beginning(number: int, entry: Mapping[str, Any]) -> tuple[int, str] | None:
    """Last entry before the chain and its hash; None: the chain has its first entry."""
    if entry["sequence"] > 1:
        return entry["sequence"] - 1, entry["previous"]
    if entry["previous"] != FIRST_PREVIOUS:
        raise BrokenChain(number, "it is the first entry, but says that one is before it")
    return None


def _parse_entry(number: int, text: str) -> dict[str, Any]:
    if len(text) > MAX_LINE:
        raise BrokenChain(number, "it is too long for an entry of the audit log")
    try:
        entry: object = json.loads(text)
    except (ValueError, RecursionError):
        raise BrokenChain(number, "it is not JSON") from None
    if not isinstance(entry, dict):
        raise BrokenChain(number, "it is not an entry of the audit log")
    known = cast("dict[str, Any]", entry)
    wrong = {*FIELDS, "hash"} ^ known.keys()
    texts = all(isinstance(known.get(name), str) for name in ("previous", "hash", "action"))
    if wrong or not texts or type(known["sequence"]) is not int or known["sequence"] < 1:
        fields = f" ({', '.join(sorted(wrong))})" if wrong else ""
        raise BrokenChain(number, f"its fields are not those of an entry{fields}")
    if not isinstance(known["detail"], dict):
        raise BrokenChain(number, "its detail is not an object")
    return known
