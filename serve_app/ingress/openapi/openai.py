"""The calls of OpenAI's protocol. OpenAI publishes their whole description; here is what of it is
served."""

from __future__ import annotations

from serve_app.ingress.openai.picture_wish import MOST_PARTIAL, MOST_PICTURES, STEPS
from serve_app.ingress.openai.routes import NOT_HERE, PREFIX
from serve_app.ingress.openapi.parts import (
    OBJECT,
    TEXT,
    WHOLE,
    YES_NO,
    Json,
    answer,
    in_path,
    in_query,
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
    "OpenAiClip": record(
        {
            "id": TEXT,
            "object": one_of("video"),
            "model": TEXT,
            "status": one_of("queued", "in_progress", "completed", "failed"),
            "progress": {**WHOLE, "minimum": 0, "maximum": 100},
            "created_at": WHOLE,
            "completed_at": nullable(WHOLE),
            "expires_at": nullable(WHOLE),
            "prompt": nullable(TEXT),
            "seconds": TEXT,
            "size": TEXT,
            "remixed_from_video_id": nullable(TEXT),
            "error": nullable(OBJECT),
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
    return {**_pictures(), **_clips(), **_models()}


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


def _clips() -> Json:
    clip, one = reference("OpenAiClip"), in_path("request_id", "Of the video.")
    fields = record({"prompt": TEXT}, model=TEXT, seconds=TEXT, size=TEXT)
    create = operation(
        "openaiCreateVideo",
        "Submit a request for a clip, from a prompt or from a prompt and a picture",
        {"200": answer("It is stored.", clip), **refusals(*AT_SUBMIT)},
        tag=TAG,
        body={**fields, "additionalProperties": True},
    )
    form: Json = record(
        {"prompt": TEXT}, model=TEXT, seconds=TEXT, size=TEXT, input_reference=BINARY
    )
    create["requestBody"]["content"]["multipart/form-data"] = {"schema": form}
    page = record(
        {"object": one_of("list"), "data": listed(clip), "has_more": YES_NO},
        first_id=nullable(TEXT),
        last_id=nullable(TEXT),
    )
    gone = record({"id": TEXT, "object": one_of("video.deleted"), "deleted": YES_NO})
    calls: Json = {
        "/videos": {
            "post": create,
            "get": operation(
                "openaiListVideos",
                "The tenant's requests for clips, newest first",
                {"200": answer("A page.", page), **refusals(400)},
                tag=TAG,
                parameters=(
                    in_query("after", "`last_id` of the page before.", TEXT),
                    in_query("limit", "1 to 100; 20 unless given.", WHOLE),
                    in_query("order", "", one_of("desc")),
                ),
            ),
        },
        "/videos/{request_id}": {
            "get": operation(
                "openaiGetVideo",
                "How a request for a clip stands",
                {"200": answer("It.", clip), **refusals(404)},
                tag=TAG,
                parameters=(one,),
            ),
            "delete": operation(
                "openaiDeleteVideo",
                "Delete an ended request for a clip, with its files",
                {"200": answer("It is gone.", gone), **refusals(400, 404)},
                tag=TAG,
                parameters=(one,),
            ),
        },
        "/videos/{request_id}/content": {
            "get": operation(
                "openaiGetVideoContent",
                "The clip, or its first picture",
                {"302": {"description": "Where it is."}, **refusals(400, 404)},
                tag=TAG,
                parameters=(one, in_query("variant", "", one_of("video", "thumbnail"))),
            )
        },
    }
    for number, path in enumerate(NOT_HERE):
        calls[path] = {
            "post": operation(
                f"openaiRefusedVideoCall{number}",
                "Not supported",
                refusals(400),
                tag="not supported",
                parameters=(one,) if "{" in path else (),
            )
        }
    return {
        PREFIX + path: {method: _translated(call) for method, call in methods.items()}
        for path, methods in calls.items()
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
