"""Alerts of Darkroom's rules that a Prometheus beside the installation has while something is
broken."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from serve_app.free_ports import free_port
from tests.cluster.darkroom import ROOT, eventually
from tests.cluster.processes import end_all

RULES = ROOT / "docs" / "how-to" / "darkroom-alerts.yaml"
SCRAPE_S = 5
SCRAPES = 3
"""Before anything breaks: increases are measured from there."""

LOOK_S = 1.0
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Alert:
    """Seconds are those after the fault began. ``fires_s``: None while it is pending."""

    name: str
    summary: str
    pending_s: float
    fires_s: float | None

    def __str__(self) -> str:
        if self.fires_s is None:
            return f"{self.name} (pending after {self.pending_s:.0f} s)"
        return f"{self.name} after {self.fires_s:.0f} s"


class Prometheus:
    """A Prometheus that runs. It has seen the targets as they are when nothing is broken."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=10)
        self._over = threading.Event()
        self._seen: dict[str, Alert] = {}
        self._began = datetime.now(UTC)
        self._thread = threading.Thread(target=self._watch)

    def start(self) -> None:
        eventually(self._settled, "Prometheus has seen the ingress", PATIENCE_S)
        self._thread.start()

    def aclose(self) -> None:
        if self._thread.ident is not None:
            self._over.set()
            self._thread.join()
        self._http.close()

    def breaks(self) -> None:
        """Call when the fault begins. Alerts of before are left out."""
        self._began = datetime.now(UTC)

    def alerts(self) -> tuple[Alert, ...]:
        """Alerts since the fault began, the first ones first. Of those with several labels, the
        first one."""
        return tuple(sorted(self._seen.values(), key=lambda alert: alert.pending_s))

    def _settled(self) -> bool:
        query = 'min(count_over_time(up{job="darkroom"}[5m]))'
        try:
            data = self._get("query", query=query)
        except httpx.HTTPError:
            return False  # it starts
        return any(float(sample["value"][1]) >= SCRAPES for sample in data["result"])

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            with contextlib.suppress(httpx.HTTPError):
                for alert in self._get("alerts")["alerts"]:
                    self._see(alert)

    def _see(self, alert: dict[str, Any]) -> None:
        pending_s = (datetime.fromisoformat(alert["activeAt"]) - self._began).total_seconds()
        if pending_s < 0:
            return
        name = alert["labels"]["alertname"]
        before = self._seen.get(name)
        if before is None:
            before = Alert(name, alert["annotations"]["summary"], round(pending_s, 1), None)
        fires_s = before.fires_s
        if fires_s is None and alert["state"] == "firing":
            fires_s = round((datetime.now(UTC) - self._began).total_seconds(), 1)
        self._seen[name] = Alert(name, before.summary, before.pending_s, fires_s)

    def _get(self, path: str, **query: str) -> Any:
        return self._http.get(f"/api/v1/{path}", params=query).raise_for_status().json()["data"]


def available() -> bool:
    return shutil.which("prometheus") is not None


@contextlib.contextmanager
def prometheus(folder: Path, targets: dict[str, Sequence[str]]) -> Generator[Prometheus]:
    """``targets``: ``host:port`` of what it scrapes, by job."""
    folder.mkdir()
    config = folder / "prometheus.yaml"
    every = f"{SCRAPE_S}s"
    jobs = [
        {"job_name": job, "static_configs": [{"targets": list(addresses)}]}
        for job, addresses in targets.items()
    ]
    config.write_text(
        json.dumps(
            {
                "global": {
                    "scrape_interval": every,
                    "scrape_timeout": every,
                    "evaluation_interval": every,
                },
                "scrape_configs": jobs,
                "rule_files": [str(RULES)],
            }
        )
    )
    address = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    running = Prometheus(f"http://{address}")
    try:
        running.start()
        yield running
    finally:
        running.aclose()
        end_all([process], str(folder))
        shutil.rmtree(folder)
