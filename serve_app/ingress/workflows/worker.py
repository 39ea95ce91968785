"""Background worker that runs requests to workflows: it submits their steps, and ends them.

One ingress process runs it, chosen by election, and holds nothing in memory: each look reads the
rows of the requests that may go on. What it does may be done twice, by two workers at once or again
after a crash: a step gets the id and the input of its request before that is submitted, each result
of a step is recorded once, and a request ends once.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import replace

from serve_app.domain.errors import (
    TOO_LATE,
    Cancelled,
    DarkroomError,
    DatabaseUnavailable,
    EndpointNotFound,
    Expired,
    Overloaded,
    RequestNotFound,
    Unavailable,
)
from serve_app.domain.lease import Finish
from serve_app.domain.outcome import Failure, Outcome
from serve_app.domain.sharing.fair_queue import work_of
from serve_app.domain.workflows.definition import Workflow
from serve_app.domain.workflows.plan import Plan, plan
from serve_app.domain.workflows.runs import RUNNER, Step, StepState, WorkflowRun
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import Services
from serve_app.ingress.submission import submission
from serve_app.ingress.submission.rendering import NO_OUTCOME
from serve_app.ingress.workflows import steps as requests
from serve_app.telemetry.logs import log_context

log = logging.getLogger(__name__)

EVERY_S = 0.2
LEADS_EVERY_S = 5.0  # another process takes over after three times as long
TIDY_EVERY_S = 5.0
STARTED_AT_ONCE = 100
ADVANCED_AT_ONCE = 8  # and read at once: each may have an input of ``max_body_bytes``
ABANDONED_AT_ONCE = 200
OF_ALL_REQUESTS = frozenset({"queue_full", "rate_limit", "tenant_limit"})
"""Reasons for which the queue takes none of a tenant's requests, whatever they are. Without this, a
thousand of its workflows would try in each look, before those of others go on."""
NUMBER = re.compile(r"[\d.]+")
DELETED = (
    "The workflow was deleted before the request started. Register it again with `darkroom deploy`."
)


class WorkflowWorker:
    """Workflows of one ingress process. Call ``advance`` and ``tidy`` again and again."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._book = services.queue.workflows
        self._full: set[str] = set()  # tenants of which the queue takes no requests in this look

    async def advance(self) -> None:
        """Start what is queued, and move every request on by what is possible now."""
        runs, last, self._full = self._book.runs, None, set[str]()
        await runs.start(STARTED_AT_ONCE)
        while due := await runs.due(ADVANCED_AT_ONCE, last, self._full):
            await asyncio.gather(*map(self._advance_logged, due))
            last = due[-1]

    async def tidy(self) -> None:
        """Cancel the steps of requests that were ended by others, such as an operator."""
        for tenant, _, request_id in await self._book.runs.list_abandoned_steps(ABANDONED_AT_ONCE):
            await self._cancel(tenant, request_id)
        await self._book.runs.close()

    async def _advance_logged(self, run: WorkflowRun) -> None:
        with log_context(run.lease_key.request_id), work_of(run.tenant):
            try:
                await self._advance(run)
            except DarkroomError as error:
                log.warning("The workflow %s goes on later: %s", run.endpoint, error.message)
            except Exception:
                log.exception("The workflow %s goes on later, after an error", run.endpoint)

    async def _advance(self, run: WorkflowRun) -> None:
        if run.definition is None:
            failure = Failure(EndpointNotFound.code, DELETED, retryable=False)
            await self._finish(run, Outcome(failure=failure), ())
            return
        workflow = Workflow.from_json(run.definition)
        steps = await self._settle_steps(run, workflow, await self._book.runs.steps(run))
        if (stop := _stop_outcome(run)) is not None:
            await self._finish(run, replace(stop, usage=requests.usage_of(steps)), steps)
            return
        unsent = [step for step in steps if step.state is StepState.SENDING]
        has_room = await self._send_all(run, workflow, unsent)
        while await self._go_on(run, workflow, steps, has_room=has_room):
            steps = await self._book.runs.steps(run)

    async def _go_on(
        self, run: WorkflowRun, workflow: Workflow, steps: Sequence[Step], *, has_room: bool
    ) -> bool:
        """Do what comes next. ``has_room``: the queue takes more requests. True: more steps can
        start at once."""
        results = {step.id: requests.result_of(step) for step in steps}
        most = self._services.config.limits.max_body_bytes
        next_ = await in_cpu_thread(plan, workflow, run.input, results, most)
        if next_.failure is not None:
            await self._finish(run, requests.failure_outcome(next_.failure, steps), steps)
        elif next_.output is not None:
            output = next_.output
            if workflow.compares:
                status = await self._book.status(run.tenant, run.lease_key.request_id)
                output = requests.comparison_output(output, status)
            await self._finish(run, requests.success_outcome(output, steps), steps)
        elif next_.calls and has_room:
            return await self._start(run, workflow, next_, steps) and next_.more
        return False

    async def _settle_steps(
        self, run: WorkflowRun, workflow: Workflow, steps: Sequence[Step]
    ) -> Sequence[Step]:
        """Steps with the outcomes of those whose requests have ended."""
        return [await self._settle(run, workflow, step) for step in steps]

    async def _settle(self, run: WorkflowRun, workflow: Workflow, step: Step) -> Step:
        """Record the outcome of a step whose request has ended, or was deleted."""
        runs, stored = self._book.runs, step.request_state
        if step.state is StepState.ENDED or (stored is not None and not stored.final):
            return step
        if stored is None:
            if step.state is StepState.SENDING:
                return step
            outcome = requests.DELETED
        else:
            try:
                request = await self._services.queue.current(run.tenant, step.request_id)
            except RequestNotFound:
                return step  # it was deleted just now
            outcome = request.outcome or Outcome(failure=NO_OUTCOME)
        if await runs.settle(run, step.id, outcome):
            failure = outcome.failure
            ended = "succeeded." if failure is None else f"failed: {failure.message}"
            level = "INFO" if failure is None else "ERROR"
            await self._log(run, level, f"Step {requests.name_of(workflow, step.id)} {ended}")
        return replace(step, state=StepState.ENDED, outcome=outcome)

    async def _start(
        self, run: WorkflowRun, workflow: Workflow, next_: Plan, steps: Sequence[Step]
    ) -> bool:
        """Record the steps that can start now, and submit their requests. False: not all were."""
        artifacts = requests.artifacts_of(steps)
        calls = [
            Step(
                call.step,
                call.app,
                self._services.new_id(),
                StepState.SENDING,
                requests.rendered_input(self._services, run, call.input, artifacts),
            )
            for call in next_.calls
        ]
        rows = [(step.id, step.app, step.request_id, step.input) for step in calls]
        taken = frozenset(await self._book.runs.take(run, rows))
        new = [step for step in calls if step.id in taken]
        return await self._send_all(run, workflow, new) and len(new) == len(calls)

    async def _send_all(self, run: WorkflowRun, workflow: Workflow, steps: Sequence[Step]) -> bool:
        """Submit the requests of steps, as long as the queue has room for more. False: it has no
        room for all."""
        for step in steps:
            if not await self._send(run, workflow, step):
                return False
        return True

    async def _send(self, run: WorkflowRun, workflow: Workflow, step: Step) -> bool:
        """Submit the request of a step. One that is refused for good has ended. False: the queue
        takes no more of this tenant's requests now."""
        runs, name = self._book.runs, requests.name_of(workflow, step.id)
        try:
            new = await requests.request_of(self._services, run, workflow, step)
            stored = await asyncio.shield(submission.submit(self._services, new))
        except DatabaseUnavailable:
            raise  # it may be stored: the step keeps its id, and is submitted again
        except (Overloaded, Unavailable) as error:
            log.info("The step %s waits: %s", name, error.message)
            await self._put_off(run, step, name, error.message)
            if isinstance(error, Overloaded) and error.reason in OF_ALL_REQUESTS:
                self._full.add(run.tenant)
            return not isinstance(error, Overloaded)
        except DarkroomError as error:
            failure = Failure(error.code, error.message, retryable=False)
            if await runs.refuse(run, step.id, failure):
                await self._log(run, "ERROR", f"Step {name} was refused: {error.message}")
            return True
        if await runs.mark_sent(run, step.id, stored.id):
            await self._log(run, "INFO", f"Step {name} is request {stored.id} to {step.app}.")
        return True

    async def _put_off(self, run: WorkflowRun, step: Step, name: str, why: str) -> None:
        """Tell the owner why a step waits to be submitted. Each look may find other numbers."""
        if NUMBER.sub("", why) == NUMBER.sub("", step.waits):
            return
        if await self._book.runs.put_off(run, step.id, why):
            await self._log(run, "INFO", f"Step {name} waits: {why}")

    async def _finish(self, run: WorkflowRun, outcome: Outcome, steps: Sequence[Step]) -> None:
        """Cancel the steps that have not ended, and end the request."""
        for step in requests.open_steps(steps):
            await self._cancel(run.tenant, step.request_id)
        await self._services.queue.finish(Finish(run.lease_key, RUNNER, outcome))

    async def _cancel(self, tenant: str, request_id: str) -> None:
        try:
            await self._services.queue.cancel(tenant, request_id)
        except RequestNotFound:
            log.info("The request %s of a step is not stored.", request_id)

    async def _log(self, run: WorkflowRun, level: str, message: str) -> None:
        await self._services.queue.log(run.lease_key.request_id, (level, message))


def _stop_outcome(run: WorkflowRun) -> Outcome | None:
    """Outcome of a run that is not to go on."""
    if run.cancel_requested:
        message = "The workflow was cancelled, with all its steps that had not ended."
        return Outcome(failure=Failure(Cancelled.code, message, retryable=False))
    if run.left_s is not None and run.left_s <= 0:
        return Outcome(failure=Failure(Expired.code, TOO_LATE, retryable=False))
    return None
