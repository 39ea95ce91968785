"""Weights from the hub, by the hub's own library: proxies, redirects, tokens and ranges are its.

What the library does not do is done here: it does not go on from a part that another process has
left (so the store hands it the part), does not compare digests, and gives up on a broken answer.
Its second way of fetching, xet, is not used: it cannot go on from a part, and opens connections of
its own that neither the proxy's variables nor a test can see.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import httpx2
from huggingface_hub import HfApi, constants, get_token, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers, get_session
from tqdm import tqdm

from weights import hub_troubles
from weights.listing import INDEX, ListedFile, Listing
from weights.source import Part

T = TypeVar("T")

ANSWER_S = 10.0  # of a question about a repository
TRIES = 5  # of one call, without a byte in between
MOST_WAIT_S = 300.0  # that the hub may ask for
FIRST_WAIT_S = 1.0

# Else the library tells what else is installed, and fetches a list of programs that it may have
# been started by: nothing leaves the installation but what is asked for.
constants.HF_HUB_DISABLE_TELEMETRY = True


class Hub:
    """One hub. ``token`` and ``endpoint`` are those of the library's own variables (HF_TOKEN,
    HF_ENDPOINT) unless they are given."""

    def __init__(
        self,
        endpoint: str | None = None,
        token: str | None = None,
        *,
        answer_s: float = ANSWER_S,
        tries: int = TRIES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self._token = token
        self._answer_s = answer_s
        self._tries = tries
        self._sleep = sleep

    def listing(self, repository: str, revision: str) -> Listing:
        """All files of the commit. ``WeightsUnavailable`` in a sentence."""
        token = self.token()
        api = HfApi(endpoint=self.endpoint, token=token or False)

        def ask() -> Listing:
            info = api.model_info(
                repository, revision=revision, files_metadata=True, timeout=self._answer_s
            )
            files = tuple(_listed(each) for each in info.siblings or ())
            listing = Listing(repository, revision, files, None)
            index = next((each for each in files if each.path == INDEX), None)
            if index is None:
                return listing
            content = io.BytesIO()
            self._get(repository, revision, index, content)
            return Listing(repository, revision, files, json.loads(content.getvalue()))

        return self._patiently(ask, repository, revision, lambda: 0)

    def commit_of(self, repository: str, revision: str) -> str:
        """What a branch or a tag is now. ``WeightsUnavailable`` in a sentence."""
        api = HfApi(endpoint=self.endpoint, token=self.token() or False)

        def ask() -> str:
            info = api.model_info(repository, revision=revision, timeout=self._answer_s)
            return str(info.sha)

        return self._patiently(ask, repository, revision, lambda: 0)

    def fetch(self, listing: Listing, file: ListedFile, part: Part) -> None:
        """See ``Source``."""

        def get() -> None:
            if part.size > file.size:
                part.clear()
            self._get(listing.repository, listing.revision, file, part, part.size)

        self._patiently(get, listing.repository, listing.revision, lambda: part.size)

    def account(self) -> str | None:
        """Whose token it is; None: there is none, and the hub answers. ``WeightsUnavailable``."""
        token = self.token()

        def ask() -> str | None:
            if token is None:
                get_session().head(self.endpoint, timeout=self._answer_s)
                return None
            return str(HfApi(endpoint=self.endpoint, token=token).whoami()["name"])

        return self._patiently(ask, "what you ask for", "", lambda: 0)

    def token(self) -> str | None:
        return self._token or get_token()

    def _get(
        self, repository: str, revision: str, file: ListedFile, into: Any, have: int = 0
    ) -> None:
        # The address of the hub itself and not of its CDN: each try is sent on to a fresh one, and
        # the library takes the token off a request that leaves the hub.
        http_get(
            hf_hub_url(repository, file.path, revision=revision, endpoint=self.endpoint),
            into,
            resume_size=have,
            headers=build_hf_headers(token=self.token() or False),
            expected_size=file.size,
            displayed_filename=file.path,
            tqdm_class=cast("Any", _Silent),
        )

    def _patiently(
        self, call: Callable[[], T], repository: str, revision: str, come: Callable[[], int]
    ) -> T:
        """Again while it can help; as long as bytes come, for ever."""
        tries = 0
        while True:
            before = come()
            try:
                return call()
            except (HfHubHTTPError, httpx2.HTTPError, OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # of the disk
                tries = 1 if come() > before else tries + 1
                asked_s = hub_troubles.retry_after_s(error) or 0.0
                hopeless = not _passing(error) or asked_s > MOST_WAIT_S
                if hopeless or tries >= self._tries:
                    raise hub_troubles.explain(
                        error, repository, revision, self.endpoint, token=self.token() is not None
                    ) from error
                self._sleep(max(asked_s, FIRST_WAIT_S * 2 ** (tries - 1)))


def _passing(error: Exception) -> bool:
    # The library says so of a body that ended too early, as a bare OSError.
    return hub_troubles.can_pass(error) or type(error) is OSError


def _listed(sibling: RepoSibling) -> ListedFile:
    if sibling.lfs is not None:
        return ListedFile(sibling.rfilename, sibling.lfs.size, sibling.lfs.sha256)
    return ListedFile(sibling.rfilename, sibling.size or 0, sibling.blob_id or "")


class _Silent(tqdm):  # pyright: ignore[reportMissingTypeArgument]
    """Progress is told by what is written; several processes write to one log."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        named.pop("name", None)  # of the library's own bars
        super().__init__(*arguments, **{**named, "disable": True})
