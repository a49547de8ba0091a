"""JSON lines between a test and the client that it drives: one command in, one answer out.

Imported by drivers that run in environments of their own, so nothing but the standard library is here.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

Command = dict[str, Any]


def arguments_of(command: Command) -> dict[str, Any]:
    return {name: value for name, value in command.items() if name != "do"}


async def serve(handle: Callable[[Command], Awaitable[Any]]) -> None:
    """Answer commands until standard input ends; an exception is an answer too."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            answer = {"ok": True, "result": await handle(json.loads(line))}
        except Exception as error:
            traceback.print_exc()
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
