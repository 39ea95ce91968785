"""``darkroom drain-node``, by which a GPU pod is emptied before Kubernetes ends it. With replicas
and under load: ``test_operations``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.nodes import drain_node, several_nodes

pytestmark = [pytest.mark.cluster, pytest.mark.crash, pytest.mark.timeout(180)]


@pytest.mark.long
def test_it_ends_as_soon_as_nothing_runs_on_the_node(tmp_path: Path) -> None:
    with several_nodes(tmp_path, ("L4",)) as nodes:
        assert drain_node(nodes, "L4", 600.0) < 120
