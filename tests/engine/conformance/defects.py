"""Cases of which it is known that the engine gets them wrong, and why.

The tests expect them to fail: one that passes has to go from here.
"""

from collections.abc import Mapping

DEFECTS: Mapping[str, str] = {}
