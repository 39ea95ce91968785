"""Background jobs whose last attempt failed."""

from __future__ import annotations

from serve_app.jobs.jobs import FailingJob
from serve_app.resources.declaration import Owner, Resource
from serve_app.tenants.scopes import OPERATOR

JOBS = Resource(
    name="job",
    path="/v1/jobs",
    model=FailingJob,
    key="job",
    key_description="Kind and key.",
    key_has_slashes=True,
    scope=OPERATOR,
    owner=Owner.INSTALLATION,
    columns=("job", "tenant", "attempts", "next_attempt_at", "given_up_at", "error"),
    about="background jobs whose last attempt failed",
    restart="It is due at once, also if it was given up, and its attempts are counted anew.",
    empty="No job fails.",
)
