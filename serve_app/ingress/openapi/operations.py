"""The calls of operators: what the queue holds, and acts by hand."""

from __future__ import annotations

from serve_app.domain.operations import HaltKind
from serve_app.domain.request import State
from serve_app.ingress.openapi.parts import (
    NUMBER,
    OBJECT,
    TAG,
    TEXT,
    TIME,
    WHOLE,
    Json,
    answer,
    in_path,
    in_query,
    listed,
    nullable,
    one_of,
    operation,
    record,
    reference,
    refusals,
)

REQUEST_ID = in_path("request_id", "The id of a request of any tenant.")
ENDPOINT_ID = in_path("endpoint_id", "Its slashes stay as they are.")

SCHEMAS: Json = {
    "Halt": record(
        {
            "endpoint_id": TEXT,
            "kind": nullable(one_of(*HaltKind)),
            "at": nullable(TIME),
            "actor": nullable(TEXT),
        }
    ),
    "Lane": record(
        {
            "pool": TEXT,
            "tenant": TEXT,
            "queued": WHOLE,
            "running": WHOLE,
            "oldest_s": nullable(NUMBER),
        }
    ),
    "RunningLease": record(
        {
            "request_id": TEXT,
            "attempt": WHOLE,
            "tenant": TEXT,
            "endpoint": TEXT,
            "pool": TEXT,
            "replica_id": TEXT,
            "age_s": NUMBER,
            "expires_in_s": NUMBER,
        }
    ),
    "Act": record(
        {
            "id": WHOLE,
            "at": TIME,
            "actor": TEXT,
            "action": TEXT,
            "subject": TEXT,
            "detail": OBJECT,
        }
    ),
}


def paths() -> Json:
    """All take the scope ``admin``."""
    return {**_looking(), **_halting(), **_requests()}


def _looking() -> Json:
    oldest = record({"age_s": NUMBER, "state": TEXT, "application": TEXT, "pid": WHOLE})
    seen = record(
        {
            "lanes": listed(reference("Lane")),
            "leases": listed(reference("RunningLease")),
            "halts": listed(reference("Halt")),
            "oldest_transaction": nullable(oldest),
        }
    )
    page = record({"acts": listed(reference("Act")), "next_before": nullable(WHOLE)})
    return {
        "/v1/queue": {
            "get": operation(
                "getQueue",
                "Lanes, leases and halted endpoints; takes the scope `admin`",
                {"200": answer("They.", seen), **refusals(403)},
                tag=TAG,
            )
        },
        "/v1/audit": {
            "get": operation(
                "listActs",
                "What was done by hand, newest first; takes the scope `admin`",
                {"200": answer("A page.", page), **refusals(403, 422)},
                tag=TAG,
                parameters=(
                    in_query("before", "`next_before` of the page before.", WHOLE),
                    in_query("limit", "1 to 500; 50 unless given.", WHOLE),
                ),
            )
        },
    }


def _halting() -> Json:
    summaries = {
        "pause": "Accept an endpoint's requests and let them wait; takes the scope `admin`",
        "drain": "Refuse an endpoint's requests and serve what waits; takes the scope `admin`",
        "resume": "End a pause or a drain; takes the scope `admin`",
    }
    return {
        f"/v1/endpoints/{{endpoint_id}}/{act}": {
            "put": operation(
                f"{act}Endpoint",
                summary,
                {"200": answer("How it stands.", reference("Halt")), **refusals(403, 404)},
                tag=TAG,
                parameters=(ENDPOINT_ID,),
            )
        }
        for act, summary in summaries.items()
    }


def _requests() -> Json:
    standing = record({"request_id": TEXT, "state": one_of(*State)})
    reason = in_query("reason", "Told to its owner.", TEXT)
    acts = {
        "requeue": ("Take a request from its replica and queue it again", ()),
        "fail": ("End a request as failed", (reason,)),
    }
    return {
        f"/v1/requests/{{request_id}}/{act}": {
            "put": operation(
                f"{act}Request",
                f"{summary}; takes the scope `admin`",
                {"200": answer("How it stands.", standing), **refusals(400, 403, 404, 422)},
                tag=TAG,
                parameters=(REQUEST_ID, *more),
            )
        }
        for act, (summary, more) in acts.items()
    }
