"""Fields of the form for files of apps, read by the page's own code in Node.js."""

from __future__ import annotations

import json
import subprocess

from deployments.executors.python.fal.schemas import schemas_of
from tests.deployments.executors.python.fal.test_description import IMAGE, openapi
from tests.docs.pages import ROOT
from tests.node import node

READ = """
const { fieldsOf } = await import(process.argv[1]);
const schema = JSON.parse(process.argv[2]);
const fields = fieldsOf({ schema, document: schema });
console.log(JSON.stringify(fields.map(({ name, kind, media }) => [name, kind, media])));
"""


def test_a_file_of_fals_toolkit_is_a_field_for_a_file() -> None:
    # An image has a width and a height, as a field for a size has.
    sides = {"width": {"type": "integer"}, "height": {"type": "integer"}}
    image = {**IMAGE, "properties": {**IMAGE["properties"], **sides}}
    image_schema = {"$ref": "#/components/schemas/Image"}
    properties = {
        "face": image_schema,
        "mask": {"anyOf": [image_schema, {"type": "null"}]},
        "layers": {"type": "array", "items": image_schema},
        "size": {"anyOf": [{"type": "object", "properties": sides}, {"enum": ["square"]}]},
    }
    schema = schemas_of(
        "/", openapi({"type": "object", "properties": properties}, {"Image": image})
    ).input
    module = (ROOT / "serve_app" / "page" / "form" / "schema.js").as_uri()
    done = subprocess.run(
        [node(), "--input-type=module", "-e", READ, module, json.dumps(schema)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        ["face", "media", "image"],
        ["mask", "media", "image"],
        ["layers", "media-list", "image"],
        ["size", "size", None],
    ]
