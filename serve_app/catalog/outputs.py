"""What endpoints answer, as the client sees it."""

from __future__ import annotations

from pydantic import BaseModel, Field

ALL = "All of them, the first included, where `seeds` asked for several."


class File(BaseModel):
    """A produced file."""

    url: str = Field(description="Where it is, or with `sync_mode` the file itself as a data URI.")
    content_type: str | None = Field(default=None, description="Media type.")
    file_name: str | None = None
    file_size: int | None = Field(default=None, description="Bytes.")


class Image(File):
    """A produced picture."""

    width: int | None = Field(default=None, description="Pixels.")
    height: int | None = Field(default=None, description="Pixels.")


class Timings(BaseModel):
    inference: float = Field(description="Seconds on the device.")


class Output(BaseModel):
    darkroom_demo: bool | None = Field(
        default=None,
        description="True: made by Darkroom's own tiny demo model. Absent otherwise.",
    )


Seeds = Field(default=None, description="Those that were asked for, one for each output.")


class PicturesOutput(Output):
    images: list[Image]
    timings: Timings
    seed: int = Field(description="With it and the same input the same pictures come out.")
    seeds: list[int] | None = Seeds
    has_nsfw_concepts: list[bool] = Field(
        description="One for each picture; always false, since nothing looks for them here."
    )
    prompt: str = Field(description="As it was used.")


class PictureOutput(Output):
    image: Image


class Video(File):
    """A produced clip."""

    width: int | None = Field(default=None, description="Pixels.")
    height: int | None = Field(default=None, description="Pixels.")
    fps: float | None = Field(default=None, description="Frames a second.")
    duration: float | None = Field(default=None, description="Seconds.")
    num_frames: int | None = None


class VideoOutput(Output):
    video: Video
    poster: Image | None = Field(default=None, description="The first frame.")
    videos: list[Video] | None = Field(default=None, description=ALL)
    posters: list[Image] | None = Field(default=None, description=ALL)
    seed: int = Field(description="With it and the same input the same clip comes out.")
    seeds: list[int] | None = Seeds
    prompt: str = Field(description="As it was used.")
    timings: Timings


class Sound(File):
    """A produced sound."""

    duration: float | None = Field(default=None, description="Seconds.")
    sample_rate: int | None = Field(default=None, description="Samples a second.")
    channels: int | None = Field(default=None, description="1 or 2.")


class _SoundOutput(Output):
    waveform: Image | None = Field(default=None, description="A picture of its samples.")
    waveforms: list[Image] | None = Field(default=None, description=ALL)
    seed: int = Field(description="With it and the same input the same sound comes out.")
    seeds: list[int] | None = Seeds
    prompt: str = Field(description="As it was used.")
    timings: Timings


class AudioOutput(_SoundOutput):
    audio: Sound
    audios: list[Sound] | None = Field(default=None, description=ALL)


class AudioFileOutput(_SoundOutput):
    audio_file: Sound
    audio_files: list[Sound] | None = Field(default=None, description=ALL)


class SongOutput(AudioOutput):
    tags: str = Field(description="As they were used.")
    lyrics: str = Field(description="As they were used.")


class RawImage(BaseModel):
    """A picture inside the message that brings it."""

    content: str = Field(description="The file.")
    content_type: str = "image/jpeg"
    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")


class FramesOutput(Output):
    images: list[RawImage]
    seed: int
