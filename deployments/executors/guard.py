"""Program that runs a server as its child, and ends it when the replica that wants it is gone.

A server that listens on a port does not see that the process that started it was killed. This
program holds one end of a socket whose other end the replica holds: when that closes, all ends. It
imports the standard library only, and nothing of Darkroom.

    python guard.py DESCRIPTOR GRACE_S COMMAND…
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def main(words: list[str]) -> int:
    descriptor, grace_s, command = int(words[0]), float(words[1]), words[2:]
    # A handler, because a program that is started would inherit an ignored signal.
    signal.signal(signal.SIGTERM, lambda *_: None)
    server = subprocess.Popen(command)  # noqa: S603  # what the replica asked for
    left = threading.Event()

    def watch() -> None:
        os.read(descriptor, 1)  # nothing is ever sent, so this is the end
        left.set()
        server.terminate()
        try:
            server.wait(grace_s)
        finally:
            os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    status = server.wait()
    if left.is_set():  # nobody reads how it ended, but it may have left children
        os.killpg(0, signal.SIGKILL)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
