"""What serving an endpoint's own model on a machine takes, and the sentences that say it.

The command line, the doctor, `/v1/models` and the page show these and no others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal

from serve_app.domain.endpoint import EIGHT_BITS, Recipe, WorkLimit, fitting


def gigabytes(size: float) -> str:
    """Size in decimal units, as for disks: 1 GB = 10^9 bytes."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


DISTRIBUTIONS = {"cv2": "opencv-python"}
"""Module → name under which pip installs it, where it is another."""


def missing_text(packages: Sequence[str]) -> str:
    """Sentence about modules that a model needs and that are not installed; empty without any."""
    if not packages:
        return ""
    return (
        f"it needs {', '.join(packages)}, which this machine's Python does not have: "
        f"`{install_command(packages)}` where replicas run, or every request fails"
    )


def install_command(packages: Iterable[str]) -> str:
    """Command that installs modules."""
    return f"pip install {' '.join(DISTRIBUTIONS.get(name, name) for name in packages)}"


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """Machine that an endpoint runs on. None: not known."""

    device_bytes: int | None  # memory of its smallest GPU; 0: it has none
    memory_bytes: int | None = None
    free_bytes: int | None = None  # on the disk of the weights


class HubState(StrEnum):
    """State of the hub, or of the mirror in front of it."""

    NOT_NEEDED = "not_needed"  # all is here, or there is nothing to download
    NOT_ASKED = "not_asked"
    OFFLINE = "offline"
    UNREACHABLE = "unreachable"
    REFUSES = "refuses"  # it answers, and does not give these weights
    GIVES = "gives"


@dataclass(frozen=True, slots=True)
class Download:
    """Weights that an endpoint needs of the hub. None: not known."""

    total_bytes: int | None
    missing_bytes: int | None  # not on this machine
    source: HubState
    basis: Literal["files", "entry", "estimate", "unknown"] = "files"
    gated: bool | None = None
    problem: str = ""  # why they cannot be had, as a sentence

    @property
    def is_here(self) -> bool:
        return self.missing_bytes == 0

    @staticmethod
    def together(each_one: Iterable[Download]) -> Download:
        """All repositories of an endpoint as one."""
        downloads = [*each_one]
        if not downloads:
            return NOTHING
        totals = [download.total_bytes for download in downloads]
        missing = [download.missing_bytes for download in downloads]
        gated = [download.gated for download in downloads]
        return Download(
            None if None in totals else sum(filter(None, totals)),
            None if None in missing else sum(filter(None, missing)),
            max((download.source for download in downloads), key=_BY_WEIGHT.index),
            gated=True if True in gated else None if None in gated else False,
            problem=" ".join(
                dict.fromkeys(download.problem for download in downloads if download.problem)
            ),
        )

    def text(self) -> str:
        if self is NOTHING:
            return "nothing"
        if self.total_bytes is None:
            return "size unknown"
        total = gigabytes(self.total_bytes)
        if self.is_here:
            return f"{total}, all downloaded"
        if self.missing_bytes == self.total_bytes:
            return f"{total} to download"
        if self.missing_bytes is not None:
            return f"{gigabytes(self.missing_bytes)} to download, of {total}"
        return _BASES[self.basis].format(total)


_BY_WEIGHT = (
    *(HubState.NOT_NEEDED, HubState.GIVES, HubState.NOT_ASKED),
    *(HubState.OFFLINE, HubState.UNREACHABLE, HubState.REFUSES),
)
"""States, the one that decides for several repositories last."""

NOTHING = Download(0, 0, HubState.NOT_NEEDED, gated=False)
"""Of an endpoint without weights of the hub."""

_BASES = {
    "files": "{}, of which it is not known what is downloaded where it runs",
    "entry": "about {}",
    "estimate": "about {} (estimated)",
}


class Server(StrEnum):
    """What answers an endpoint's requests."""

    REAL = "real"
    DEMO = "demo"
    HOSTED = "hosted"  # a provider
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Needs:
    """What an endpoint's own model takes. None: its entry does not say it."""

    recipes: tuple[Recipe, ...] = ()
    runs_on_cpu: bool = False
    weights_bytes: int | None = None  # in 16 bits
    seconds: float | None = None  # of a usual request
    seconds_from: Literal["here", "entry", "unknown"] = "unknown"
    packages: tuple[str, ...] = ()  # modules that are not installed here


