"""Weights from other nodes of the installation: asked before the hub, verified like the hub, and
sent to nobody else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.endpoint import StoreConfig
from serve_app.telemetry.clock import SystemClock
from tests.weights.conftest import COMMIT, NAME, WEIGHTS, MakeStore
from tests.weights.hub_server import HubServer, sha256
from weights import peer_server, peers
from weights.folder import RepositoryFolder
from weights.hub import Hub
from weights.peer_server import LINGER_S, Pace, PeerServer, Seats
from weights.peers import TOKEN_S, Found, Peers, file_path, listing_path, sign
from weights.source import Source
from weights.store import Store

UNET = "unet/diffusion_pytorch_model.safetensors"
KEY, OTHER_KEY = b"k" * 32, b"o" * 32
CLOCK = SystemClock()

StartPeer = Callable[..., PeerServer]


# On a machine that stands still, a connection outlived its server twice. It ends with its
# thread's loop; why it was open is not known yet.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")


@pytest.fixture
def start_peer(make_store: MakeStore, tmp_path: Path) -> Iterator[StartPeer]:
    """``start_peer(filled=…, **limits)``: another node, with all weights unless it has none."""
    running: list[PeerServer] = []

    def start(*, filled: bool = True, peers: int = 2, bytes_per_s: int = 0) -> PeerServer:
        directory = tmp_path / f"node-{len(running)}"
        if filled:
            with make_store(directory=directory).open(WEIGHTS):
                pass
        server = PeerServer(directory, peers, bytes_per_s)
        server.key = KEY
        server.start("127.0.0.1")
        running.append(server)
        return server

    yield start
    for started in running:
        started.close()


def url(server: PeerServer) -> str:
    return f"http://127.0.0.1:{server.port}"


def asking(*servers: PeerServer, caller: str = "fresh") -> Callable[[str, str], Source]:
    holders = Found(tuple(url(server) for server in servers), KEY)
    return lambda *_: Peers(lambda: holders, caller, CLOCK)


def fresh(tmp_path: Path, hub: str, *servers: PeerServer, caller: str = "fresh") -> Store:
    """Store of a node without weights, which may ask ``servers`` before the hub."""
    config = StoreConfig(directory=tmp_path / caller)
    return Store(config, lambda: Hub(hub, tries=1), asking(*servers, caller=caller))


NO_HUB = "http://127.0.0.1:9"


def get(server: PeerServer, path: str, token: str | None) -> httpx2.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return httpx2.get(url(server) + path, headers=headers, trust_env=False, verify=False)


def get_signed(server: PeerServer, path: str, caller: str = "fresh") -> httpx2.Response:
    return get(server, path, sign(KEY, caller, path, CLOCK.now()))


def test_a_fresh_node_needs_no_hub_if_another_has_the_weights(
    start_peer: StartPeer, tmp_path: Path, repository: Path
) -> None:
    with fresh(tmp_path, NO_HUB, start_peer()).open(WEIGHTS) as folder:
        assert sha256(folder / UNET) == sha256(repository / UNET)


def test_nodes_that_lack_the_weights_or_are_away_are_gone_round(
    start_peer: StartPeer, tmp_path: Path
) -> None:
    gone = start_peer(filled=False)
    gone.close()
    store = fresh(tmp_path, NO_HUB, gone, start_peer(filled=False), start_peer())
    with store.open(WEIGHTS) as folder:
        assert (folder / UNET).is_file()


def test_a_node_that_gets_a_file_while_another_downloads_is_asked_too(
    start_peer: StartPeer, tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "FIND_AGAIN_S", -1.0)
    node, lookups = start_peer(), 0

    def find() -> Found:
        nonlocal lookups
        lookups += 1
        return Found((url(node),), KEY) if lookups > 2 else Found()  # not when the download began

    hub.asked.clear()
    store = Store(
        StoreConfig(directory=tmp_path / "fresh"),
        lambda: Hub(hub.url, tries=1),
        lambda *_: Peers(find, "fresh", CLOCK),
    )
    with store.open(WEIGHTS) as folder:
        assert (folder / UNET).is_file()
    fetched = {request.path for request in hub.asked if "/resolve/" in request.path}
    assert len(fetched) <= 2  # the index for the listing, and the first file


def test_another_node_sends_the_rest_if_one_dies_midway(
    start_peer: StartPeer, tmp_path: Path, repository: Path
) -> None:
    dying, second = start_peer(bytes_per_s=50_000), start_peer()
    reported: list[int] = []

    def on_progress(done: int, _total: int) -> None:
        reported.append(done)
        if done:
            dying.close()

    with fresh(tmp_path, NO_HUB, dying, second).open(WEIGHTS, on_progress) as folder:
        assert sha256(folder / UNET) == sha256(repository / UNET)
    assert reported == sorted(reported)  # nothing was thrown away


def test_the_hub_sends_the_rest_if_the_only_node_dies_midway(
    start_peer: StartPeer, tmp_path: Path, hub: HubServer, repository: Path
) -> None:
    dying = start_peer(bytes_per_s=100_000)
    part = tmp_path / "fresh/models--house--small/blobs" / f"{sha256(repository / UNET)}.part"
    hub.asked.clear()

    def on_progress(_done: int, _total: int) -> None:
        if part.exists() and part.stat().st_size:
            dying.close()

    with fresh(tmp_path, hub.url, dying).open(WEIGHTS, on_progress) as folder:
        assert sha256(folder / UNET) == sha256(repository / UNET)
    assert [bool(download.range) for download in hub.downloads(UNET)] == [True]


def test_a_file_that_another_node_has_damaged_comes_from_the_hub(
    start_peer: StartPeer, tmp_path: Path, hub: HubServer, repository: Path
) -> None:
    node = start_peer()
    damaged = RepositoryFolder(tmp_path / "node-0", NAME).snapshot(COMMIT) / UNET
    facts = damaged.stat()
    damaged.write_bytes(bytes(facts.st_size))
    os.utime(damaged, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # as a failing disk does
    hub.asked.clear()
    with fresh(tmp_path, hub.url, node).open(WEIGHTS) as folder:
        assert sha256(folder / UNET) == sha256(repository / UNET)
    assert hub.downloads(UNET)


def test_a_node_serves_no_more_peers_at_once_than_it_may(
    start_peer: StartPeer,
    tmp_path: Path,
    hub: HubServer,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_server, "LINGER_S", 600.0)  # longer than this machine may stand still
    node = start_peer(peers=1)
    path = file_path(NAME, COMMIT, sha256(repository / UNET))
    assert get_signed(node, path, "first").status_code == 200
    refused = get_signed(node, path, "second")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "600")
    hub.asked.clear()
    with fresh(tmp_path, hub.url, node, caller="third").open(WEIGHTS):
        assert len(hub.downloads(UNET)) == 1


# What is sent, and to whom.


def test_only_holders_of_the_installations_key_get_anything(
    start_peer: StartPeer, repository: Path
) -> None:
    node = start_peer()
    path, now = file_path(NAME, COMMIT, sha256(repository / UNET)), CLOCK.now()
    long_ago = now - timedelta(seconds=3 * TOKEN_S)
    refused = {
        "none": None,
        "not a token": "secret",
        "of another installation": sign(OTHER_KEY, "fresh", path, now),
        "for another path": sign(KEY, "fresh", listing_path(NAME, COMMIT), now),
        "expired": sign(KEY, "fresh", path, long_ago),
    }
    for why, token in refused.items():
        assert get(node, path, token).status_code == 401, why
    assert get(node, listing_path(NAME, COMMIT), None).status_code == 401
    assert get_signed(node, path).status_code == 200


def test_a_node_that_has_not_got_the_key_yet_sends_nothing(start_peer: StartPeer) -> None:
    node = start_peer()
    node.key = b""
    path = listing_path(NAME, COMMIT)
    assert get(node, path, sign(b"\0" * 32, "fresh", path, CLOCK.now())).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/weights/house/small/../../../../etc/passwd",
        f"/weights/house/small/{COMMIT}/files/../../../../../etc/passwd",
        f"/weights/house/small/{COMMIT}/files/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        f"/weights/house/..%2f..%2fsmall/{COMMIT}/listing",
        f"/weights/../node-0/{COMMIT}/listing",
        "/weights/house/small/main/listing",
        f"/weights/house/small/{COMMIT}/files/{'0' * 64}",
        f"/weights/house/small/{COMMIT}/files/model_index.json",
    ],
)
def test_a_path_leads_to_nothing_but_weights(start_peer: StartPeer, path: str) -> None:
    node = start_peer()
    sent = httpx2.URL(url(node) + path).raw_path.decode()
    for named in (path, sent):
        assert get(node, path, sign(KEY, "fresh", named, CLOCK.now())).status_code in (401, 404)


def test_files_that_the_store_has_not_verified_are_not_sent(
    start_peer: StartPeer, tmp_path: Path, repository: Path
) -> None:
    node = start_peer()
    folder = RepositoryFolder(tmp_path / "node-0", NAME)
    listing = folder.listing(COMMIT)
    assert listing is not None
    (readme,) = (file for file in listing.files if file.path == "README.md")
    copied = folder.snapshot(COMMIT) / "README.md"  # by another program that shares the directory
    copied.write_bytes((repository / "README.md").read_bytes())
    assert get_signed(node, file_path(NAME, COMMIT, readme.digest)).status_code == 404


def test_a_link_out_of_the_repository_is_not_followed(
    start_peer: StartPeer, tmp_path: Path, repository: Path
) -> None:
    node = start_peer()
    path = RepositoryFolder(tmp_path / "node-0", NAME).snapshot(COMMIT) / UNET
    facts = path.stat()
    outside = tmp_path / "secret"
    outside.write_bytes(bytes(facts.st_size))
    os.utime(outside, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # looks verified
    path.unlink()
    path.symlink_to(outside)
    assert get_signed(node, file_path(NAME, COMMIT, sha256(repository / UNET))).status_code == 404


def test_a_transfer_goes_on_from_where_it_broke_off(
    start_peer: StartPeer, repository: Path
) -> None:
    node = start_peer()
    whole = (repository / UNET).read_bytes()
    path = file_path(NAME, COMMIT, sha256(repository / UNET))
    for begin, status in ((len(whole) - 7, 206), (len(whole), 206), (len(whole) + 1, 416)):
        headers = {
            "Authorization": f"Bearer {sign(KEY, 'fresh', path, CLOCK.now())}",
            "Range": f"bytes={begin}-",
        }
        answer = httpx2.get(url(node) + path, headers=headers, trust_env=False, verify=False)
        assert answer.status_code == status
        if status == 206:
            assert answer.content == whole[begin:]


# Decisions.

MOVES = st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.floats(0, 10)), max_size=60)


@given(MOVES, st.integers(1, 3))
def test_never_more_peers_than_seats_and_a_peer_keeps_its_seat(
    moves: list[tuple[str, bool, float]], limit: int
) -> None:
    seats, now, sending = Seats(limit), 0.0, dict.fromkeys("abcd", 0)
    for peer, begins, later in moves:
        now += later
        if begins:
            had = sending[peer] > 0
            taken = seats.take(peer, now)
            sending[peer] += taken
            assert taken or not had
            assert taken or sum(map(bool, sending.values())) <= limit
        elif sending[peer]:
            seats.release(peer, now)
            sending[peer] -= 1
        assert sum(map(bool, sending.values())) <= limit
    for peer, files in sending.items():
        for _ in range(files):
            seats.release(peer, now)
    assert seats.take("next", now + LINGER_S + 1)


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 3)), min_size=1, max_size=50))
def test_the_rate_is_kept_over_all_transfers(pieces: list[tuple[int, float]]) -> None:
    pace, now, sent = Pace(1000), 0.0, 0
    for size, later in pieces:
        now += later
        begins_at = now + pace.wait_s(size, now)
        assert sent <= 1000 * begins_at + 1e-6  # what was sent before has had its time
        sent += size
