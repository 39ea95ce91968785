"""``/v1/workflows``: chains of endpoints that a tenant registers, and the steps of requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from serve_app.catalog.entries import RESERVED_OWNERS, CatalogEntry
from serve_app.catalog.workflows.check import check
from serve_app.catalog.workflows.entry import definition_of, workflow_entry
from serve_app.catalog.workflows.reader import WrittenWorkflow, read
from serve_app.domain.errors import InvalidInput
from serve_app.domain.workflows.definition import endpoint_id
from serve_app.domain.workflows.runs import NewWorkflow, RegisteredWorkflow
from serve_app.ingress.http.openapi import in_path, in_query
from serve_app.ingress.resources.calls import Call, Calls, JsonCalls, Special
from serve_app.ingress.resources.exports import ExportedTenant, Lines
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.workflows.status import WorkflowStatus, workflow_status
from serve_app.resources.workflows import WORKFLOWS, ShownWorkflow
from serve_app.tenants.scopes import OPERATOR, READ

MAX_BODY_BYTES = 512 * 1024
MAX_PER_TENANT = 200
DRY_RUN = in_query("dry_run", "`true`: check the workflow and store nothing.", bool)


class NewWorkflowBody(TypedDict):
    """Workflow to register, in any of the forms of docs/reference/workflows.md."""

    name: Annotated[str, Field(description="Lower case; it is in the id of the endpoint.")]
    title: NotRequired[str]
    description: NotRequired[str]
    contents: NotRequired[
        Annotated[dict[str, Any], Field(description="fal's `nodes`, `output` and `schema`.")]
    ]
    nodes: NotRequired[Annotated[dict[str, Any], Field(description="In place of `contents`.")]]
    steps: NotRequired[Annotated[dict[str, Any], Field(description="Darkroom's own form.")]]
    compare: NotRequired[
        Annotated[dict[str, Any], Field(description="Endpoints that get one input, by name.")]
    ]
    input: NotRequired[
        Annotated[dict[str, Any], Field(description="Fields, beside `steps` or `compare`.")]
    ]
    output: NotRequired[Annotated[dict[str, Any], Field(description="Beside `steps` or `nodes`.")]]
    schema: NotRequired[Annotated[dict[str, Any], Field(description="Beside `nodes`.")]]
    public: NotRequired[
        Annotated[bool, Field(description="All tenants may call it. Needs the scope `operator`.")]
    ]


class StepsOfRequest(TypedDict):
    """Steps of a request; null if it is not to a workflow, or has not started."""

    request_id: str
    workflow: WorkflowStatus | None


calls, of_requests = Calls(WORKFLOWS), JsonCalls()


@calls.create(
    "Register a workflow, in place of one with this name",
    NewWorkflowBody,
    Special(max_bytes=MAX_BODY_BYTES, parameters=(DRY_RUN,), errors=(400,)),
)
async def put(call: Call, body: Mapping[str, Any]) -> ShownWorkflow:
    """Everything that can be checked before it runs is checked here. ``?dry_run=true`` checks it
    and stores nothing."""
    dry_run = call.flag("dry_run")
    public = body.get("public", False)
    if not isinstance(public, bool):
        raise InvalidInput.of_field("public", "Input should be true or false")
    if public:
        call.caller.require(OPERATOR)
    written = await in_cpu_thread(read, body)
    definition = await _check_definition(call, written, public=public)
    new = NewWorkflow(call.owner, written.name, definition, body, public)
    if not dry_run:
        definitions = call.services.queue.workflows.definitions
        if not await definitions.put(new, MAX_PER_TENANT, call.actor):
            raise InvalidInput.of_field(
                "name", f"You have {MAX_PER_TENANT} workflows, and no more are possible. Delete one"
            )
        await call.services.entries.put_in_force()
    return replace(_workflow_body(call, new), served=True, reason=None)


async def _check_definition(
    call: Call, written: WrittenWorkflow, *, public: bool
) -> Mapping[str, Any]:
    """Definition of a workflow. ``InvalidInput`` names every mistake."""
    tenant, caller = call.owner, call.caller
    if tenant in RESERVED_OWNERS:
        raise InvalidInput("A tenant of this name can have no workflows.")
    caller.require_endpoint(endpoint_id(tenant, written.name))
    # A public one may use nothing that only its own tenant has.
    catalog = call.services.catalog.of_tenant("" if public else tenant)

    def find(app: str) -> CatalogEntry:
        caller.require_endpoint(app)
        return catalog.get(app)

    def build() -> Mapping[str, Any]:
        check(written, find)
        definition = definition_of(written)
        try:
            workflow_entry(tenant, written.name, definition, public=public, catalog=None)
        except ValueError as error:
            raise InvalidInput(f"The workflow's schema is not valid: {error}.") from None
        return definition

    return await in_cpu_thread(build)


@calls.list("List the tenant's workflows by name, and then the public ones of others")
async def list_workflows(call: Call) -> Sequence[ShownWorkflow]:
    page = await call.services.queue.workflows.definitions.page(call.owner)
    return [
        _workflow_body(call, workflow)
        for workflow in page
        if call.caller.allows(endpoint_id(workflow.tenant, workflow.name))
    ]


@calls.show("Show a workflow of the tenant, as it was sent")
async def show(call: Call, name: str) -> ShownWorkflow | None:
    call.caller.require_endpoint(endpoint_id(call.owner, name))
    workflow = await call.services.queue.workflows.definitions.find(call.owner, name)
    return None if workflow is None else _workflow_body(call, workflow)


@calls.delete()
async def delete(call: Call, name: str) -> bool:
    call.caller.require_endpoint(endpoint_id(call.owner, name))
    definitions = call.services.queue.workflows.definitions
    deleted = await definitions.remove(call.owner, name, call.actor)
    await call.services.entries.put_in_force()
    return deleted


async def export_workflows(export: ExportedTenant) -> Lines:
    for workflow in await export.services.queue.workflows.definitions.page(export.tenant):
        if workflow.tenant == export.tenant:
            yield asdict(workflow)


@of_requests.call(
    "/v1/requests/{request_id}/steps",
    "getSteps",
    "Show the steps of a request to a workflow, with their requests, times and costs",
    READ,
    errors=(404,),
    parameters=(in_path("request_id", "Id of a request of the key's tenant."),),
)
async def steps(call: Call) -> StepsOfRequest:
    request = await call.services.queue.get(
        call.caller.tenant, call.request.path_params["request_id"]
    )
    call.caller.require_endpoint(request.endpoint)
    return {"request_id": request.id, "workflow": await workflow_status(call.services, request)}


def _workflow_body(call: Call, workflow: NewWorkflow | RegisteredWorkflow) -> ShownWorkflow:
    definition, id_ = workflow.definition, endpoint_id(workflow.tenant, workflow.name)
    entry = call.services.catalog.of_tenant(call.owner).find(id_)
    stored = workflow if isinstance(workflow, RegisteredWorkflow) else None
    return ShownWorkflow(
        endpoint_id=id_,
        name=workflow.name,
        tenant=workflow.tenant,
        title=definition["title"],
        description=definition["description"],
        public=workflow.public,
        served=entry is not None and not entry.missing,
        reason=entry.missing or None if entry is not None else None,
        steps={node: step["app"] for node, step in definition["nodes"].items()},
        input_schema=definition["input_schema"],
        source=workflow.source if workflow.tenant == call.owner else None,
        created_at=None if stored is None else stored.created_at,
        changed_at=None if stored is None else stored.changed_at,
    )


ROUTES = [*calls.routes, *of_requests.routes]
