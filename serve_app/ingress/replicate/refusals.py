"""Calls of Replicate's clients that are refused by name, with what to do instead."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.domain.errors import Unsupported
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.openapi import Operation, in_path
from serve_app.ingress.replicate.errors import ERRORS, TAG

ADD = "`darkroom models add ENDPOINT --weights REPOSITORY` serves a model."
DELETE = "`darkroom models delete ENDPOINT_ID` does that."
SCALE = (
    "`darkroom warm set ENDPOINT_ID --replicas N` keeps replicas ready, and `max_replicas` of the "
    "pool limits them."
)
TRAIN = (
    "Darkroom trains nothing. Train elsewhere, and serve the result: `darkroom weights add` takes "
    "a LoRA, `darkroom models add` a whole model."
)


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """Call that no key may make, because nothing here could answer it."""

    method: str
    path: str
    name: str
    sentence: str

    async def answer(self, request: HttpRequest) -> Response:
        await authenticate(request)
        raise Unsupported(self.sentence)

    @property
    def operation(self) -> Operation:
        names = re.findall(r"\{(\w+)\}", self.path)
        return Operation(
            f"replicate{self.name}",
            f"Refused. {self.sentence}",
            {},
            errors=(400,),
            parameters=tuple(in_path(name, "Not read.") for name in names),
            tag=TAG,
            error_format=ERRORS,
        )


_MODEL, _DEPLOYMENT = "/models/{owner}/{name}", "/deployments/{owner}/{name}"
_VERSION = f"{_MODEL}/versions/{{version}}"

REFUSED = (
    RefusedCall(
        "POST", "/models", "CreateModel", f"Models are not created by Replicate's API. {ADD}"
    ),
    RefusedCall(
        "DELETE", _MODEL, "DeleteModel", f"Models are not deleted by Replicate's API. {DELETE}"
    ),
    RefusedCall(
        "DELETE",
        _VERSION,
        "DeleteVersion",
        "A version ends when its endpoint changes. `darkroom models delete ENDPOINT_ID` deletes "
        "the endpoint.",
    ),
    RefusedCall(
        "POST",
        "/deployments",
        "CreateDeployment",
        f"Each served endpoint is a deployment of the same name, and there are no others. {SCALE}",
    ),
    RefusedCall(
        "PATCH",
        _DEPLOYMENT,
        "UpdateDeployment",
        f"Deployments are not changed by Replicate's API. {SCALE}",
    ),
    RefusedCall(
        "DELETE",
        _DEPLOYMENT,
        "DeleteDeployment",
        "Each served endpoint is a deployment. `darkroom warm delete ENDPOINT_ID` ends what keeps "
        "its replicas ready.",
    ),
    RefusedCall("POST", f"{_VERSION}/trainings", "CreateTraining", TRAIN),
    RefusedCall("GET", "/trainings", "ListTrainings", TRAIN),
    RefusedCall("GET", "/trainings/{training}", "GetTraining", TRAIN),
    RefusedCall("POST", "/trainings/{training}/cancel", "CancelTraining", TRAIN),
)
