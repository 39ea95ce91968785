"""Takes a share of a CPU, as clients on this machine do, and nothing else.

python -m benchmarks.burner SHARE
"""

from __future__ import annotations

import sys
import time

PERIOD_S = 0.01


def main(share: float) -> None:
    print("burning", flush=True)
    while True:
        began = time.process_time()
        while time.process_time() - began < share * PERIOD_S:
            pass
        time.sleep((1 - share) * PERIOD_S)


if __name__ == "__main__":
    main(float(sys.argv[1]))
