"""``/v1/workflows``: chains of endpoints that a tenant registers, and the steps of requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired, cast

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.catalog.entries import RESERVED_OWNERS, CatalogEntry
from serve_app.catalog.workflows.check import check
from serve_app.catalog.workflows.entry import definition_of, workflow_entry
from serve_app.catalog.workflows.reader import WrittenWorkflow, read
from serve_app.domain.errors import InvalidInput, NotFound
from serve_app.domain.workflows.definition import endpoint_id
from serve_app.domain.workflows.runs import NewWorkflow, RegisteredWorkflow
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import actor_of, authenticate, authenticate_for_tenant
from serve_app.ingress.http.body import read_json
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer, in_path, in_query
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import Services, services_of
from serve_app.ingress.workflows.status import WorkflowStatus, workflow_status
from serve_app.tenants.scopes import OPERATOR, Caller

MAX_BODY_BYTES = 512 * 1024
MAX_PER_TENANT = 200
MESSAGE_FORM = (
    "The body must be a JSON object: a workflow of fal's, or one with `name`, `input`, `steps` and "
    "`output`."
)


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


class ShownWorkflow(TypedDict):
    """A registered workflow."""

    endpoint_id: Annotated[str, Field(description="Call it like any endpoint.")]
    name: str
    tenant: str
    title: str
    description: str
    public: bool
    served: bool
    reason: Annotated[str | None, Field(description="Why it is not served.")]
    steps: Annotated[dict[str, str], Field(description="Endpoint of each step.")]
    input_schema: Annotated[dict[str, Any], Field(description="JSON Schema of the input.")]
    source: Annotated[
        dict[str, Any] | None,
        Field(description="As it was sent; null for a workflow of another tenant."),
    ]
    created_at: Time | None
    changed_at: Time | None


class Workflows(TypedDict):
    workflows: Annotated[
        list[ShownWorkflow], Field(description="Your own by name, then the public ones of others.")
    ]


class RemovedWorkflow(TypedDict):
    name: str


class StepsOfRequest(TypedDict):
    """Steps of a request; null if it is not to a workflow, or has not started."""

    request_id: str
    workflow: WorkflowStatus | None


async def put(request: HttpRequest) -> Response:
    """Register a workflow, in place of one with this name. Everything that can be checked before
    it runs is checked here. ``?dry_run=true`` checks it and stores nothing."""
    context_of(request).route = "v1.workflows.put"
    caller = await authenticate(request)
    services = services_of(request)
    dry_run = query.yes_no(request, "dry_run", default=False)
    body = await read_json(request, MAX_BODY_BYTES)
    if not isinstance(body, dict):
        raise InvalidInput(MESSAGE_FORM)
    given = cast("dict[str, Any]", body)
    public = given.get("public", False)
    if not isinstance(public, bool):
        raise InvalidInput.of_field("public", "Input should be true or false")
    if public:
        caller.require(OPERATOR)
    written = await in_cpu_thread(read, given)
    definition = await _checked(services, caller, written, public=public)
    if not dry_run:
        new = NewWorkflow(caller.tenant, written.name, definition, given, public)
        definitions = services.queue.workflows.definitions
        if not await definitions.put(new, MAX_PER_TENANT, actor_of(request)):
            raise InvalidInput.of_field(
                "name", f"You have {MAX_PER_TENANT} workflows, and no more are possible. Delete one"
            )
        await services.entries.refresh()
    shown = _shown(services, caller.tenant, written.name, caller.tenant, definition, public=public)
    reply: ShownWorkflow = {**shown, "source": given, "served": True, "reason": None}
    return json_reply(reply)


async def _checked(
    services: Services, caller: Caller, written: WrittenWorkflow, *, public: bool
) -> Mapping[str, Any]:
    """Definition of a workflow. ``InvalidInput`` names every mistake."""
    if caller.tenant in RESERVED_OWNERS:
        raise InvalidInput("A tenant of this name can have no workflows.")
    caller.require_endpoint(endpoint_id(caller.tenant, written.name))
    # A public one may use nothing that only its own tenant has.
    catalog = services.catalog.of_tenant("") if public else services.catalog_of(caller)

    def find(app: str) -> CatalogEntry:
        caller.require_endpoint(app)
        return catalog.get(app)

    def build() -> Mapping[str, Any]:
        check(written, find)
        definition = definition_of(written)
        try:
            workflow_entry(caller.tenant, written.name, definition, public=public, catalog=None)
        except ValueError as error:
            raise InvalidInput(f"The workflow's schema is not valid: {error}.") from None
        return definition

    return await in_cpu_thread(build)


async def listed(request: HttpRequest) -> Response:
    """List the tenant's workflows, and the public ones."""
    context_of(request).route = "v1.workflows"
    caller, tenant = await authenticate_for_tenant(request, "Workflows")
    services = services_of(request)
    found = await services.queue.workflows.definitions.page(tenant)
    allowed = [each for each in found if caller.allows(endpoint_id(each.tenant, each.name))]
    body: Workflows = {"workflows": [_of(services, tenant, each) for each in allowed]}
    return json_reply(body)


