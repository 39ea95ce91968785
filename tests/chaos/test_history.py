"""The checker finds what it is there to find."""

from __future__ import annotations

from dataclasses import replace

import psycopg

from tests.chaos.history import History, Tally
from tests.queue.database import Ingress
from tests.queue.requests import lease, make_finish, new, new_id

ENDED_AGAIN = """
INSERT INTO attempts (request_id, attempt, replica_id, actor_id, started_at, ended)
VALUES (%s, 2, '', '', now(), 'failed')
"""
HARM = [
    ("DELETE FROM requests", "lost"),
    ("UPDATE requests SET state = 'queued', outcome = NULL", "lost"),
    ("INSERT INTO events VALUES (%s, 4, now(), 'INFO', 'failed', '')", "ended_twice"),
    (ENDED_AGAIN, "ended_twice"),
    ("DELETE FROM usage", "billed_twice"),
    ("UPDATE usage SET attempt = 7", "billed_twice"),
    ("UPDATE usage SET request_id = gen_random_uuid()", "billed_twice"),
    ("UPDATE requests SET start_line = 9", "problems"),
    ("UPDATE requests SET end_line = 9", "problems"),
    ("UPDATE requests SET attempt = 2", "problems"),
    ("UPDATE requests SET failures = 1", "problems"),
    ("UPDATE requests SET webhook_url = 'https://nobody'", "problems"),
    ("UPDATE requests SET reuses = gen_random_uuid()", "problems"),
    ("INSERT INTO artifacts VALUES ('k', %s, 1, 'ann', 'image/png', 1, '')", "problems"),
]
"""Statements, and what counts them."""


async def one_that_ended(ingress: Ingress) -> tuple[History, str]:
    queue = await ingress()
    request = await queue.submit(new())
    granted = await lease(queue)
    await queue.finish(make_finish(granted.key))
    history = History(accepted={request.id}, finished=[granted.key])
    history.note_lease(granted)
    return history, request.id


async def test_what_went_well_has_no_problems_and_harm_that_is_done_to_it_is_found(
    ingress: Ingress,
) -> None:
    history, id_ = await one_that_ended(ingress)
    with psycopg.connect(ingress.conninfo) as connection:
        assert history.check(connection, {}) == Tally(accepted=1)
        for harm, field in HARM:
            with connection.transaction(force_rollback=True):
                connection.execute(harm, [id_] * harm.count("%s"))  # type: ignore[arg-type]
                assert getattr(history.check(connection, {}), field), harm


async def test_an_object_that_no_one_will_delete_is_found(ingress: Ingress) -> None:
    history, _ = await one_that_ended(ingress)
    with psycopg.connect(ingress.conninfo) as connection:
        (problem,) = history.check(connection, {"left": b"behind"}).problems
        assert "left lies in storage" in problem


async def test_what_was_answered_and_is_not_there_is_found(ingress: Ingress) -> None:
    history, id_ = await one_that_ended(ingress)
    with psycopg.connect(ingress.conninfo) as connection:
        history.accepted.add(new_id())
        assert history.check(connection, {}).lost == 1
        history.accepted = {id_}
        (key,) = history.leases[id_]
        history.leases[id_].append(replace(key, nonce=key.nonce + 1))
        twice = (f"{id_} was leased as attempts [1, 1], one of them twice.",)
        assert history.check(connection, {}).problems == twice


async def test_after_a_crash_of_the_server_only_a_nonce_that_comes_twice_is_a_problem(
    ingress: Ingress,
) -> None:
    history, id_ = await one_that_ended(ingress)
    history.server_crashed = True
    (key,) = history.leases[id_]
    history.leases[id_].append(replace(key, nonce=key.nonce + 1))
    with psycopg.connect(ingress.conninfo) as connection:
        assert not history.check(connection, {}).problems
        history.leases[id_].append(key)
        assert history.check(connection, {}).problems
        history.leases[id_].pop()
        history.finished.append(replace(key, nonce=key.nonce + 1))
        assert history.check(connection, {}).problems == (
            f"{id_}: the outcomes of attempts [1, 1] were all accepted.",
        )