@dataclass(frozen=True, slots=True)
class Preflight:
    """Answer for one endpoint on one machine."""

    endpoint_id: str
    name: str
    kind: str  # of what it makes: image, video or audio
    licence: str
    server: Server
    reason: str  # why it is not served; empty: it is
    machine: MachineFacts
    needs: Needs
    download: Download
    pull: str = ""  # command that downloads the weights

    # Whether it fits

    @property
    def recipe(self) -> Recipe | None:
        """Recipe for the machine's GPU."""
        device = self.machine.device_bytes
        return fitting(self.needs.recipes, device) if device else None

    @property
    def host_bytes(self) -> int | None:
        """Memory beside the GPU's that holds weights. None: not known, or all are on the GPU."""
        if self.machine.device_bytes == 0:
            return self.download.total_bytes if self.needs.runs_on_cpu else None
        recipe, size = self.recipe, self.needs.weights_bytes
        if recipe is None or recipe.offload == "none" or size is None:
            return None
        return size // 2 if recipe.precision in EIGHT_BITS else size

    @property
    def fits(self) -> bool | None:
        """True if the machine is large enough. None: not known."""
        return self._fit()[0]

    def _fit(self) -> tuple[bool | None, str]:
        """Return whether it fits, and the sentence that says it."""
        if self.server is Server.HOSTED:
            return True, "yes: it runs at the provider"
        host, memory = self.host_bytes, self.machine.memory_bytes
        if host is not None and memory is not None and host > memory:
            return False, (
                f"no: its weights take {gigabytes(host)} of the machine's memory, which is "
                f"{gigabytes(memory)}"
            )
        if self.lacking_bytes:
            return False, (
                f"no: its weights need {gigabytes(self.lacking_bytes)} more free space on the disk"
            )
        return self._fit_of_device()

    def _fit_of_device(self) -> tuple[bool | None, str]:
        device, recipes = self.machine.device_bytes, self.needs.recipes
        if not device and self.needs.runs_on_cpu:
            return True, "yes, without a GPU"
        if not recipes:
            return None, "unknown: its entry does not say what memory it needs"
        least = f"a GPU with {recipes[0].memory_gb:g} GB or more"
        if device is None:
            return None, f"unknown: it needs {least}, and no replica has named its GPU yet"
        if (recipe := self.recipe) is None:
            here = f"this one has {device / 1e9:.0f} GB" if device else "this machine has none"
            return False, f"no: it needs {least}, and {here}"
        return True, (
            f"yes: {recipe.precision}"
            + (f", offload {recipe.offload}" if recipe.offload != "none" else "")
            + f" (for {recipe.memory_gb:g} GB; this GPU has {device / 1e9:.0f})"
            + (f"; at most {_largest(recipe.largest)}" if recipe.largest else "")
        )

    @property
    def lacking_bytes(self) -> int:
        """Disk space that the download lacks; 0 if it is enough or not known."""
        missing = self.download.missing_bytes
        missing = self.download.total_bytes if missing is None else missing
        free = self.machine.free_bytes
        return 0 if not missing or free is None else max(0, missing + SPARE_BYTES - free)

    # The sentences

    def sentences(self) -> Mapping[str, str]:
        """Sentences by subject, in their order, without full stops. A subject of which there is
        nothing to say is left out."""
        lines = {
            "served": self._service(),
            "fits": self._fit()[1],
            "packages": missing_text(self.needs.packages),
            "download": self.download.text(),
            "licence": self.licence or "not stated: check it before you use the model",
            "access": self._access(),
            "time": self._time(),
            "next": self.next,
        }
        return {subject: sentence for subject, sentence in lines.items() if sentence}

    def _service(self) -> str:
        match self.server:
            case Server.REAL:
                return "yes, the real model"
            case Server.DEMO:
                return f"a tiny demo model in place of {self.name}"
            case Server.HOSTED:
                return "by a hosted provider"
            case Server.NOTHING:
                return f"no. {self.reason}"

    def _access(self) -> str:
        match self.download.source:
            case HubState.OFFLINE:
                return "not asked: this machine is set to be offline"
            case HubState.UNREACHABLE:
                return "the hub cannot be reached from here"
            case HubState.REFUSES:
                return self.download.problem
            case HubState.GIVES:
                return "the hub gives it"
            case HubState.NOT_ASKED | HubState.NOT_NEEDED:
                return ""

    def _time(self) -> str:
        if self.needs.seconds is None:
            return "unknown until it has run here"
        measured = self.needs.seconds_from == "here"
        words = ("", ", measured here") if measured else ("about ", "")
        return f"{words[0]}{self.needs.seconds:.2g} s for each {self.kind}{words[1]}"

    @property
    def next(self) -> str:
        """What to do to have the real model; empty if there is nothing to do."""
        if self.needs.packages:
            return f"`{install_command(self.needs.packages)}` where replicas run"
        if self.server is Server.HOSTED or (self.server is Server.REAL and self.download.is_here):
            return ""
        source = self.download.source
        steps = (  # the first whose condition holds
            (
                self.lacking_bytes > 0,
                "free space, or set DARKROOM_WEIGHTS_DIR to a folder on a larger disk",
            ),
            (
                self.fits is False,
                "serve it on a larger machine (docs/tutorials/rented-gpu.md rents one)",
            ),
            (
                source is HubState.UNREACHABLE,
                "check the network, HTTPS_PROXY and HF_ENDPOINT, or set DARKROOM_WEIGHTS_MIRROR",
            ),
            (source is HubState.REFUSES, "see to the access, then download it"),
            (
                source is HubState.OFFLINE,
                "copy its weights here, or unset DARKROOM_OFFLINE and HF_HUB_OFFLINE",
            ),
            (self.server is Server.DEMO, "set DARKROOM_DEMO=false to serve the real model"),
            (
                self.server is Server.REAL and self.pull != "",
                f"`{self.pull}` downloads it now; without, its first request does",
            ),
        )
        return next((words for holds, words in steps if holds), "")

    def _needs_gpu(self) -> bool | None:
        if self.needs.runs_on_cpu or self.server is Server.HOSTED:
            return False
        return True if self.needs.recipes else None

    def as_json(self) -> dict[str, Any]:
        """The answer in JSON's types: facts, and the sentences about them."""
        recipes = self.needs.recipes
        return {
            "server": self.server.value,
            "fits": self.fits,
            "needs": {
                "device_gb": recipes[0].memory_gb if recipes else None,
                "host_gb": _as_gb(self.host_bytes),
                "disk_gb": _as_gb(self.download.total_bytes),
                "gpu": self._needs_gpu(),
            },
            "machine": {name: _as_gb(size) for name, size in _sizes_by_name(self.machine)},
            "download": {
                "total_bytes": self.download.total_bytes,
                "missing_bytes": self.download.missing_bytes,
                "basis": self.download.basis,
                "gated": self.download.gated,
                "source": self.download.source.value,
                "problem": self.download.problem or None,
            },
            "seconds": self.needs.seconds,
            "seconds_from": self.needs.seconds_from,
            "sentences": dict(self.sentences()),
        }


