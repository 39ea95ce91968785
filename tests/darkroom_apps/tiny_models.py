"""Tiny models with random weights, saved in the format of the real ones."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AddedToken,
    DacConfig,
    DacModel,
    DiaConfig,
    DiaFeatureExtractor,
    DiaForConditionalGeneration,
    DiaProcessor,
    DiaTokenizer,
    Swin2SRConfig,
    Swin2SRForImageSuperResolution,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

DAC_HOP = 8


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
    made = {
        "_from_model_config": False,
        "is_multilingual": True,
        "lang_to_id": {f"<|{each}|>": vocabulary[f"<|{each}|>"] for each in LANGUAGES},
        "task_to_id": {each: vocabulary[f"<|{each}|>"] for each in ("transcribe", "translate")},
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
    for name, value in made.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)


def save_whisper_tokenizer(folder: Path) -> dict[str, int]:
    """Save a tokenizer whose words are bytes. Returns the ids of its tokens."""
    end = "<|endoftext|>"
    words = [*sorted(ByteLevel.alphabet()), end]
    special = [
        "<|startoftranscript|>",
        *(f"<|{each}|>" for each in LANGUAGES),
        *("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>"),
        *("<|nospeech|>", "<|notimestamps|>"),
    ]
    times = [f"<|{number * 0.02:.2f}|>" for number in range(1501)]
    tokenizer = WhisperTokenizer(vocab={each: at for at, each in enumerate(words)}, merges=[])
    tokenizer.add_special_tokens({"extra_special_tokens": special})
    tokenizer.add_tokens([AddedToken(each, normalized=False, special=False) for each in times])
    tokenizer.pad_token = end
    tokenizer.save_pretrained(folder)
    return {each: at for at, each in enumerate([*words, *special, *times])}
