"""The tutorial about a cluster, with Ray's own commands and those of ``cluster.yaml``."""

import logging
from pathlib import Path

import pytest

from serve_app.cli.serve import haproxy
from tests.cluster.darkroom import ROOT
from tests.first_hour.on_a_cluster import cluster_operator
from tests.first_hour.rehearsal import Rehearsal, shell_of

log = logging.getLogger(__name__)

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not haproxy.available(), reason="no HAProxy for this machine"),
]


def test_its_commands_start_a_cluster_whose_pool_grows_for_a_request(tmp_path: Path) -> None:
    cluster_operator(Rehearsal(shell_of(tmp_path, ROOT), tmp_path, log.info))
