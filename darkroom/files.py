"""Files in the inputs and outputs of an app: by path, never by URL."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, Self, cast

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import (
    CoreSchema,
    PydanticCustomError,
    PydanticSerializationError,
    core_schema,
)

from darkroom.calls import current, folder
from darkroom.errors import InvalidField
from darkroom.media_types import DEFAULT_MEDIA_TYPE, suffix_of_type, type_of_name

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

FILE_MARK = "x-darkroom-file"
"""Key of a JSON Schema that says that a field is a file, and of which kind."""

PATH_KEY = "$file"
"""Key of the object that stands for a file between a replica and its worker process."""


class File:
    """A file on this machine: an input that Darkroom has fetched, or an output to store.

    In an input, clients send a URL, and the method gets the file. In an output, clients get an
    object with ``url`` and ``content_type``.
    """

    kind: ClassVar[str] = "file"

    def __init__(
        self, path: str | Path, media_type: str = "", *, generated: bool = True, **facts: Any
    ) -> None:
        """``media_type``: by the extension of ``path`` if it is empty. ``generated``: False if no
        model has made what it shows; then it is not marked as AI-generated. ``facts``: further
        fields of the output, such as ``width``."""
        self.path = Path(path)
        self.media_type = media_type or type_of_name(self.path.name) or DEFAULT_MEDIA_TYPE
        self.generated = generated
        self.facts = facts
        self._field = ""  # of the input

    def read_bytes(self) -> bytes:
        return self.path.read_bytes()

    @classmethod
    def from_bytes(cls, content: bytes, media_type: str, **facts: Any) -> Self:
        """File with ``content``. It is written to the temporary folder of the request."""
        suffix = suffix_of_type(media_type) or ".bin"
        with NamedTemporaryFile(dir=folder(), delete=False, suffix=suffix) as written:
            written.write(content)
        return cls(written.name, media_type, **facts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, {self.media_type!r})"

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        del source, handler
        return core_schema.with_info_plain_validator_function(
            cls._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(cls._plain),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        del schema
        if handler.mode == "validation":
            return {"type": "string", "format": "uri", FILE_MARK: cls.kind}
        fields: dict[str, Any] = {
            "url": {"type": "string", "description": "URL of the file."},
            "content_type": {"type": "string", "description": "Media type."},
            "file_name": {"type": "string"},
            "file_size": {"type": "integer", "description": "Size in bytes."},
        }
        if cls.kind == "image":
            fields |= {"width": {"type": "integer"}, "height": {"type": "integer"}}
        return {"type": "object", "properties": fields, "required": ["url"], FILE_MARK: cls.kind}

    @classmethod
    def _validate(cls, value: Any, info: core_schema.ValidationInfo) -> Self:
        if isinstance(value, cls):
            return value
        path = cast("Any", value).get(PATH_KEY) if isinstance(value, dict) else None
        if isinstance(path, str) and _may_name(path):
            media_type = cast("dict[str, str]", value).get("media_type", "")
            file = cls(path, media_type, generated=False)
            file._field = info.field_name or ""
            return file
        raise PydanticCustomError("file_type", "Input should be a file")

    def _plain(self) -> dict[str, Any]:
        # Absolute: whoever reads it works in another folder.
        path = str(self.path.absolute())
        if (written := _WRITTEN.get()) is not None:
            written.add(path)
        if (call := current()) is not None:
            call.dumped.add(path)
        origin = {} if self.generated else {"generated": False}
        return {**self.facts, PATH_KEY: path, "media_type": self.media_type, **origin}


_IS_INPUT: ContextVar[bool] = ContextVar("darkroom_is_input", default=False)


@contextmanager
def input_files() -> Generator[None]:
    """Context in which an input is read: objects with ``PATH_KEY`` stand for its files. Elsewhere
    they may be JSON of a client, which must not open a file of this machine."""
    token = _IS_INPUT.set(True)
    try:
        yield
    finally:
        _IS_INPUT.reset(token)


def _may_name(path: str) -> bool:
    """Check that an object with this path is a file: of an input, or of a model that the method
    itself has turned into JSON, such as for another model."""
    call = current()
    return _IS_INPUT.get() or (call is not None and path in call.dumped)


_WRITTEN: ContextVar[set[str] | None] = ContextVar("darkroom_written_files", default=None)


@contextmanager
def noted_files() -> Generator[set[str]]:
    """Set of the paths of all files that are turned into JSON meanwhile. No other object with
    ``PATH_KEY`` stands for a file: it may come from a client's text."""
    noted: set[str] = set()
    token = _WRITTEN.set(noted)
    try:
        yield noted
    finally:
        _WRITTEN.reset(token)


def file_as_json(value: Any) -> Any:
    """JSON of a file at a place whose type does not say that it is one, such as ``Any``."""
    if isinstance(value, File):
        return value._plain()  # noqa: SLF001  # of this module
    raise PydanticSerializationError(f"{type(value).__name__} is no type of JSON")


class Image(File):
    """An image file."""

    kind = "image"

    @classmethod
    def from_pil(cls, image: PilImage, format: str = "png") -> Self:
        """Image file with the content of a Pillow image. ``format``: png, jpeg or webp."""
        with NamedTemporaryFile(dir=folder(), delete=False, suffix=f".{format}") as written:
            image.save(written, format=format)
        width, height = image.size
        return cls(written.name, f"image/{format}", width=width, height=height)

    def open(
        self, mode: Literal["RGB", "RGBA"] = "RGB", *, most_pixels: int | None = None
    ) -> PilImage:
        """The image as Pillow's, upright as its EXIF says and in sRGB by its ICC profile.

        ``mode``: RGB is on white where the image is transparent. ``most_pixels``: limit of width
        times height; None: 50 megapixels. Raises ``InvalidField`` naming the field of the input if
        the file cannot be read as an image. The app's environment must have Pillow 10.3 or later.
        """
        from darkroom.images import MAX_PIXELS, read_image, read_transparent  # noqa: PLC0415

        most = MAX_PIXELS if most_pixels is None else most_pixels
        read = read_image if mode == "RGB" else read_transparent
        with self._reading() as file:
            return read(file, most_pixels=most)

    def open_mask(self) -> PilImage:
        """The image as a mask, in mode L: white is selected. Strokes on nothing are selected as far
        as they are opaque. Errors are those of ``open``."""
        from darkroom.images import read_mask  # noqa: PLC0415

        with self._reading() as file:
            return read_mask(file, note=print)

    @contextmanager
    def _reading(self) -> Generator[BinaryIO]:
        from darkroom.images import ImageError  # noqa: PLC0415  # not every app has Pillow

        try:
            with self.path.open("rb") as file:
                yield file
        except ImageError as error:
            field = self._field or self.kind
            raise InvalidField(field, error.message, error.type, error.context) from error


class Video(File):
    """A video file."""

    kind = "video"


class Audio(File):
    """An audio file."""

    kind = "audio"
