"""Endpoints of registered workflows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve_app.catalog.catalog import Catalog
from serve_app.catalog.entries import CatalogEntry, EntryOrigin
from serve_app.catalog.schema.json_schema import JsonSchema
from serve_app.catalog.source import EndpointSource
from serve_app.catalog.workflows.reader import WrittenWorkflow
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.workflows.definition import FAMILY, OPTION, Workflow, endpoint_id

CATEGORY = "workflow"


def definition_of(written: WrittenWorkflow) -> dict[str, Any]:
    """Definition as it is stored."""
    return {
        **written.workflow.to_json(),
        "title": written.title,
        "description": written.description,
        "input_schema": written.input_schema,
        "output_schema": written.output_schema,
    }


def workflow_entry(
    tenant: str, name: str, definition: Mapping[str, Any], *, public: bool, catalog: Catalog | None
) -> CatalogEntry:
    """Entry of a workflow. It is not served while an endpoint of a step is not. ``catalog``: as its
    callers see it; None: the endpoints are not looked up. ``ValueError``: its schemas are not
    valid."""
    workflow = Workflow.from_json(definition)
    options = {
        "input_schema": definition["input_schema"],
        "output_schema": definition["output_schema"],
        OPTION: workflow.to_json(),
    }
    source = EndpointSource.model_validate({"family": FAMILY, "schema": "json", "options": options})
    endpoint = Endpoint(
        id=endpoint_id(tenant, name),
        family=FAMILY,
        weights=Weights(source=""),
        schema="json",
        options=options,
        display_name=definition["title"] or name,
        description=definition["description"],
        category=CATEGORY,
    )
    return CatalogEntry(
        endpoint,
        JsonSchema(endpoint),
        source,
        "" if catalog is None else _missing(workflow, catalog),
        origin=EntryOrigin.DATABASE,
        tenant="" if public else tenant,
    )


def _missing(workflow: Workflow, catalog: Catalog) -> str:
    for node in workflow.nodes.values():
        entry = catalog.find(node.app)
        if entry is None:
            return f"Its step `{node.id}` needs {node.app}, which is not served here any more."
        if entry.missing:
            return f"Its step `{node.id}` needs {node.app}. {entry.missing}"
    return ""
