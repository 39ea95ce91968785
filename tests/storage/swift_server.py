"""OpenStack Swift with its S3 middleware, as one process on a free port of this machine.

A program, not imported by tests: ``python swift_server.py DIRECTORY ACCESS_KEY SECRET_KEY``. The
access key is ``account:user``. Prints the address once the server listens. Objects are in memory;
the lists of buckets and of objects are SQLite files below the directory.
"""

from __future__ import annotations

import warnings

warnings.simplefilter("ignore")
import eventlet  # noqa: E402

eventlet.monkey_patch()  # before anything imports sockets or threads

import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from eventlet import wsgi  # noqa: E402
from swift.common.ring import RingBuilder  # noqa: E402
from swift.common.utils import set_swift_dir  # noqa: E402
from swift.common.wsgi import loadapp  # noqa: E402

HOST = "127.0.0.1"
HASH_AND_POLICY = """
[swift-hash]
swift_hash_path_suffix = suffix
swift_hash_path_prefix = prefix
[storage-policy:0]
name = one
default = yes
"""
PROXY = """
[app:proxy-server]
use = egg:swift#proxy
swift_dir = {directory}
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_{account}_{user} = {secret} .admin
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[pipeline:main]
pipeline = catch_errors listing_formats s3api tempauth bulk slo proxy-server
"""


class Quiet:
    """Log that keeps nothing."""

    def write(self, *_: Any) -> None: ...

    debug = info = warning = error = write


def serve(directory: Path, access_key: str, secret_key: str) -> None:
    """Serve until the process is killed."""
    account, _, user = access_key.partition(":")
    (directory / "devices" / "d1").mkdir(parents=True)
    (directory / "swift.conf").write_text(HASH_AND_POLICY)
    set_swift_dir(str(directory))
    start_backends(directory)
    proxy = directory / "proxy.conf"
    proxy.write_text(
        PROXY.format(directory=directory, account=account, user=user, secret=secret_key)
    )
    listener = eventlet.listen((HOST, 0))
    app = loadapp(str(proxy))
    print(f"listening on {HOST}:{listener.getsockname()[1]}", flush=True)  # noqa: T201
    wsgi.server(listener, app, Quiet())


def start_backends(directory: Path) -> None:
    """Start the servers of accounts, containers and objects, and write the rings that name them."""
    # These read swift.conf when they are imported.
    from swift.account.server import AccountController  # noqa: PLC0415
    from swift.container.server import ContainerController  # noqa: PLC0415
    from swift.obj.mem_server import ObjectController  # noqa: PLC0415

    conf = {
        "devices": str(directory / "devices"),
        "swift_dir": str(directory),
        "mount_check": "false",
        "disable_fallocate": "true",
    }
    backends = {
        "account": AccountController,
        "container": ContainerController,
        "object": ObjectController,
    }
    for name, backend in backends.items():
        listener = eventlet.listen((HOST, 0))
        builder = RingBuilder(1, 1, 0)  # two partitions, one copy
        device = {"ip": HOST, "port": listener.getsockname()[1], "device": "d1", "meta": ""}
        builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1, **device})
        builder.rebalance()
        builder.get_ring().save(str(directory / f"{name}.ring.gz"))
        eventlet.spawn(wsgi.server, listener, backend(conf), Quiet())


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
