"""Program that runs an app's process as its child, and ends it when its replica is gone.

A server that listens on a port does not see that the process that started it was killed, and a
worker that computes does not look. This program holds one end of a socket whose other end the
replica holds: when that closes, all ends. It imports the standard library only, and nothing of
Darkroom.

    python guard.py DESCRIPTOR GRACE_S TALKS COMMAND…

``TALKS`` is the descriptor by which a worker talks to the replica: its end asks the worker to end.
A server has -1, and is asked by SIGTERM. SIGUSR1 to this program kills the child, and this
program ends when it has ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading


def main(words: list[str]) -> int:
    descriptor, grace_s, talks, command = int(words[0]), float(words[1]), int(words[2]), words[3:]
    passed = () if talks < 0 else (talks,)
    # A handler, because a program that is started would inherit an ignored signal.
    signal.signal(signal.SIGTERM, lambda *_: None)
    child = subprocess.Popen(command, pass_fds=passed)  # noqa: S603  # what the replica asked for
    signal.signal(signal.SIGUSR1, lambda *_: child.kill())
    for fd in passed:
        os.close(fd)  # so that the replica sees when the child closes it
    left = threading.Event()

    def watch() -> None:
        os.read(descriptor, 1)  # nothing is ever sent, so this is the end
        left.set()
        if not passed:
            child.terminate()
        try:
            child.wait(grace_s)
        finally:
            os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    status = child.wait()
    if left.is_set():  # nobody reads how it ended, but it may have left children
        os.killpg(0, signal.SIGKILL)
    if status < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
