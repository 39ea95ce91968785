"""Weights from the hub, at a pinned revision."""

from __future__ import annotations

import re
from pathlib import Path

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import Misconfigured, WeightsUnavailable
from serve_app.domain.progress import OnDownload

_COMMIT = re.compile(r"[0-9a-f]{40}")


def download(weights: Weights, on_download: OnDownload | None = None) -> Path:
    """The directory of the repository in the local cache, filled if need be with its safetensors.
    ``on_download`` is told when all of it is there.

    ``Misconfigured`` without a full commit hash: a branch can change under a running installation,
    and with it every picture. ``WeightsUnavailable`` when the hub does not give them.
    """
    name, revision = weights.source, weights.revision or ""
    if not _COMMIT.fullmatch(revision):
        raise Misconfigured(
            f"The weights {name} need a revision: the full commit hash, 40 hexadecimal digits, as "
            f"the hub's page of commits shows it. Given: {weights.revision!r}."
        )
    try:
        folder = Path(DiffusionPipeline.download(name, revision=revision, use_safetensors=True))
    except GatedRepoError as error:
        raise WeightsUnavailable(
            f"{name} is gated: accept its licence on the hub and give the replica a token "
            "(HF_TOKEN)."
        ) from error
    except RevisionNotFoundError as error:
        raise WeightsUnavailable(f"{name} has no revision {revision} on the hub.") from error
    except RepositoryNotFoundError as error:
        raise WeightsUnavailable(
            f"The hub has no {name}, or this token may not see it (HF_TOKEN)."
        ) from error
    except HfHubHTTPError as error:
        raise WeightsUnavailable(f"The hub did not give {name}: {error}") from error
    except (OSError, ValueError) as error:
        raise WeightsUnavailable(
            f"{name} is not in the local cache and the hub cannot be reached, or it has no "
            f"safetensors: {error}"
        ) from error
    if on_download is not None:
        size = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
        on_download(size, size)
    return folder
