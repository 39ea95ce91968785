"""Cases of which it is known that the engine gets them wrong, and why.

The tests expect them to fail: one that passes has to go from here.
"""

_COPIES = (
    "It copies its solver during the call, and `step` of the copy, which the engine replaced to "
    "count it, steps the original."
)

DEFECTS = {
    "HunyuanImagePipeline": "Generations share its guider, which keeps a momentum between steps.",
    "LTX2ConditionPipeline": _COPIES,
    "LTX2ImageToVideoPipeline": _COPIES,
    "LTX2InContextPipeline": _COPIES,
    "LTX2Pipeline": _COPIES,
    "SkyReelsV2DiffusionForcingPipeline": _COPIES,
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": _COPIES,
}
