"""The app of these tests. Its worker process imports it; the tests only read its text."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

import darkroom


class Counted(BaseModel):
    number: int


class Shown(BaseModel):
    image: darkroom.Image


class Studio(darkroom.App):
    concurrency = 2

    def setup(self) -> None:
        self.calls = 0

    @darkroom.endpoint("/")
    def echo(self, text: str, steps: int = 0, until: str = "") -> str:
        self.calls += 1
        print(f"echoing {text}")  # noqa: T201  # apps may print
        print("to the error stream", file=sys.stderr)  # noqa: T201
        for step in range(steps):
            darkroom.progress(step + 1, steps)
        while until and not Path(until).exists():
            time.sleep(0.01)
        return text

    @darkroom.endpoint("/process")
    def process(self) -> dict[str, int]:
        return {"pid": os.getpid(), "calls": self.calls}

    @darkroom.endpoint("/claim")
    def claim(self) -> dict[str, str]:
        return {"darkroom_safety": "checked: everything"}

    @darkroom.endpoint("/variables")
    def variables(self) -> dict[str, str]:
        return {**os.environ, "pid": str(os.getpid())}  # noqa: TID251  # apps read theirs

    @darkroom.endpoint("/count")
    def count(self, to: int, then_fail: bool = False) -> Iterator[Counted]:
        for number in range(to):
            yield Counted(number=number)
        if then_fail:
            raise ValueError("no further")

    @darkroom.endpoint("/paint")
    def paint(
        self, color: str, kind: str = "image/png", generated: bool = True
    ) -> Iterator[dict[str, darkroom.File]]:
        from PIL import Image  # noqa: PLC0415

        image = darkroom.Image.from_pil(Image.new("RGB", (16, 16), color))
        file = darkroom.File(image.path, kind, generated=generated)
        yield {"file": file}
        yield {"file": file, "same": file}

    @darkroom.endpoint("/shown")
    def shown(self, text: str) -> Shown:
        return Shown.model_validate_json(text)

    @darkroom.endpoint("/again")
    def again(self, image_url: darkroom.Image) -> Shown:
        return Shown.model_validate(Shown(image=image_url).model_dump())

    @darkroom.endpoint("/pass")
    def pass_on(self, image_url: darkroom.Image) -> darkroom.Image:
        return image_url

    @darkroom.endpoint("/own")
    def own(self) -> darkroom.File:
        return darkroom.File(__file__, "image/png")

    @darkroom.endpoint("/draw")
    def draw(self, sizes: list[int]) -> Iterator[darkroom.Image]:
        for size in sizes:
            yield darkroom.Image.from_bytes(b"a" * size, "image/png")

    @darkroom.endpoint("/noted")
    def noted(self, to: int, file: str) -> Iterator[int]:
        try:
            for number in range(to):
                with open(file, "a") as noted:  # noqa: PTH123
                    noted.write(".")
                yield number
        finally:
            Path(f"{file}.over").write_text(".")

    @darkroom.endpoint("/copy")
    def copy(self, image_url: darkroom.Image) -> darkroom.Image:
        return darkroom.Image.from_bytes(image_url.read_bytes(), "image/png", width=1, height=1)

    @darkroom.endpoint("/refuse")
    def refuse(self, text: str) -> str:
        raise darkroom.InvalidField("text", f"{text} is not a word")

    @darkroom.endpoint("/busy")
    def busy(self) -> str:
        raise darkroom.AppError("The other service is busy.", retry=True)

    @darkroom.endpoint("/broken")
    def broken(self) -> str:
        return str(1 / 0)

    @darkroom.endpoint("/die")
    def die(self) -> str:
        print("about to die", flush=True)  # noqa: T201
        os._exit(3)

    @darkroom.endpoint("/orphan")
    def orphan(self, detached: bool) -> str:
        if os.fork() == 0:
            if detached:
                os.setsid()
            time.sleep(30)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
        return "never"

    @darkroom.endpoint("/daemon")
    def daemon(self) -> dict[str, int]:
        spare = subprocess.Popen(["sleep", "30"], close_fds=False, start_new_session=True)
        print("started", flush=True)  # noqa: T201
        return {"pid": spare.pid, "own": os.getpid()}

    @darkroom.endpoint("/wait")
    async def wait(self) -> str:
        await asyncio.sleep(600)
        return "never"

    @darkroom.endpoint("/polite")
    def polite(self) -> str:
        while True:
            darkroom.progress(1, 0)
            time.sleep(0.01)

    @darkroom.endpoint("/stubborn")
    def stubborn(self) -> str:
        darkroom.progress(1, 2)
        time.sleep(600)
        return "never"


class NoSetup(darkroom.App):
    def setup(self) -> None:
        raise ValueError("there are no weights")

    @darkroom.endpoint("/")
    def echo(self) -> str:
        return ""


class SlowSetup(darkroom.App):
    def setup(self) -> None:
        time.sleep(600)

    @darkroom.endpoint("/")
    def echo(self) -> str:
        return ""
