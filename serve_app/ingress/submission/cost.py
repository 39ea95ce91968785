"""The price of a submit, and the most that its client lets it cost."""

from __future__ import annotations

from serve_app.catalog.known_cost import KnownCost, apps_of, cost_of, cost_of_workflow
from serve_app.domain.workflows.definition import FAMILY
from serve_app.ingress.submission.admission import Submission
from serve_app.ingress.submission.max_cost import header_refused, refusal_of


async def check_cost(submission: Submission) -> None:
    """Set the price. ``InvalidInput``: it would cost more than it may, or that is not known."""
    submission.price = submission.services.price_of(submission.entry)
    most = submission.options.max_cost
    if most is not None and (refusal := refusal_of(known_cost(submission), most)):
        raise header_refused(f"allows {most}, and {refusal}")


def known_cost(submission: Submission) -> KnownCost:
    """What a validated input costs, of a workflow with all its steps."""
    services, entry = submission.services, submission.entry
    if entry.endpoint.family != FAMILY:
        return cost_of(entry, services.price_of(entry), submission.input, submission.left)
    catalog = services.catalog.of_tenant(submission.tenant)
    prices = {
        app: services.price_of(found)
        for app in apps_of(entry)
        if (found := catalog.find(app)) is not None
    }
    return cost_of_workflow(catalog, prices, entry, submission.input)
