"""Weights from the hub, through the hub's own library, which handles proxies, redirects, tokens and
ranges.

This module adds what the library lacks: it resumes a part that another process has left (the store
passes the part to the library), compares digests, and retries after a broken response. Its second
transport, xet, is not used: it cannot resume a part, and opens connections of its own that
neither the proxy's variables nor a test can see.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

import httpx2
from huggingface_hub import HfApi, constants, get_token, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers, get_session
from tqdm import tqdm

from serve_app.domain.errors import WeightsUnavailable
from serve_app.domain.pipeline_index import index_file, parse_index
from serve_app.domain.retry_after import parse_retry_after
from serve_app.domain.safetensors import LENGTH_BYTES
from weights.checkpoint_header import Tensors, header_bytes, parse_tensors
from weights.folder import ListedFile, Listing
from weights.source import ByteRange

# Errors of the hub.

TOO_MANY = 429
UNAUTHORIZED = 401
SERVER_ERRORS = 500

ELSEWHERE = (
    "If this machine has no access to it, run `darkroom models pull` on a machine that has, and "
    "copy the directory, or set a mirror (DARKROOM_WEIGHTS_MIRROR)."
)


def can_retry(error: Exception) -> bool:
    """True if a retry can help."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status in (408, TOO_MANY) or status >= SERVER_ERRORS
    # A proxy that refuses a connection will refuse the next one too.
    return isinstance(error, httpx2.TransportError) and not isinstance(error, httpx2.ProxyError)


def retry_after_s(error: Exception) -> float | None:
    """Wait that the hub requests, if it is given in seconds."""
    if not isinstance(error, HfHubHTTPError):
        return None
    return parse_retry_after(error.response.headers.get("Retry-After", ""))


def explain(
    error: Exception, repository: str, revision: str, endpoint: str, *, token: bool
) -> WeightsUnavailable:
    """Error with a message for the user. ``token``: True if a token was sent."""
    return WeightsUnavailable(_sentence(error, repository, revision, endpoint, token=token))


def _sentence(
    error: Exception, repository: str, revision: str, endpoint: str, *, token: bool
) -> str:
    if isinstance(error, GatedRepoError):
        return _gated_message(repository, f"{endpoint}/{repository}", token=token)
    if isinstance(error, RepositoryNotFoundError):
        who = "the account of HF_TOKEN may not see it" if token else "it is private: set HF_TOKEN"
        return f"The hub {endpoint} has no {repository}, or {who}."
    if isinstance(error, RevisionNotFoundError):
        page = f"{endpoint}/{repository}/commits"
        return f"{repository} has no revision {revision}: {page} lists those it has."
    if isinstance(error, DisabledRepoError):
        return f"The hub has disabled {repository}; {endpoint}/{repository} may say why."
    if isinstance(error, HfHubHTTPError):
        return _status_message(error, repository, endpoint)
    return _connection_message(error, repository, endpoint)


def _gated_message(repository: str, page: str, *, token: bool) -> str:
    if token:
        return (
            f"{repository} is gated, and the account of HF_TOKEN has no access: accept its licence "
            f"at {page} with that account. A fine-grained token must also be allowed to read gated "
            "repositories."
        )
    return (
        f"{repository} is gated: accept its licence at {page}, create a read token for that "
        "account, and set it as HF_TOKEN where Darkroom is started (on a cluster: in the "
        "environment of Ray on the nodes with replicas)."
    )


def _status_message(error: HfHubHTTPError, repository: str, endpoint: str) -> str:
    status = error.response.status_code
    if status == TOO_MANY:
        return (
            f"The hub {endpoint} limits the number of calls (429), also after a wait. Set HF_TOKEN "
            "for a higher limit, try later, or set a mirror (DARKROOM_WEIGHTS_MIRROR)."
        )
    if status == UNAUTHORIZED:
        return f"The hub {endpoint} rejects the token in HF_TOKEN. It may have expired: replace it."
    if status >= SERVER_ERRORS:
        return (
            f"The hub {endpoint} still answers {status} for {repository} after several tries. "
            "Try later."
        )
    return f"The hub {endpoint} does not provide {repository}: {error}"


def _connection_message(error: Exception, repository: str, endpoint: str) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return f"{repository} is not on this machine, and HF_HUB_OFFLINE forbids downloads."
    if isinstance(error, httpx2.ProxyError):
        return (
            f"The proxy does not allow connections to the hub {endpoint}: {error}. It is set by "
            "HTTPS_PROXY or HTTP_PROXY; add the hub to NO_PROXY to connect directly."
        )
    if isinstance(error, ValueError):
        return f"{repository} cannot be fetched: {error}"
    return (
        f"{repository} cannot be downloaded: the hub {endpoint} cannot be reached "
        f"({str(error) or type(error).__name__}). Check the network, HTTPS_PROXY and "
        f"HF_ENDPOINT. {ELSEWHERE}"
    )


T = TypeVar("T")

ANSWER_S = 10.0  # timeout of a query about a repository
TRIES = 5  # of one call, without receiving a byte in between
MAX_WAIT_S = 300.0  # longest wait that the hub may request
FIRST_WAIT_S = 1.0

# Otherwise the library reports which other libraries are installed, and fetches a list of agent
# programs to detect its caller. Only requested data may leave the installation.
constants.HF_HUB_DISABLE_TELEMETRY = True


