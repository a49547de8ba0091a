"""Load on one server: wrk with sessions prepared beforehand, every answer checked (``load.lua``)."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from benchmarks import wire
from benchmarks.client import Client, Endpoint, open_sessions
from benchmarks.errors import BenchmarkError
from benchmarks.processes import cpu_seconds
from benchmarks.servers import Running

SCRIPT = Path(__file__).with_name("load.lua")

# A session's request ids are never used twice: each run takes the next block of them. All have nine digits,
# hence all requests the same length.
_BLOCKS = count(100_000_000, 1_000_000)


@dataclass(frozen=True)
class Load:
    """How hard and how long: one closed loop per connection, sessions taken in turn."""

    connections: int = 16
    sessions: int = 64
    seconds: int = 2
    call: wire.Call = wire.ADD


@dataclass(frozen=True)
class Sample:
    """One run's outcome."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


def require_wrk() -> None:
    if shutil.which("wrk") is None:
        raise BenchmarkError(
            "The benchmarks need wrk, which was not found on PATH. "
            "Install it (Debian and Ubuntu: apt install wrk) and run the command again."
        )


def prepare_sessions(endpoint: Endpoint, load: Load) -> list[str]:
    """Sessions for the load; none for a server that keeps none, whose answer is checked all the same."""
    if endpoint.has_sessions:
        return open_sessions(endpoint, load.sessions)
    with closing(Client(endpoint)) as client:
        client.add(None, 1)
    return []


def run(server: Running, session_ids: list[str], load: Load) -> Sample:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as plan:
        plan.write(_plan(server.endpoint, session_ids, load.call))
        plan.flush()
        cpu_before = cpu_seconds(server.pid)
        outcome = _wrk(server.endpoint, load, plan.name)
        cpu = cpu_seconds(server.pid) - cpu_before
    return Sample(
        requests_per_second=outcome["requests"] / outcome["microseconds"] * 1e6,
        p50_ms=outcome["p50"] / 1e3,
        p99_ms=outcome["p99"] / 1e3,
        cpu_us=cpu / outcome["requests"] * 1e6,
    )


def _wrk(endpoint: Endpoint, load: Load, plan: str) -> dict[str, float]:
    command = [
        *("wrk", "--threads", "1", "--connections", str(load.connections)),
        *("--duration", f"{load.seconds}s", "--timeout", "10s", "--script", str(SCRIPT)),
        *(f"http://127.0.0.1:{endpoint.port}{endpoint.path}", "--", plan),
    ]
    patience = load.seconds + 30
    finished = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False)
    if finished.returncode != 0:
        raise BenchmarkError(f"wrk ended with {finished.returncode}: {finished.stderr.strip()}")
    outcome: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    if outcome["wrong"] or outcome["broken"] or not outcome["requests"]:
        raise BenchmarkError(
            f"A load counts only if every answer is right: of {outcome['requests']}, {outcome['wrong']} "
            f"were wrong, and {outcome['broken']} connections broke. {finished.stderr.strip()}"
        )
    return outcome


def _plan(endpoint: Endpoint, session_ids: list[str], call: wire.Call) -> str:
    """A Lua table; strings go through ``json.dumps``: in plain ASCII both languages escape alike."""
    if endpoint.has_sessions:
        heads = [
            _head(endpoint, wire.legacy_headers(session_id) | wire.authorization(endpoint.token(number)))
            for number, session_id in enumerate(session_ids)
        ]
        body = call.legacy
    else:
        heads = [
            _head(endpoint, wire.modern_headers() | wire.authorization(token)) for token in endpoint.tokens or (None,)
        ]
        body = call.modern
    listed = ",\n".join(json.dumps(head) for head in heads)
    strings = f"call = {json.dumps(call.name)}, body = {json.dumps(body)}"
    return f"return {{ first = {next(_BLOCKS)}, {strings}, heads = {{\n{listed}\n}} }}\n"


def _head(endpoint: Endpoint, headers: dict[str, str]) -> str:
    lines = [f"POST {endpoint.path} HTTP/1.1", f"Host: 127.0.0.1:{endpoint.port}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "".join(f"{line}\r\n" for line in lines)
