"""The chain of the audit log, checked without a server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.audit.chain import FIELDS, BrokenChain, SealedAct, hash_of, verify
from serve_app.queue.audit_log import chain_acts

AT = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)


def acts(number: int, **fields: Any) -> Sequence[SealedAct]:
    defaults: dict[str, Any] = {
        "actor": "key", "address": "10.0.0.7", "action": "endpoint.pause", "subject": "e",
        "detail": {"n": 1}, "tenant": "",
    }  # fmt: skip
    sealed = [
        SealedAct(0, n, AT + timedelta(seconds=n), **(defaults | fields), previous="")
        for n in range(number)
    ]
    return chain_acts(None, sealed)


def lines(number: int) -> list[str]:
    return [act.line for act in acts(number)]


def change_record(line: str, *, rehash: bool = False, **fields: Any) -> str:
    record = json.loads(line) | fields
    if rehash:
        record["hash"] = hash_of({name: record[name] for name in FIELDS})
    return json.dumps(record)


def test_an_export_is_a_chain() -> None:
    verified = verify(lines(5))
    assert (verified.entries, verified.first, verified.last) == (5, 1, 5)
    assert verify([]).entries == 0


@given(
    at=st.integers(0, 6),
    name=st.sampled_from([*FIELDS, "hash"]),
    value=st.one_of(st.text(), st.integers(), st.dictionaries(st.text(), st.text(), min_size=1)),
)
def test_any_change_of_a_field_is_found_at_its_line(at: int, name: str, value: object) -> None:
    export = lines(7)
    if json.loads(export[at])[name] == value:
        return
    export[at] = change_record(export[at], **{name: value})
    with pytest.raises(BrokenChain) as raised:
        verify(export)
    assert raised.value.line == at + 1


@given(st.permutations(range(6)), st.integers(0, 6))
def test_moved_or_missing_lines_are_found(order: Sequence[int], kept: int) -> None:
    known = lines(6)
    export = [known[n] for n in order][:kept]
    if export == known[:kept]:
        assert verify(export).entries == kept
        return
    with pytest.raises(BrokenChain):
        verify(export)


def test_a_changed_entry_whose_hash_was_computed_anew_is_found_at_the_next_line() -> None:
    export = lines(4)
    export[1] = change_record(export[1], rehash=True, actor="someone else")
    with pytest.raises(BrokenChain, match="line 3: it does not continue"):
        verify(export)


def test_a_chain_that_was_cut_or_written_anew_is_found_by_a_hash_kept_elsewhere() -> None:
    known = acts(5)
    anchors = {act.sequence: act.hash for act in known[3:4]}
    assert verify([act.line for act in known], anchors).entries == 5
    with pytest.raises(BrokenChain, match="line 4: entry 4 was kept elsewhere"):
        verify([act.line for act in known[:3]], anchors)
    with pytest.raises(BrokenChain, match="line 4: its hash is not the one that was kept"):
        verify([act.line for act in acts(5, actor="someone else")], anchors)


def test_entries_before_the_first_line_need_a_checkpoint() -> None:
    known = acts(3)
    pruned = {"sequence": 2, "hash": known[1].hash, "entries": 2}
    checkpoint = SealedAct(0, 9, AT, "", "", "audit.prune", "", pruned, "", "")
    chain = [*known, *chain_acts(known[-1], [checkpoint])]
    assert verify([act.line for act in chain[2:]], {1: "deleted"}).first == 3
    with pytest.raises(BrokenChain, match="entries 1 to 1 are missing"):
        verify([act.line for act in chain[1:]])
    with pytest.raises(BrokenChain, match="entries 1 to 2 are missing"):
        verify([known[2].line])


@pytest.mark.parametrize(
    "text", ["", "[]", "nothing", "{}", "[" * 100_000, '{"sequence": 1}', "1e999", '"\\ud800"']
)
def test_what_is_no_entry_is_named_with_its_line(text: str) -> None:
    with pytest.raises(BrokenChain, match="line 2: "):
        verify([lines(1)[0], text])


def test_the_hash_is_the_same_for_every_zone_and_for_any_text() -> None:
    (there,) = acts(1, actor="\ud800\0é", detail={"z": 1.5, "a": [None, "\u2028"]})
    here = SealedAct(**{name: getattr(there, name) for name in (*FIELDS, "hash")} | {
        "at": there.at.astimezone(timezone(timedelta(hours=9)))
    })  # fmt: skip
    assert here.computed_hash == there.hash
    assert verify([here.line]).entries == 1