class Hub:
    """Client for one hub. ``token`` and ``endpoint`` default to the library's own environment
    variables (HF_TOKEN, HF_ENDPOINT). With an empty ``token``, none is sent."""

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
        """All files of the commit. ``WeightsUnavailable`` with a message for the user."""
        token = self.token()
        api = HfApi(endpoint=self.endpoint, token=token or False)

        def ask() -> Listing:
            info = api.model_info(
                repository, revision=revision, files_metadata=True, timeout=self._answer_s
            )
            files = tuple(_file_of_sibling(sibling) for sibling in info.siblings or ())
            listing = Listing(repository, revision, files, None)
            paths = {file.path: file for file in files}
            if (name := index_file(paths)) is None:
                return listing
            content = io.BytesIO()
            self._get(repository, revision, paths[name], content)
            try:
                index = parse_index(name, content.getvalue(), paths)
            except ValueError as error:
                raise WeightsUnavailable(f"{name} of {repository} {error}") from error
            return Listing(repository, revision, files, index)

        return self._with_retries(ask, repository, revision, lambda: 0)

    def commit_of(self, repository: str, revision: str) -> str:
        """Current commit of a branch or tag. ``WeightsUnavailable`` with a message for the user."""
        api = HfApi(endpoint=self.endpoint, token=self.token() or False)

        def ask() -> str:
            info = api.model_info(repository, revision=revision, timeout=self._answer_s)
            return str(info.sha)

        return self._with_retries(ask, repository, revision, lambda: 0)

    def read(self, listing: Listing, file: ListedFile) -> bytes:
        """Content of a small file. ``WeightsUnavailable`` with a message for the user."""

        def ask() -> bytes:
            content = io.BytesIO()
            self._get(listing.repository, listing.revision, file, content)
            return content.getvalue()

        return self._with_retries(ask, listing.repository, listing.revision, lambda: 0)

    def read_tensors(self, listing: Listing, file: ListedFile) -> Tensors:
        """Tensors of a checkpoint by its header, without their values. ``WeightsUnavailable`` with
        a message for the user."""

        def ask() -> io.BytesIO:
            begin = _Beginning()
            with suppress(_Enough):
                self._get(listing.repository, listing.revision, file, begin)
            begin.seek(0)
            return begin

        begin = self._with_retries(ask, listing.repository, listing.revision, lambda: 0)
        return parse_tensors(begin, file.path, file.size)

    def fetch(self, listing: Listing, file: ListedFile, part: ByteRange) -> None:
        """Implement ``Source.fetch``."""

        def get() -> None:
            if part.size > file.size:
                part.clear()
            self._get(listing.repository, listing.revision, file, part, part.size)

        self._with_retries(get, listing.repository, listing.revision, lambda: part.size)

    def account(self) -> str | None:
        """Account of the token. None without a token, if the hub responds. Raises
        ``WeightsUnavailable``."""
        token = self.token()

        def ask() -> str | None:
            if token is None:
                get_session().head(self.endpoint, timeout=self._answer_s)
                return None
            return str(HfApi(endpoint=self.endpoint, token=token).whoami()["name"])

        return self._with_retries(ask, "the requested data", "", lambda: 0)

    def token(self) -> str | None:
        return get_token() if self._token is None else self._token or None

    def _get(
        self, repository: str, revision: str, file: ListedFile, into: Any, have: int = 0
    ) -> None:
        # The URL of the hub itself, not of its CDN: each try is redirected to a fresh CDN URL, and
        # the library removes the token from requests that leave the hub.
        http_get(
            hf_hub_url(repository, file.path, revision=revision, endpoint=self.endpoint),
            into,
            resume_size=have,
            headers=build_hf_headers(token=self.token() or False),
            expected_size=file.size,
            displayed_filename=file.path,
            tqdm_class=cast("Any", _Silent),
        )

    def _with_retries(
        self,
        call: Callable[[], T],
        repository: str,
        revision: str,
        bytes_received: Callable[[], int],
    ) -> T:
        """Retry while that can help: without limit as long as bytes arrive."""
        tries = 0
        while True:
            before = bytes_received()
            try:
                return call()
            except (HfHubHTTPError, httpx2.HTTPError, OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # a disk error
                tries = 1 if bytes_received() > before else tries + 1
                asked_s = retry_after_s(error) or 0.0
                hopeless = not _is_transient(error) or asked_s > MAX_WAIT_S
                if hopeless or tries >= self._tries:
                    raise explain(
                        error, repository, revision, self.endpoint, token=self.token() is not None
                    ) from error
                self._sleep(max(asked_s, FIRST_WAIT_S * 2 ** (tries - 1)))


def _is_transient(error: Exception) -> bool:
    # The library raises a bare OSError for a body that ended too early.
    return can_retry(error) or type(error) is OSError


def _file_of_sibling(sibling: RepoSibling) -> ListedFile:
    if sibling.lfs is not None:
        return ListedFile(sibling.rfilename, sibling.lfs.size, sibling.lfs.sha256)
    return ListedFile(sibling.rfilename, sibling.size or 0, sibling.blob_id or "")


class _Enough(Exception):
    """Raised to end a download when the header is complete."""


class _Beginning(io.BytesIO):
    def write(self, data: Any, /) -> int:
        size = super().write(data)
        if self.tell() >= header_bytes(bytes(self.getbuffer()[:LENGTH_BYTES])):
            raise _Enough
        return size


class _Silent(tqdm):
    """Disabled progress bar: progress is measured by the bytes written, and the log is shared."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        named.pop("name", None)  # an argument of the library's own bars
        disabled: Any = {**named, "disable": True}
        super().__init__(*arguments, **disabled)
