"""Known vulnerabilities of the packages that a container of Darkroom has, from OSV's database.

    scripts/audit           look each package up; exit status 1 if one has a vulnerability
    scripts/audit --strict  exit status 2, too, if the database cannot be reached

Without the database nothing was checked. The command says so, and ends with status 0: a machine
without the internet can run it. pip-audit calls that "no known vulnerabilities".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

import httpx2

from scripts.supply_chain.packages import Package, shipped_packages

DATABASE = "https://api.osv.dev"
AT_ONCE = 500  # packages of one call, of which the database takes 1,000
MAX_PAGES = 20
TIMEOUT_S = 10.0


class Accepted(NamedTuple):
    """A vulnerability that does not concern Darkroom, until somebody has looked again."""

    reason: str
    until: date


ACCEPTED: Mapping[str, Accepted] = {}
"""By the database's id, or an alias such as a CVE's."""


class Unreachable(Exception):
    """The database gave no answer that can be used."""


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """A vulnerability of one version of a package."""

    package: Package
    id: str
    aliases: tuple[str, ...]
    summary: str
    fixed: tuple[str, ...]  # versions

    @property
    def names(self) -> tuple[str, ...]:
        return self.id, *self.aliases

    def __str__(self) -> str:
        others = f" ({', '.join(self.aliases)})" if self.aliases else ""
        cure = f"Fixed in {', '.join(self.fixed)}." if self.fixed else "No version fixes it yet."
        what = self.summary.rstrip(".") or "no summary"
        return f"{self.package.name} {self.package.version}: {self.id}{others}: {what}. {cure}"


class Database:
    """OSV's API."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client

    def look_up(self, packages: Sequence[Package]) -> list[Vulnerability]:
        """All vulnerabilities of ``packages``. Raises ``Unreachable``."""
        vulnerabilities: list[Vulnerability] = []
        known: dict[str, Any] = {}
        for package, name in self._ids(packages):
            if name not in known:
                known[name] = self._call("GET", f"/v1/vulns/{name}")
            if "withdrawn" not in known[name]:
                vulnerabilities.append(_vulnerability(package, known[name]))
        return vulnerabilities

    def _ids(self, packages: Sequence[Package]) -> list[tuple[Package, str]]:
        ahead = [(package, "") for package in packages]
        ids: list[tuple[Package, str]] = []
        for _ in range(MAX_PAGES * (1 + len(packages) // AT_ONCE)):
            now, ahead = ahead[:AT_ONCE], ahead[AT_ONCE:]
            if not now:
                return ids
            queries = [
                {"package": {"purl": package.purl}} | ({"page_token": token} if token else {})
                for package, token in now
            ]
            results = self._call("POST", "/v1/querybatch", {"queries": queries}).get("results")
            if not isinstance(results, list) or len(results) != len(now):
                raise Unreachable("its answer is not about the packages that were asked for")
            for (package, _), result in zip(now, results, strict=True):
                ids += [(package, vulnerability["id"]) for vulnerability in result.get("vulns", ())]
                if token := result.get("next_page_token"):
                    ahead.append((package, token))
        raise Unreachable("its answer does not end")

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        try:
            answer = self._client.request(method, path, json=body).raise_for_status()
            return answer.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise Unreachable(str(error) or type(error).__name__) from None


def _vulnerability(package: Package, details: Any) -> Vulnerability:
    fixed = {
        str(event["fixed"])
        for affected in details.get("affected", ())
        if affected.get("package", {}).get("name", "").lower().replace("_", "-") == package.name
        for version_range in affected.get("ranges", ())
        if version_range.get("type") != "GIT"
        for event in version_range.get("events", ())
        if "fixed" in event
    }
    summary = details.get("summary") or details.get("details", "").partition("\n")[0]
    aliases = tuple(sorted(details.get("aliases", ())))
    return Vulnerability(package, details["id"], aliases, summary, tuple(sorted(fixed)))


def accepting_rule(
    vulnerability: Vulnerability, today: date, rules: Mapping[str, Accepted] = ACCEPTED
) -> Accepted | None:
    """The rule by which ``vulnerability`` is no problem today."""
    rule = next((rules[name] for name in vulnerability.names if name in rules), None)
    return rule if rule is not None and today <= rule.until else None


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/audit")
    parser.add_argument("--strict", action="store_true", help="fail without the database")
    parser.add_argument("--database", default=DATABASE, help="address of a copy of OSV's API")
    options = parser.parse_args(words)
    packages = shipped_packages()
    try:
        with httpx2.Client(base_url=options.database, timeout=TIMEOUT_S) as client:
            vulnerabilities = Database(client).look_up(packages)
    except Unreachable as error:
        print(
            f"NOT CHECKED: the database of vulnerabilities at {options.database} cannot be used "
            f"({error}). Nothing is known about the {len(packages)} packages. Run scripts/audit "
            "on a machine that reaches it.",
            file=sys.stderr,
        )
        return 2 if options.strict else 0
    today = datetime.now(UTC).date()
    open_ = [
        vulnerability
        for vulnerability in vulnerabilities
        if accepting_rule(vulnerability, today) is None
    ]
    for problem in open_:
        print(problem, file=sys.stderr)
    print(
        f"{len(packages)} packages checked, {len(open_)} vulnerabilities found, "
        f"{len(vulnerabilities) - len(open_)} accepted"
    )
    return 1 if open_ else 0


if __name__ == "__main__":
    sys.exit(main())
