"""Modules are built by one thread at a time, in the whole process.

While diffusers and transformers load weights they change torch itself for everybody: parameters
that any thread registers meanwhile lose their contents (diffusers#14347).
"""

from __future__ import annotations

import threading

ONE_BUILDER = threading.Lock()
"""Held while a pipeline is loaded, and while layers with weights are made."""
