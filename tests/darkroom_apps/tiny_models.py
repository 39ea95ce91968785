"""Tiny models with random weights, saved in the format of the real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AddedToken,
    DacConfig,
    DacModel,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    DiaConfig,
    DiaFeatureExtractor,
    DiaForConditionalGeneration,
    DiaProcessor,
    DiaTokenizer,
    DPTImageProcessorPil,
    Sam2Config,
    Sam2Model,
    Swin2SRConfig,
    Swin2SRForImageSuperResolution,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from darkroom_apps.shared.rrdb import Network

DAC_HOP = 8
ESRGAN = "esrgan.safetensors"


def save_swin2sr(folder: Path) -> None:
    torch.manual_seed(0)
    config = Swin2SRConfig(
        image_size=16,
        embed_dim=12,
        depths=[1],
        num_heads=[2],
        window_size=4,
        upscale=2,
        upsampler="pixelshuffledirect",
    )
    Swin2SRForImageSuperResolution(config).save_pretrained(folder)


def save_depth_anything(folder: Path) -> None:
    torch.manual_seed(0)
    stages = [f"stage{number}" for number in range(1, 5)]
    backbone = {
        "model_type": "dinov2",
        "hidden_size": 16,
        "num_hidden_layers": len(stages),
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "out_features": stages,
        "reshape_hidden_states": False,
    }
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[4, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
    )
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    size = {"height": 56, "width": 56}
    processor = DPTImageProcessorPil(size=size, keep_aspect_ratio=True, ensure_multiple_of=14)
    processor.save_pretrained(folder)


def save_sam2(folder: Path) -> None:
    torch.manual_seed(0)
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [128, 128],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "global_attention_blocks": [3],
    }
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        "fpn_hidden_size": 32,
    }
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 32, "image_size": 128},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2},
    )
    Sam2Model(config).save_pretrained(folder)


def save_esrgan(folder: Path) -> None:
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    save_file(Network(8, 4, 2, fold=1).state_dict(), folder / ESRGAN)


def save_birefnet(folder: Path, side: int | str = 1024) -> None:
    """Save a network in ONNX's format that finds what is red. ``side``: a name, if any is
    possible."""
    file = folder / "onnx" / "model.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(_onnx(side))


def save_dia(folder: Path) -> None:
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "head_dim": 8, "hidden_size": 16, "intermediate_size": 32}
    cross = {"cross_num_attention_heads": 2, "cross_head_dim": 8, "cross_hidden_size": 16}
    config = DiaConfig(
        encoder_config={**heads, "num_hidden_layers": 1, "num_key_value_heads": 2},
        decoder_config={
            **heads,
            **cross,
            "cross_num_key_value_heads": 2,
            "num_hidden_layers": 1,
            "num_key_value_heads": 1,
        },
    )
    DiaForConditionalGeneration(config).save_pretrained(folder)
    codec = DacConfig(
        encoder_hidden_size=4,
        downsampling_ratios=[2, 4],
        decoder_hidden_size=16,
        n_codebooks=9,
        codebook_dim=4,
        sampling_rate=44100,
    )
    DacModel(codec).save_pretrained(folder / "codec")
    heard = DiaFeatureExtractor(sampling_rate=44100, hop_length=DAC_HOP)
    loaded = DacModel.from_pretrained(folder / "codec")  # it notes where it came from
    DiaProcessor(heard, DiaTokenizer(), loaded).save_pretrained(folder)


def save_whisper(folder: Path) -> None:
    torch.manual_seed(0)
    vocabulary = save_whisper_tokenizer(folder)
    WhisperFeatureExtractor(feature_size=8).save_pretrained(folder)
    end = vocabulary["<|endoftext|>"]
    layers = {"encoder_layers": 1, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = WhisperConfig(
        vocab_size=len(vocabulary),
        num_mel_bins=8,
        d_model=16,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        **layers,
        **heads,
        **dict.fromkeys(("eos_token_id", "bos_token_id", "pad_token_id"), end),
        decoder_start_token_id=vocabulary["<|startoftranscript|>"],
    )
    model = WhisperForConditionalGeneration(config)
    settings = {
        "_from_model_config": False,
        "is_multilingual": True,
        "lang_to_id": {f"<|{language}|>": vocabulary[f"<|{language}|>"] for language in LANGUAGES},
        "task_to_id": {task: vocabulary[f"<|{task}|>"] for task in ("transcribe", "translate")},
        "no_timestamps_token_id": vocabulary["<|notimestamps|>"],
        "prev_sot_token_id": vocabulary["<|startofprev|>"],
        "max_length": 14,
        "alignment_heads": [[0, 0]],
        "suppress_tokens": [],
        "begin_suppress_tokens": [],
        "max_initial_timestamp_index": 50,
        "median_filter_width": 3,
        "return_timestamps": False,
    }
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)


def save_whisper_tokenizer(folder: Path) -> dict[str, int]:
    """Save a tokenizer whose words are bytes. Returns the ids of its tokens."""
    end = "<|endoftext|>"
    words = [*sorted(ByteLevel.alphabet()), end]
    special = [
        "<|startoftranscript|>",
        *(f"<|{language}|>" for language in LANGUAGES),
        *("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>"),
        *("<|nospeech|>", "<|notimestamps|>"),
    ]
    times = [f"<|{number * 0.02:.2f}|>" for number in range(1501)]
    tokenizer = WhisperTokenizer(vocab={word: at for at, word in enumerate(words)}, merges=[])
    tokenizer.add_special_tokens({"extra_special_tokens": special})
    tokenizer.add_tokens([AddedToken(stamp, normalized=False, special=False) for stamp in times])
    tokenizer.pad_token = end
    tokenizer.save_pretrained(folder)
    return {token: at for at, token in enumerate([*words, *special, *times])}


# ONNX's format is messages of Protocol Buffers, whose fields have these numbers in its schema.


def _onnx(side: int | str) -> bytes:
    """Convolution of a pixel, which makes one channel of three."""
    weight = np.array([8, -8, -8], "<f4").tobytes()
    shape = b"".join(_number(1, size) for size in (1, 3, 1, 1))
    tensor = shape + _number(2, 1) + _bytes(8, b"weight") + _bytes(9, weight)
    names = _bytes(1, b"input_image") + _bytes(1, b"weight") + _bytes(2, b"output_image")
    graph = (
        _bytes(1, names + _bytes(4, b"Conv"))
        + _bytes(2, b"tiny")
        + _bytes(5, tensor)
        + _bytes(11, _value(b"input_image", 3, side))
        + _bytes(12, _value(b"output_image", 1, side))
    )
    return _number(1, 8) + _bytes(7, graph) + _bytes(8, _number(2, 17))


def _value(name: bytes, channels: int, side: int | str) -> bytes:
    """Name and type of an input or output: float32 [1, channels, side, side]."""
    dimensions = b"".join(
        _bytes(1, _bytes(2, size.encode()) if isinstance(size, str) else _number(1, size))
        for size in (1, channels, side, side)
    )
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, 1) + _bytes(2, dimensions)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])
