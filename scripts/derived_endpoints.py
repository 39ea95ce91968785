"""What `darkroom models add` accepts of the installed diffusers, and of fal's endpoints.

    python -m scripts.derived_endpoints

Prints how many pipeline classes are accepted, the reason for each other one, and the arguments
that no field gives; then fal's ids over open weights with the fields that are refused. No model is
loaded.
"""

from __future__ import annotations

from collections import defaultdict

from serve_app.catalog.fal_types import fal_input
from serve_app.cli.inspection.derivation import derive_inputs
from serve_app.cli.inspection.proposal import propose
from serve_app.domain.errors import Misconfigured
from tests.cli.inspection.open_endpoints import OPEN_ENDPOINTS
from tests.engine.conformance import classes
from tests.engine.conformance.derived import call_of


def main() -> None:
    names = [n for n, kind in classes.pipeline_classes().items() if not hasattr(kind, "_backends")]
    refused: dict[str, str] = {}
    left_out: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        try:
            call = call_of(name)
            propose(call, lambda _: {})
            for argument, why in derive_inputs(call).notable_omissions.items():
                left_out[f"{argument}: {why}"].append(name)
        except Misconfigured as error:
            refused[name] = error.message
    print(f"{len(names) - len(refused)} of {len(names)} classes are accepted. Refused:")
    for name, why in refused.items():
        print(f"  {name}: {why.removeprefix(name).strip()}")
    print("Arguments that no field gives:")
    for argument, of in sorted(left_out.items(), key=lambda item: -len(item[1])):
        print(f"  {argument} ({len(of)}: {', '.join(of[:3])})")
    print(f"{len(OPEN_ENDPOINTS)} endpoints of fal's:")
    for endpoint_id, name in OPEN_ENDPOINTS.items():
        inputs = propose(call_of(name), lambda _: {}, endpoint_id)["options"]["inputs"]
        none = [field for field, facts in inputs.items() if facts.get("refused")]
        fields = len(fal_input(endpoint_id) or ())
        print(f"  {endpoint_id}: {name}, {fields} fields, refused: {', '.join(none) or 'none'}")


if __name__ == "__main__":
    main()
