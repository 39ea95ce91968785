"""Output models of the endpoints, as clients see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, Field, create_model

from serve_app.domain.artifact import MEDIA_TYPES

ALL = "All of them, including the first, if `seeds` asked for several."


class File(BaseModel):
    """A generated file."""

    url: str = Field(description="URL of the file, or a data URI with `sync_mode`.")
    content_type: str | None = Field(default=None, description="Media type.")
    file_name: str | None = None
    file_size: int | None = Field(default=None, description="Size in bytes.")


class Image(File):
    """A generated image."""

    width: int | None = Field(default=None, description="Width in pixels.")
    height: int | None = Field(default=None, description="Height in pixels.")


class Timings(BaseModel):
    inference: float = Field(description="Seconds on the device.")


class DraftFacts(BaseModel):
    """A draft, which a request with `from_draft` finishes."""

    id: str
    seed: int
    step: int = Field(description="Steps that it has made.")
    steps: int = Field(description="Steps of the finished output; 0: unknown.")
    noise: float | None = Field(description="Share of noise that is left; null: unknown.")
    expires_at: str = Field(description="Time of its deletion, UTC.")


class Output(BaseModel):
    drafts: list[DraftFacts] | None = Field(
        default=None, description="The drafts that `draft` asked for, in the order of the files."
    )
    darkroom_demo: bool | None = Field(
        default=None,
        description="True if made by Darkroom's tiny demo model, absent otherwise.",
    )
    darkroom_demo_unknown: list[str] | None = Field(
        default=None,
        description="Words of the prompt that the demo model does not know; absent without any.",
    )
    darkroom_safety: str | None = Field(
        default=None, description="What checked the files by the operator's policy, if any did."
    )


Seeds = Field(default=None, description="The requested seeds, one for each output.")


class ImagesOutput(Output):
    images: list[Image]
    timings: Timings
    seed: int = Field(description="Seed; with the same input it gives the same images.")
    seeds: list[int] | None = Seeds
    has_nsfw_concepts: list[bool] = Field(
        description="One for each image: true if a checker of the operator found it unsafe. False "
        "also if nothing is checked, which the header x-darkroom-safety says."
    )
    prompt: str = Field(description="The prompt that was used.")


class ImageOutput(Output):
    image: Image


class _MapsOutput(Output):
    seed: int = Field(description="Seed; with the same input it gives the same maps.")
    seeds: list[int] | None = Seeds
    timings: Timings


def maps_output(described: Mapping[str, str]) -> type[Output]:
    """Output with an image in each of the fields ``described``."""
    fields: dict[str, Any] = {
        name: (Image, Field(description=about)) for name, about in described.items()
    }
    for name in described:
        fields[f"{name}s"] = (list[Image] | None, Field(default=None, description=ALL))
    return create_model("MapsOutput", __base__=_MapsOutput, **fields)


class MeshOutput(Output):
    model_mesh: File = Field(description="The mesh with colours at its vertices, as GLB.")
    seed: int = Field(description="Seed; with the same input it gives the same mesh.")
    prompt: str = Field(description="The prompt that was used.")
    timings: Timings


class TextOutput(Output):
    output: str = Field(description="The text.")
    seed: int = Field(description="Seed; with the same input it gives the same text.")
    timings: Timings


class Video(File):
    """A generated video."""

    width: int | None = Field(default=None, description="Width in pixels.")
    height: int | None = Field(default=None, description="Height in pixels.")
    fps: float | None = Field(default=None, description="Frames per second.")
    duration: float | None = Field(default=None, description="Duration in seconds.")
    num_frames: int | None = None


class VideoOutput(Output):
    video: Video
    poster: Image | None = Field(default=None, description="The first frame.")
    videos: list[Video] | None = Field(default=None, description=ALL)
    posters: list[Image] | None = Field(default=None, description=ALL)
    seed: int = Field(description="Seed; with the same input it gives the same video.")
    seeds: list[int] | None = Seeds
    prompt: str = Field(description="The prompt that was used.")
    timings: Timings


class Audio(File):
    """A generated audio file."""

    duration: float | None = Field(default=None, description="Duration in seconds.")
    sample_rate: int | None = Field(default=None, description="Sample rate in Hz.")
    channels: int | None = Field(default=None, description="Number of channels: 1 or 2.")


class _AudioOutput(Output):
    waveform: Image | None = Field(default=None, description="An image of the waveform.")
    waveforms: list[Image] | None = Field(default=None, description=ALL)
    seed: int = Field(description="Seed; with the same input it gives the same audio.")
    seeds: list[int] | None = Seeds
    prompt: str = Field(description="The prompt that was used.")
    timings: Timings


class AudioOutput(_AudioOutput):
    audio: Audio
    audios: list[Audio] | None = Field(default=None, description=ALL)


class AudioFileOutput(_AudioOutput):
    audio_file: Audio
    audio_files: list[Audio] | None = Field(default=None, description=ALL)


class SongOutput(AudioOutput):
    tags: str = Field(description="The tags that were used.")
    lyrics: str = Field(description="The lyrics that were used.")


class RawImage(BaseModel):
    """An image inside the message."""

    content: str = Field(description="The file.")
    content_type: str = "image/jpeg"
    width: int = Field(description="Width in pixels.")
    height: int = Field(description="Height in pixels.")


class FramesOutput(Output):
    images: list[RawImage]
    seed: int


# Files that an input may produce: a media type and an upload ticket for each.

Produced = Callable[[Mapping[str, Any]], tuple[str, ...]]
"""Function from a valid input to the media types of its files, in order."""


def in_format(
    field: str = "output_format", *, per_image: int = 1, layers: str = "", lossless: int = 0
) -> Produced:
    """Files in the format that ``field`` names: ``per_image`` for every image that ``num_images``
    says, or else for every one of ``seeds``; times the number in the field ``layers``, if it is
    named.
    ``lossless``: PNG files beside them."""

    def media_types(input: Mapping[str, Any]) -> tuple[str, ...]:
        count = int(input["num_images"]) if "num_images" in input else _times(input)
        files = (MEDIA_TYPES[input[field]],) * per_image * int(input.get(layers, 1))
        return (*files, *(MEDIA_TYPES["png"],) * lossless) * count

    return media_types


IMAGES = in_format()


def nothing(_input: Mapping[str, Any]) -> tuple[str, ...]:
    """No files: everything is inside the output."""
    return ()


def video_with_poster(input: Mapping[str, Any]) -> tuple[str, ...]:
    """A video and its first frame."""
    return (MEDIA_TYPES[input["output_format"]], MEDIA_TYPES["jpeg"]) * _times(input)


def mesh(input: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: ARG001 the same for each
    """A mesh."""
    return (MEDIA_TYPES["glb"],)


def audio_with_waveform(input: Mapping[str, Any]) -> tuple[str, ...]:
    """An audio file and an image of its waveform."""
    return (MEDIA_TYPES[input["output_format"]], MEDIA_TYPES["png"]) * _times(input)


def _times(input: Mapping[str, Any]) -> int:
    return len(input.get("seeds") or (None,))
