"""Driver of the MCP Inspector's command line: each command is a process and a connection of its own.

It runs with the standard library alone, so that a test waits for it as for every other driver.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from tests.clients.lines import Command, arguments_of, serve

NODE = os.environ["INSPECTOR_NODE"]
HOME = Path(os.environ["INSPECTOR_HOME"])
PROGRAM = HOME / "node_modules" / "@modelcontextprotocol" / "inspector" / "clients" / "launcher" / "build" / "index.js"
SECONDS = 60
# A tool's error result, which stands on stdout like any.
TOOL_ERROR = 5
LISTS = {
    "tools": ("tools/list", "tools", "name"),
    "resources": ("resources/list", "resources", "uri"),
    "templates": ("resources/templates/list", "resourceTemplates", "uriTemplate"),
    "prompts": ("prompts/list", "prompts", "name"),
}


class InspectorError(Exception):
    """What the Inspector says when it fails."""


class Driver:
    def __init__(self) -> None:
        self.connection: list[str] = []

    async def handle(self, command: Command) -> Any:
        match command:
            case {"do": "connect"}:
                return self.connect(**arguments_of(command))
            case {"do": "negotiated"}:
                return (await self.run("initialize"))["protocolVersion"]
            case {"do": "call", "name": name, "arguments": arguments}:
                return await self.run("tools/call", "--tool-name", name, "--tool-args-json", json.dumps(arguments))
            case {"do": "read", "uri": uri}:
                return await self.run("resources/read", "--uri", uri)
            case {"do": "prompt", "name": name}:
                pairs = [f"{key}={value}" for key, value in command.get("arguments", {}).items()]
                return await self.run(
                    "prompts/get", "--prompt-name", name, *(["--prompt-args", *pairs] if pairs else [])
                )
            case {"do": "list"}:
                return {what: await self.names(*where) for what, where in LISTS.items()}
            case {"do": "close"}:
                return None
        raise ValueError(f"Unknown command {command}")

    def connect(self, url: str, headers: dict[str, str], mode: str = "legacy", **rest: Any) -> None:
        sent = [f"{name}: {value}" for name, value in headers.items()]
        self.connection = ["--server-url", url, "--transport", "http", "--protocol-era", mode]
        self.connection += ["--header", *sent] if sent else []

    async def names(self, method: str, key: str, name: str) -> list[str]:
        return [each[name] for each in (await self.run(method))[key]]

    async def run(self, method: str, *options: str) -> Any:
        # What it stores, it stores in its home folder; its code compiles but once.
        environment = os.environ | {"HOME": str(HOME), "NODE_COMPILE_CACHE": str(HOME / "compiled")}
        process = await asyncio.create_subprocess_exec(
            NODE,
            str(PROGRAM),
            "--cli",
            *self.connection,
            *("--format", "json", "--method", method),
            *options,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
        output, errors = await asyncio.wait_for(process.communicate(), SECONDS)
        if process.returncode == 0 or (process.returncode == TOOL_ERROR and output):
            return json.loads(output)["result"]
        raise InspectorError(errors.decode(errors="replace").strip())


if __name__ == "__main__":
    asyncio.run(serve(Driver().handle))
