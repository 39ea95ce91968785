"""Scope that each call needs, by its route and method. Routes of declared resources have their own.

A call without a scope is refused as a defect, and a test finds it.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.routing import Route, WebSocketRoute

from serve_app.ingress.http.paths import COMFYUI_PREFIX, MCP_PATH, OPENAI_PREFIX, REPLICATE_PREFIX
from serve_app.tenants.scopes import CANCEL, FILES, OPERATOR, READ, SUBMIT, TENANT_ADMIN, USAGE

NO_KEY = "no key"
"""Anyone may call: the call checks another credential, or needs none."""
ANY_KEY = "any key"
"""Every valid key may call."""
BY_CALL = "by call"
"""One route has several calls; the handler names the scope of each."""

SCOPES: Mapping[str, Mapping[str, str]] = {
    "GET": {
        "/": NO_KEY,
        "/favicon.ico": NO_KEY,
        "/page/{name:path}": NO_KEY,
        "/healthz": NO_KEY,
        "/readyz": NO_KEY,
        "/readyz/reads": NO_KEY,
        "/llms.txt": ANY_KEY,  # with `public_descriptions` it needs none
        "/models/{endpoint_id:path}/llms.txt": ANY_KEY,
        "/openapi.json": ANY_KEY,
        "/api/openapi/queue/openapi.json": ANY_KEY,
        "/.well-known/jwks.json": NO_KEY,
        "/rest/.well-known/jwks.json": NO_KEY,
        "/files/{key:path}": BY_CALL,  # none for public files: the URL is the credential
        "/v1/shared/{token}": NO_KEY,
        "/v1/sign-in": NO_KEY,
        "/v1/models": ANY_KEY,
        "/v1/models/pricing": ANY_KEY,
        "/v1/requests": READ,
        "/v1/requests/days": READ,
        "/v1/requests/{request_id}": READ,
        "/v1/requests/{request_id}/events": READ,
        "/v1/requests/{request_id}/preview": READ,
        "/v1/requests/{request_id}/webhook": READ,
        "/v1/models/requests/by-endpoint": READ,
        "/v1/webhooks": READ,
        "/v1/webhooks/secret": READ,
        "/v1/loras": FILES,
        "/v1/requests/{request_id}/steps": READ,
        "/v1/models/usage": USAGE,
        "/v1/usage": USAGE,
        "/v1/usage.csv": USAGE,
        "/v1/usage/report": OPERATOR,
        "/v1/models/analytics": USAGE,
        "/v1/storage": OPERATOR,
        "/v1/queue": OPERATOR,
        "/v1/queue/requests": OPERATOR,
        "/v1/audit": TENANT_ADMIN,  # `operator` for other tenants
        "/v1/audit/export": OPERATOR,
        "/v1/audit/head": OPERATOR,
        "/v1/tenants/{tenant}/export": TENANT_ADMIN,  # `operator` for other tenants
        "/v1/shadows": OPERATOR,
        "/v1/status": OPERATOR,
        "/v1/doctor": OPERATOR,
        "/metrics": OPERATOR,
        "/v1/{rest:path}": NO_KEY,  # only 404
        f"{OPENAI_PREFIX}/videos": READ,
        f"{OPENAI_PREFIX}/videos/{{request_id}}": READ,
        f"{OPENAI_PREFIX}/videos/{{request_id}}/content": READ,
        f"{OPENAI_PREFIX}/files": FILES,
        f"{OPENAI_PREFIX}/files/{{file_id}}": FILES,
        f"{OPENAI_PREFIX}/files/{{file_id}}/content": READ,
        f"{OPENAI_PREFIX}/batches": READ,
        f"{OPENAI_PREFIX}/batches/{{batch_id}}": READ,
        f"{OPENAI_PREFIX}/models": ANY_KEY,
        f"{OPENAI_PREFIX}/models/{{model:path}}": ANY_KEY,
        f"{REPLICATE_PREFIX}/predictions": READ,
        f"{REPLICATE_PREFIX}/predictions/{{request_id}}": READ,
        f"{REPLICATE_PREFIX}/predictions/{{request_id}}/stream": READ,
        f"{REPLICATE_PREFIX}/files": FILES,
        f"{REPLICATE_PREFIX}/files/{{file_id:path}}": FILES,
        f"{REPLICATE_PREFIX}/webhooks/default/secret": READ,
        f"{REPLICATE_PREFIX}/account": ANY_KEY,
        f"{REPLICATE_PREFIX}/models": ANY_KEY,
        f"{REPLICATE_PREFIX}/models/{{owner}}/{{name}}": ANY_KEY,
        f"{REPLICATE_PREFIX}/models/{{owner}}/{{name}}/versions": ANY_KEY,
        f"{REPLICATE_PREFIX}/models/{{owner}}/{{name}}/versions/{{version}}": ANY_KEY,
        f"{COMFYUI_PREFIX}/prompt": READ,
        f"{COMFYUI_PREFIX}/queue": READ,
        f"{COMFYUI_PREFIX}/history": READ,
        f"{COMFYUI_PREFIX}/history/{{prompt_id}}": READ,
        f"{COMFYUI_PREFIX}/view": READ,
        f"{COMFYUI_PREFIX}/jobs": READ,
        f"{COMFYUI_PREFIX}/jobs/{{job_id}}": READ,
        f"{COMFYUI_PREFIX}/object_info": ANY_KEY,
        f"{COMFYUI_PREFIX}/object_info/{{node_class}}": ANY_KEY,
        f"{COMFYUI_PREFIX}/models": ANY_KEY,
        f"{COMFYUI_PREFIX}/models/{{folder}}": ANY_KEY,
        f"{COMFYUI_PREFIX}/experiment/models": ANY_KEY,
        f"{COMFYUI_PREFIX}/experiment/models/{{folder}}": ANY_KEY,
        f"{COMFYUI_PREFIX}/embeddings": ANY_KEY,
        f"{COMFYUI_PREFIX}/system_stats": ANY_KEY,
        f"{COMFYUI_PREFIX}/features": ANY_KEY,
        f"{COMFYUI_PREFIX}/users": ANY_KEY,
        f"{COMFYUI_PREFIX}/extensions": ANY_KEY,
        f"{COMFYUI_PREFIX}/i18n": ANY_KEY,
        f"{COMFYUI_PREFIX}/workflow_templates": ANY_KEY,
        f"{COMFYUI_PREFIX}/global_subgraphs": ANY_KEY,
        f"{COMFYUI_PREFIX}/settings": FILES,
        f"{COMFYUI_PREFIX}/settings/{{setting}}": FILES,
        f"{COMFYUI_PREFIX}/userdata": FILES,
        f"{COMFYUI_PREFIX}/v2/userdata": FILES,
        f"{COMFYUI_PREFIX}/userdata/{{file:path}}": FILES,
        f"{COMFYUI_PREFIX}/ws": READ,  # a WebSocket
        COMFYUI_PREFIX: NO_KEY,  # only a redirect
        f"{COMFYUI_PREFIX}/": ANY_KEY,  # browsers ask for the key because of this
        f"{COMFYUI_PREFIX}/{{name:path}}": ANY_KEY,
        MCP_PATH: NO_KEY,  # only 405
    },
    "POST": {
        "/v1/apps/code": OPERATOR,
        "/rest/storage/auth/token": FILES,
        "/rest/storage/upload/initiate": FILES,
        "/rest/storage/upload/initiate-multipart": FILES,
        "/cdn/files/upload": FILES,
        "/cdn/files/upload/multipart": FILES,
        "/files/{key:path}/multipart/{upload_id}/complete": FILES,  # if it has a key at all
        "/rest/tokens": SUBMIT,
        "/rest/tokens/": SUBMIT,
        "/rest/tokens/realtime": SUBMIT,
        "/v1/estimate": SUBMIT,
        "/v1/verify": ANY_KEY,
        "/v1/models/pricing/estimate": ANY_KEY,
        "/v1/requests/favourites": READ,
        "/v1/requests/zip": READ,
        "/v1/requests/delete": CANCEL,
        "/v1/requests/{request_id}/share": FILES,
        "/v1/files/sign": FILES,
        "/v1/files/revoke": FILES,
        "/v1/webhooks/test": SUBMIT,
        "/v1/sign-in": NO_KEY,
        "/v1/sign-in/finish": NO_KEY,  # the provider's code
        "/v1/sign-in/links": TENANT_ADMIN,
        "/v1/sign-in/links/take": NO_KEY,  # the link's token
        "/v1/sign-in/device": NO_KEY,
        "/v1/sign-in/device/finish": NO_KEY,  # the provider's code
        f"{OPENAI_PREFIX}/images/generations": SUBMIT,
        f"{OPENAI_PREFIX}/images/edits": SUBMIT,
        f"{OPENAI_PREFIX}/videos": SUBMIT,
        f"{OPENAI_PREFIX}/files": FILES,
        f"{OPENAI_PREFIX}/batches": SUBMIT,
        f"{OPENAI_PREFIX}/batches/{{batch_id}}/cancel": CANCEL,
        f"{OPENAI_PREFIX}/videos/{{request_id}}/remix": SUBMIT,
        f"{OPENAI_PREFIX}/videos/edits": SUBMIT,
        f"{OPENAI_PREFIX}/videos/extensions": SUBMIT,
        f"{OPENAI_PREFIX}/videos/characters": SUBMIT,
        f"{REPLICATE_PREFIX}/predictions": SUBMIT,
        f"{REPLICATE_PREFIX}/predictions/{{request_id}}/cancel": CANCEL,
        f"{REPLICATE_PREFIX}/models/{{owner}}/{{name}}/predictions": SUBMIT,
        f"{REPLICATE_PREFIX}/files": FILES,
        f"{COMFYUI_PREFIX}/prompt": SUBMIT,
        f"{COMFYUI_PREFIX}/queue": CANCEL,
        f"{COMFYUI_PREFIX}/interrupt": CANCEL,
        f"{COMFYUI_PREFIX}/upload/image": FILES,
        f"{COMFYUI_PREFIX}/upload/mask": FILES,
        f"{COMFYUI_PREFIX}/history": CANCEL,
        f"{COMFYUI_PREFIX}/jobs/cancel": CANCEL,
        f"{COMFYUI_PREFIX}/jobs/{{job_id}}/cancel": CANCEL,
        f"{COMFYUI_PREFIX}/free": ANY_KEY,
        f"{COMFYUI_PREFIX}/settings": FILES,
        f"{COMFYUI_PREFIX}/settings/{{setting}}": FILES,
        f"{COMFYUI_PREFIX}/userdata/{{file:path}}": FILES,
        f"{COMFYUI_PREFIX}/userdata/{{file:path}}/move/{{dest:path}}": FILES,
        MCP_PATH: BY_CALL,
    },
    "PUT": {
        "/files/{key:path}": NO_KEY,  # replicas, with a ticket
        "/files/{key:path}/upload/{upload_id}": FILES,  # if it has a key at all
        "/files/{key:path}/multipart/{upload_id}/{number}": FILES,
        "/v1/requests/{request_id}/cancel": BY_CALL,  # `operator` for other tenants
        "/v1/requests/{request_id}/webhook/redeliver": SUBMIT,
        "/v1/requests/{request_id}/requeue": OPERATOR,
        "/v1/requests/{request_id}/fail": OPERATOR,
        "/v1/requests/{request_id}/priority": OPERATOR,
        "/v1/webhooks/rotate": OPERATOR,
        "/v1/endpoints/{endpoint_id:path}/pause": OPERATOR,
        "/v1/endpoints/{endpoint_id:path}/drain": OPERATOR,
        "/v1/endpoints/{endpoint_id:path}/resume": OPERATOR,
    },
    "DELETE": {
        "/files/{key:path}": NO_KEY,  # replicas, with a ticket
        "/v1/models/requests/{request_id}/payloads": CANCEL,
        "/v1/requests/{request_id}": CANCEL,
        "/v1/uploads/{key:path}": FILES,
        "/v1/sign-in": ANY_KEY,
        f"{OPENAI_PREFIX}/videos/{{request_id}}": CANCEL,
        f"{OPENAI_PREFIX}/files/{{file_id}}": FILES,
        f"{REPLICATE_PREFIX}/files/{{file_id:path}}": FILES,
        f"{COMFYUI_PREFIX}/userdata/{{file:path}}": FILES,
        MCP_PATH: NO_KEY,  # only 405
    },
    "QUERY": {f"{REPLICATE_PREFIX}/models": ANY_KEY},
}

FOR_ALL_METHODS: Mapping[str, str] = {
    "/queue/{path:path}": BY_CALL,
    "/run/{path:path}": BY_CALL,
    "/{path:path}": BY_CALL,
    "/fal/proxy": NO_KEY,  # only 400
    "/rest/{path:path}": NO_KEY,  # only 404
    "/cdn/{path:path}": NO_KEY,
    "/openai/{rest:path}": NO_KEY,
    "/replicate/{rest:path}": NO_KEY,
    "/comfyui/{rest:path}": NO_KEY,
}
"""Routes whose scope does not depend on the method; also those of WebSockets."""


def scope_of(route: Route | WebSocketRoute, method: str) -> str:
    """Scope of a route's call, or one of the words above. ``LookupError``: neither the route nor
    the table says it."""
    if (declared := getattr(route, "scope", None)) is not None:
        return declared
    path = route.path
    by_method = SCOPES.get("GET" if method == "HEAD" else method, {})
    if path in by_method:
        return by_method[path]
    return FOR_ALL_METHODS[path]