MOST_NAMED = 6  # endpoints in a sentence


def summary(answers: Sequence[Preflight]) -> str:
    """Sentence about all endpoints with weights of the hub: how many of their own models fit."""
    own = [answer for answer in answers if answer.pull and answer.server is not Server.HOSTED]
    fitting_ = [answer.endpoint_id for answer in own if answer.fits]
    unknown = [answer.endpoint_id for answer in own if answer.fits is None]
    if not own:
        return "no endpoint uses weights of the hub"
    if len(fitting_) == len(own):
        return (
            f"all {len(own)} fit this machine" if len(own) > 1 else "the only one fits this machine"
        )
    least = min((n.memory_gb for answer in own for n in answer.needs.recipes[:1]), default=0.0)
    return "; ".join(
        (
            f"{len(fitting_)} of {len(own)} fit this machine" + _ids_text(fitting_),
            *([f"not known of {len(unknown)}{_ids_text(unknown)}"] if unknown else []),
            *([f"the smallest GPU that serves one has {least:g} GB"] if least else []),
            "`darkroom models --all` shows what each needs",
        )
    )


def _ids_text(ids: Sequence[str]) -> str:
    return f" ({', '.join(ids)})" if 0 < len(ids) <= MOST_NAMED else ""


SPARE_BYTES = 512 * 2**20
"""Disk space that stays free: the database and the logs are often on the same disk."""


def _sizes_by_name(machine: MachineFacts) -> Iterable[tuple[str, int | None]]:
    for name, size in asdict(machine).items():
        yield name.replace("_bytes", "_gb"), size


def _as_gb(size: int | None) -> float | None:
    return None if size is None else round(size / 1e9, 1)


def _largest(limit: WorkLimit) -> str:
    text = f"{limit.megapixels:g} megapixels"
    text += f" × {limit.frames} frames" if limit.frames > 1 else ""
    if limit.tile_above is not None:
        text += f", decoded in tiles above {limit.tile_above:g}"
    return text
