"""The people."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.first_hour.in_a_browser import designer, hobbyist
from tests.first_hour.in_a_shell import assistant_builder, ml_engineer, web_developer
from tests.first_hour.on_a_cluster import cluster_operator
from tests.first_hour.rehearsal import Rehearsal

PEOPLE: Mapping[str, Callable[[Rehearsal, str, str], None]] = {
    "hobbyist": hobbyist,
    "designer": designer,
    "web-developer": web_developer,
    "ml-engineer": ml_engineer,
    "assistants": assistant_builder,
    "operator": cluster_operator,
}
"""By name: functions of a rehearsal, the URL of a Darkroom and its API key."""
IN_A_BROWSER = frozenset({"hobbyist", "designer"})
"""Those who need a Chromium."""
