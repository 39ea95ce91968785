"""Generations with LoRAs: through the engine, and as diffusers makes them."""

from tests.engine import gate
from tests.engine.calls import call


def plain_with(make, loras, **wish):
    """What diffusers makes with the LoRAs loaded, and nothing else."""
    pipeline = make()
    for number, lora in enumerate(loras):
        pipeline.load_lora_weights(
            lora.file.parent, weight_name=lora.file.name, adapter_name=f"lora{number}"
        )
    if loras:
        names = [f"lora{number}" for number in range(len(loras))]
        pipeline.set_adapters(names, [adapter.scale for adapter in loras])
    return pipeline(**call(**wish)).images


def together(engine, calls, within_s=60):
    return [result.images for result in gate.together(engine, calls, within_s)]


def relative(one, other):
    return float((one - other).norm() / other.norm())
