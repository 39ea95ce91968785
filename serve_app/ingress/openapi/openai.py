"""The calls of OpenAI's protocol. OpenAI publishes their whole description; here is what of it is
served."""

from __future__ import annotations

from serve_app.ingress.openai.picture_wish import MOST_PARTIAL, MOST_PICTURES, STEPS
from serve_app.ingress.openai.routes import PREFIX
from serve_app.ingress.openapi.parts import (
    TEXT,
    WHOLE,
    YES_NO,
    Json,
    answer,
    in_path,
    listed,
    nullable,
    one_of,
    operation,
    record,
    reference,
)

TAG = "openai"
BINARY: Json = {"type": "string", "format": "binary"}

_REFUSALS = {
    400: "A parameter is wrong, or cannot be honoured; `param` names it.",
    401: "No key, or one that is not valid.",
    403: "The key may not do this.",
    404: "There is no such model, or no such thing.",
    413: "Too large.",
    429: "Too many requests wait; `Retry-After` says when to try again.",
    499: "The request was cancelled.",
    500: "The attempt failed, or there is a defect.",
    503: "Something that Darkroom stands on does not answer.",
    504: "The request did not start, or end, in the time that the client gave.",
    507: "Too little disk is free.",
}
AT_SUBMIT, AT_END = (400, 401, 403, 404, 413, 429, 503, 507), (499, 500, 504)

SCHEMAS: Json = {
    "OpenAiError": record(
        {
            "error": record(
                {
                    "message": TEXT,
                    "type": TEXT,
                    "param": nullable(TEXT),
                    "code": nullable(TEXT),
                }
            )
        }
    ),
    "OpenAiModel": record(
        {
            "id": TEXT,
            "object": one_of("model"),
            "created": WHOLE,
            "owned_by": TEXT,
            "darkroom_endpoint": TEXT,
        }
    ),
    "OpenAiPictures": record(
        {"created": WHOLE, "data": listed(record({}, b64_json=TEXT, url=TEXT))},
        size=TEXT,
        quality=TEXT,
        background=TEXT,
        output_format=TEXT,
        seed=WHOLE,
        darkroom_demo=YES_NO,
    ),
}


def paths() -> Json:
    return {**_pictures(), **_models()}


def refusals(*statuses: int) -> Json:
    return {str(status): answer(_REFUSALS[status], reference("OpenAiError")) for status in statuses}


def _parameters() -> Json:
    return {
        "model": {**TEXT, "description": "An endpoint's id, or an alias of one."},
        "n": {**WHOLE, "minimum": 1, "maximum": MOST_PICTURES},
        "size": {**TEXT, "description": "`auto`, or pixels as in `1024x1024`."},
        "quality": one_of("auto", *STEPS),
        "output_format": one_of("png", "jpeg", "webp"),
        "background": one_of("auto", "opaque"),
        "response_format": one_of("b64_json", "url"),
        "stream": YES_NO,
        "partial_images": {**WHOLE, "minimum": 0, "maximum": MOST_PARTIAL},
        "user": TEXT,
        "safety_identifier": TEXT,
    }


def _pictures() -> Json:
    pictures = answer("The pictures.", reference("OpenAiPictures"))
    pictures["content"]["text/event-stream"] = {
        "schema": {**TEXT, "description": "With `stream`: partial images, then the pictures."}
    }
    responses = {"200": pictures, **refusals(*AT_SUBMIT, *AT_END)}
    described = "Fields of the endpoint's own input, such as `seed`, are taken beside these."
    generate = operation(
        "openaiGenerateImages",
        "Pictures from a prompt",
        responses,
        tag=TAG,
        description=described,
        body={**record({"prompt": TEXT}, **_parameters()), "additionalProperties": True},
    )
    edit = operation(
        "openaiEditImages",
        "Pictures from a prompt and pictures, with a mask or without",
        responses,
        tag=TAG,
        description=described,
    )
    form = record({"prompt": TEXT, "image": listed(BINARY)}, mask=BINARY, **_parameters())
    edit["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    return {
        f"{PREFIX}/images/generations": {"post": _translated(generate)},
        f"{PREFIX}/images/edits": {"post": _translated(edit)},
    }


def _models() -> Json:
    page = record({"object": one_of("list"), "data": listed(reference("OpenAiModel"))})
    every = operation(
        "openaiListModels",
        "The endpoints that are served, and the names that lead to one",
        {"200": answer("They.", page), **refusals(401)},
        tag=TAG,
    )
    one = operation(
        "openaiGetModel",
        "One of them",
        {"200": answer("It.", reference("OpenAiModel")), **refusals(401, 404)},
        tag=TAG,
        parameters=(in_path("model", "Its slashes may stay as they are."),),
    )
    return {
        f"{PREFIX}/models": {"get": _translated(every)},
        f"{PREFIX}/models/{{model}}": {"get": _translated(one)},
    }


def _translated(call: Json) -> Json:
    """``operation`` adds the refusal of a missing key in fal's shape; here it has OpenAI's."""
    call["responses"] |= refusals(401)
    return call
