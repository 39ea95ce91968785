"""Predictors that use what Cog's own integration tests use."""

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path as PlainPath

from cog import (
    AsyncConcatenateIterator,
    BaseModel,
    BasePredictor,
    BaseRunner,
    ConcatenateIterator,
    File,
    Input,
    Path,
    Secret,
    concurrent,
)


class Painter(BasePredictor):
    def setup(self) -> None:
        self.calls = 0

    def predict(
        self,
        text: str = Input(description="What to paint.", regex="^[a-z ]+$", max_length=20),
        image: Path = Input(description="What to paint on.", default=None, accept="image/*"),
        steps: int = Input(default=2, ge=1, le=50),
        strength: float = Input(default=0.5, ge=0, le=1),
        style: str = Input(default="oil", choices=["oil", "ink"]),
        seed: int = Input(description="Chosen if it is left out.", default=None),
        then: str = "",
    ) -> Path:
        """Paint a text."""
        self.calls += 1
        print(f"painting {text} with {style}")
        for step in range(steps):
            print(
                f"\r{100 * step // steps}%|###  | {step}/{steps} [00:00<?]", end="", file=sys.stderr
            )
        sys.stderr.flush()
        if then == "fail":
            print("about to fail")
            raise ValueError("there is no paint left")
        if then == "die":
            os._exit(3)
        if then.startswith("signal "):
            os.kill(os.getpid(), int(then.removeprefix("signal ")))
            time.sleep(60)  # another thread may get it
        if then.startswith("wait for "):
            PlainPath(then.removeprefix("wait for ") + ".started").touch()
            while not os.path.exists(then.removeprefix("wait for ")):
                time.sleep(0.02)
        written = Path("painting.png")  # in the current folder, as many predictors do
        before = image.read_bytes() if image else b""
        suffix = image.suffix if image else ""
        written.write_bytes(before + f"{text} {steps} {strength} {style} {seed}{suffix}".encode())
        return written


class Frames(BasePredictor):
    def predict(self, count: int) -> list[Path]:
        paths = []
        for number in range(count):
            # The first ones are the largest, so that their uploads would end last.
            path = Path(f"frame.{number}.txt")
            path.write_text(f"{number} " + "x" * 1000 * (count - number))
            paths.append(path)
        return paths


class Writer(BaseRunner):
    @concurrent(max=2)
    async def run(self, words: int, meet: str = "") -> AsyncConcatenateIterator[str]:
        if meet:  # both requests are there at once, or neither ends
            PlainPath(f"{meet}.{words}").touch()
            while len(list(PlainPath(meet).parent.glob(PlainPath(meet).name + ".*"))) < 2:
                await asyncio.sleep(0.02)
        for number in range(words):
            yield f"word{number} "


class Speller(BasePredictor):
    def predict(self, word: str) -> ConcatenateIterator[str]:
        yield from word


class Counter(BaseRunner):
    def run(self, to: int, start: int | None = None) -> Iterator[int]:
        yield from range(start or 0, to)


class Report(BaseModel):
    title: str
    tags: list[str]
    picture: Path | None
    nothing: Path | None


class Reporter(BasePredictor):
    def predict(self, files: list[Path], old: File, key: Secret) -> Report:
        picture = Path("picture.jpg")
        picture.write_bytes(b"".join(file.read_bytes() for file in files) + old.read())
        title = f"{key} {key.get_secret_value()}"
        return Report(title=title, tags=["a", "b"], picture=picture, nothing=None)


class Ill(BaseRunner):
    def setup(self) -> None:
        print("looking for weights")
        raise OSError("there are no weights")

    def run(self) -> str:
        return ""


class Endless(BaseRunner):
    def setup(self) -> None:
        time.sleep(3600.0)

    def run(self) -> str:
        return ""


class Sick(BaseRunner):
    ill = False

    def healthcheck(self) -> bool:
        return not self.ill

    def run(self) -> str:
        Sick.ill = True
        raise ValueError("the GPU fell off the bus")


def environment(name: str) -> str:
    """The value of a variable."""
    return os.environ.get(name, "none")


def train(data: Path, epochs: int = Input(default=1, ge=1, le=10)) -> Path:
    """Train on a file."""
    weights = Path("weights.bin")
    weights.write_bytes(data.read_bytes() * epochs)
    return weights
