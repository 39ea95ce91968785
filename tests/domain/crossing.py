"""One object of each class that an ingress and a replica exchange.

``python -m tests.domain.crossing`` prints them pickled. ``crossing.json`` is the output of the
previous version. Before the first release it is that of the baseline. Regenerate it with each
version, before the first change for the next one.
"""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Mapping

from serve_app.domain.artifact import Artifact, UploadTicket
from serve_app.domain.endpoint import Endpoint, Recipe, Weights
from serve_app.domain.lease import (
    Ask,
    EngineUsage,
    Finish,
    Lease,
    LeaseKey,
    Presence,
    ReplicaStage,
    Report,
    ReportReply,
    Signal,
    SignalKind,
    Verdict,
    Work,
)
from serve_app.domain.outcome import Failure, Outcome, Usage
from serve_app.domain.progress import Preview, Progress, Stage, StoredSnapshot
from serve_app.domain.realtime import Frame, FrameResult, ReplicaSlot
from serve_app.domain.request import Priority

HELD = LeaseKey("0190", 2)
TICKET = UploadTicket("k/0", "http://s/k/0", "image/png", 99, (("a", "b"),), "http://s/d", True)
ENDPOINT = Endpoint(
    "fal-ai/flux/dev",
    "flux",
    Weights("owner/name", "a" * 40, demo=False, variant="fp16"),
    "flux",
    {"num_inference_steps": 28},
    {"width": (64, 2048)},
    {"dtype": "bfloat16"},
    "Flux",
    "Draws.",
    "text-to-image",
    "mit",
    (Recipe(24.0, "bfloat16", "blocks", ("vae",)),),
)
OUTCOME = Outcome(
    {"images": [{"artifact": "k/0"}]},
    (Artifact("k/0", "image/png", 9, "ab", 64, 32),),
    None,
    Usage(1.5, 28, 2.0),
)
FAILED = Outcome(failure=Failure("invalid", "No.", False, "prompt", "string_type", {"a": 1}))

EXAMPLES: Mapping[str, object] = {
    "announce": Presence("r", "ab", "studio", ReplicaStage.STARTING, "loading a/b"),
    "ask": Ask("r", "ab", "studio", 2, (HELD,), ("a/b",), ("c/d",), 10, "loading a/b"),
    "work": Work(
        (
            Lease(
                "0190", 2, 5.0, ENDPOINT, {"prompt": "x"}, (TICKET,), Priority.HIGH, True, 9.0,
                "http://s/s", "http://f",
            ),
        ),
        (Signal(SignalKind.CANCEL, HELD),),
    ),
    "report": Report(
        "r",
        (HELD,),
        ((HELD, Progress(Stage.DENOISING, 3, 28, 1.5)),),
        ((HELD, Preview(3, b"jpeg")),),
        "loading a/b",
        "studio",
        EngineUsage(3, {("denoiser", 2): 4}, {("encoder", "alone"): 1}),
        ((HELD, StoredSnapshot("s/1", 3)),),
        (HELD,),
    ),
    "reply": ReportReply((HELD,), (HELD,), ((HELD, TICKET),), (HELD,)),
    "finish": Finish(HELD, "r", OUTCOME),
    "finish failed": Finish(HELD, "r", FAILED),
    "verdict": Verdict.FENCED,
    "seat": ReplicaSlot("studio", "r", HELD),
    "frame": Frame("0191", {"prompt": "x"}, (TICKET,)),
    "drawn": FrameResult(OUTCOME, {"k/0": b"png"}),
}  # fmt: skip


if __name__ == "__main__":
    pickled = {name: pickle.dumps(example, 5) for name, example in EXAMPLES.items()}
    print(json.dumps({name: base64.b64encode(p).decode() for name, p in pickled.items()}, indent=1))  # noqa: T201