async def shown(request: HttpRequest) -> Response:
    """Show a workflow of the tenant, as it was sent."""
    context_of(request).route = "v1.workflow"
    caller, tenant = await authenticate_for_tenant(request, "Workflows")
    services, name = services_of(request), request.path_params["name"]
    caller.require_endpoint(endpoint_id(tenant, name))
    found = await services.queue.workflows.definitions.find(tenant, name)
    if found is None:
        raise _unknown(name)
    return json_reply(_of(services, tenant, found))


async def removed(request: HttpRequest) -> Response:
    """Remove a workflow. Requests that have started continue; those that have not fail."""
    context_of(request).route = "v1.workflow.remove"
    caller = await authenticate(request)
    services, name = services_of(request), request.path_params["name"]
    caller.require_endpoint(endpoint_id(caller.tenant, name))
    definitions = services.queue.workflows.definitions
    if not await definitions.remove(caller.tenant, name, actor_of(request)):
        raise _unknown(name)
    await services.entries.refresh()
    body: RemovedWorkflow = {"name": name}
    return json_reply(body)


async def steps(request: HttpRequest) -> Response:
    """Show the steps of a request to a workflow, with their requests, times and costs."""
    context_of(request).route = "v1.request.steps"
    caller = await authenticate(request)
    services = services_of(request)
    found = await services.queue.get(caller.tenant, request.path_params["request_id"])
    caller.require_endpoint(found.endpoint)
    body: StepsOfRequest = {
        "request_id": found.id,
        "workflow": await workflow_status(services, found),
    }
    return json_reply(body)


def _unknown(name: str) -> NotFound:
    return NotFound(f"You have no workflow {name[:64]}. GET /v1/workflows lists yours.")


def _of(services: Services, tenant: str, workflow: RegisteredWorkflow) -> ShownWorkflow:
    own = workflow.tenant == tenant
    body = _shown(
        services,
        tenant,
        workflow.name,
        workflow.tenant,
        workflow.definition,
        public=workflow.public,
    )
    return {
        **body,
        "source": dict(workflow.source) if own else None,
        "created_at": workflow.created_at.isoformat(),
        "changed_at": workflow.changed_at.isoformat(),
    }


def _shown(
    services: Services,
    seen_by: str,
    name: str,
    tenant: str,
    definition: Mapping[str, Any],
    *,
    public: bool,
) -> ShownWorkflow:
    id_ = endpoint_id(tenant, name)
    entry = services.catalog.of_tenant(seen_by).find(id_)
    return {
        "endpoint_id": id_,
        "name": name,
        "tenant": tenant,
        "title": definition["title"],
        "description": definition["description"],
        "public": public,
        "served": entry is not None and not entry.missing,
        "reason": entry.missing or None if entry is not None else None,
        "steps": {node: given["app"] for node, given in definition["nodes"].items()},
        "input_schema": dict(definition["input_schema"]),
        "source": None,
        "created_at": None,
        "changed_at": None,
    }


_NAME = in_path("name", "Name of the workflow.")
_TENANT = in_query("tenant", "Another tenant; needs the scope `operator`.", str)

PUT = Operation(
    "putWorkflow",
    "Register a workflow, in place of one with this name",
    {200: answer("The workflow.", ShownWorkflow)},
    errors=(400, 403, 413, 422),
    parameters=(in_query("dry_run", "`true`: check the workflow and store nothing.", bool),),
    body=NewWorkflowBody,
)
LIST = Operation(
    "listWorkflows",
    "List workflows",
    {200: answer("The workflows.", Workflows)},
    errors=(403,),
    parameters=(_TENANT,),
)
SHOW = Operation(
    "getWorkflow",
    "Show a workflow",
    {200: answer("The workflow.", ShownWorkflow)},
    errors=(403, 404),
    parameters=(_NAME, _TENANT),
)
REMOVE = Operation(
    "removeWorkflow",
    "Remove a workflow. Requests that have started continue",
    {200: answer("It is removed.", RemovedWorkflow)},
    errors=(403, 404),
    parameters=(_NAME,),
)
STEPS = Operation(
    "getSteps",
    "Show the steps of a request to a workflow, with their requests, times and costs",
    {200: answer("The steps.", StepsOfRequest)},
    errors=(403, 404),
    parameters=(in_path("request_id", "Id of a request of the key's tenant."),),
)

ROUTES = [
    DocumentedRoute("/v1/workflows", listed, {"GET": LIST}),
    DocumentedRoute("/v1/workflows", put, {"POST": PUT}),
    DocumentedRoute("/v1/workflows/{name}", shown, {"GET": SHOW}),
    DocumentedRoute("/v1/workflows/{name}", removed, {"DELETE": REMOVE}),
    DocumentedRoute("/v1/requests/{request_id}/steps", steps, {"GET": STEPS}),
]
