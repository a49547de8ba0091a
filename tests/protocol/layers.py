"""A channel layer in this process that loses, doubles or delays messages, as layers do on bad days."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Any, Literal

Weather = Literal["prompt", "dropped", "doubled", "delayed"]

DELAY = 0.05


class Broker:
    """What the layers of all processes share. Each process has a layer, in a thread of its own."""

    def __init__(self, weather: Weather) -> None:
        self.weather = weather
        self.hints = 0
        self._lock = threading.Lock()
        self._names = itertools.count()
        self._channels: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Queue[Any]]] = {}
        self._members: set[str] = set()

    def layer(self) -> Layer:
        return Layer(self)

    def open(self) -> str:
        with self._lock:
            name = f"channel-{next(self._names)}"
            self._channels[name] = (asyncio.get_running_loop(), asyncio.Queue())
            return name

    def queue(self, channel: str) -> asyncio.Queue[Any]:
        return self._channels[channel][1]

    def join(self, channel: str) -> None:
        with self._lock:
            self._members.add(channel)

    def leave(self, channel: str) -> None:
        with self._lock:
            self._members.discard(channel)

    def send(self, message: dict[str, Any]) -> None:
        with self._lock:
            members = [self._channels[name] for name in self._members]
            self.hints += bool(message["at"])
        # Without an address it is the wake-ups' own probe, by which they know that the layer lives.
        if message["at"] and self.weather == "dropped":
            return
        for loop, queue in members:
            for _ in range(2 if self.weather == "doubled" else 1):
                self._deliver(loop, queue, message)

    def _deliver(self, loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[Any], message: Any) -> None:
        if loop.is_closed():
            return
        if self.weather == "delayed":
            loop.call_soon_threadsafe(loop.call_later, DELAY, queue.put_nowait, message)
        else:
            loop.call_soon_threadsafe(queue.put_nowait, message)


class Layer:
    """The part of a channel layer's interface that wake-ups use."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def new_channel(self, prefix: str = "specific") -> str:
        return self._broker.open()

    async def group_add(self, group: str, channel: str) -> None:
        self._broker.join(channel)

    async def group_discard(self, group: str, channel: str) -> None:
        self._broker.leave(channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        self._broker.send(message)

    async def receive(self, channel: str) -> Any:
        return await self._broker.queue(channel).get()
