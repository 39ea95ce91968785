"""The admission: the steps of a submit in their order, and the doors that leave some out.

Each step is beside its feature. A new rule is a function there and a line here, and then it holds
at every door.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from serve_app.ingress.submission.admission import Step
from serve_app.ingress.submission.client_bucket import check_bucket
from serve_app.ingress.submission.cost import check_cost
from serve_app.ingress.submission.drafts import (
    check_drafts,
    continue_draft,
    require_no_drafts,
)
from serve_app.ingress.submission.fallback import plan_fallback
from serve_app.ingress.submission.file_access import check_private_inputs, choose_access
from serve_app.ingress.submission.input import (
    check_work,
    choose_pool,
    require_requests,
    require_sessions,
    validate_input,
)
from serve_app.ingress.submission.named_secrets import require_secrets
from serve_app.ingress.submission.registered import pin_weights
from serve_app.ingress.submission.replay import digest_body
from serve_app.ingress.submission.retries import grant_retries
from serve_app.ingress.submission.reuse import share_outcome
from serve_app.ingress.submission.safety import check_policy, require_unchecked_files
from serve_app.ingress.submission.shadow import choose_shadow
from serve_app.ingress.submission.signing import require_signable, require_unmarked_files

STEPS: Sequence[Step] = (
    require_requests,
    continue_draft,  # before the input: what the input leaves out, it has from its draft
    validate_input,  # before all that read the input
    check_drafts,
    pin_weights,  # before the digest of the outcome: registered weights may change
    choose_pool,
    require_secrets,
    check_work,  # after the pool, whose GPUs decide
    check_policy,
    require_signable,
    check_cost,
    check_private_inputs,  # before the shadow, which gets no copy of them
    check_bucket,
    choose_access,  # before outcomes are shared, and copied: with the same readers only
    grant_retries,
    plan_fallback,  # after all that may refuse: it is planned for what is admitted
    choose_shadow,
    share_outcome,
    digest_body,
)
"""Steps of a request. The order also decides which refusal a client gets that could get several."""


def without(left_out: Mapping[str, Collection[Step]]) -> Sequence[Step]:
    """Steps of a door that leaves out these. ``left_out``: by the reason."""
    skipped = [step for steps in left_out.values() for step in steps]
    return [step for step in STEPS if step not in skipped]


FRAME: Sequence[Step] = (
    require_unchecked_files,
    *without(
        {
            "Frames make no drafts.": (continue_draft, check_drafts),
            "They were taken when the session began.": (choose_pool, require_secrets, check_cost),
            "A frame is answered at once, and stored nowhere.": (
                require_signable,
                check_bucket,
                choose_access,
                grant_retries,
                plan_fallback,
                choose_shadow,
                share_outcome,
                digest_body,
            ),
        }
    ),
    require_no_drafts,
)
"""Frame of a realtime session."""

SESSION: Sequence[Step] = (require_sessions, choose_pool, require_secrets, check_cost)
"""Begin of a realtime session. No other step: it has no input but those of its frames."""

APP_SESSION: Sequence[Step] = (*SESSION, require_unchecked_files, require_unmarked_files)
"""Begin of a session with an app."""

APP_MESSAGE: Sequence[Step] = (check_policy,)
"""Message in a session with an app. No other step: it is the app's own, and no input of the
endpoint."""

PRICED: Sequence[Step] = (continue_draft, validate_input)
"""Line of a batch whose cost is asked. No other step: it is taken when the line is submitted."""
