"""Wake-ups: hints between processes, by way of the project's channel layer.

A hint carries addresses ("stream:1f3a...", "topics:library") and says: look again in the database. It never carries
content. Layers deliver at most once, so whoever misses a hint finds out by polling; whoever hears one twice looks
twice. The address ``*`` stands for all: look at everything.

Nobody waits here for a broker. All that has to do with the layer happens in a thread of its own.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic
from typing import Any, NoReturn

from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import InMemoryChannelLayer, channel_layers

from mcp_django.background import BackgroundLoop, PerProcess, first_failure, within

logger = logging.getLogger("mcp_django.wakeups")

THREAD = "mcp-django-wakeups"
GROUP = "mcp_django.wakeups"
LOOK = "mcp.look"
EVERYTHING = "*"

INTERVAL = 0.01
MAX_AT = 500
MAX_GATHERED = 10_000
MAX_ADDRESS = 200
SEND_TIMEOUT = 1.0
ECHO_TIMEOUT = 5.0
RENEW_SECONDS = 60.0
FIRST_WAIT = 1.0
LAST_WAIT = 30.0
STEADY_SECONDS = 10.0
FAREWELL_SECONDS = 0.3
BLOCK_SECONDS = 2
MAX_LEFT = 8


def configured_layer() -> Any | None:
    """An own instance of the project's default channel layer; None without one, or with one that stays in the process.

    The instance that the project itself uses is tied to other event loops and may come from before a fork.
    """
    if DEFAULT_CHANNEL_LAYER not in channel_layers:
        return None
    layer = channel_layers.make_backend(DEFAULT_CHANNEL_LAYER)
    if isinstance(layer, InMemoryChannelLayer):
        return None
    if hasattr(type(layer), "brpop_timeout"):
        # channels_redis.core blocks for 5 s, and redis-py 8 gives up reading after the same 5 s: an idle receive
        # would fail again and again (django/channels_redis#422).
        layer.brpop_timeout = min(layer.brpop_timeout, BLOCK_SECONDS)
    return layer


class Wakeups:
    """Sends and receives hints for this process.

    ``on_hint`` is called with the addresses of each hint that came from another process, in the wake-ups' thread; it
    must be quick. It is called with ``{"*"}`` after an error of the layer, and when receiving has begun (again), since
    hints may have been missed. ``layer`` makes the channel layer, or returns None if there is none.
    """

    def __init__(
        self, on_hint: Callable[[frozenset[str]], None], layer: Callable[[], Any | None] = configured_layer
    ) -> None:
        self._station = PerProcess(lambda: Station(on_hint, layer))

    def send(self, address: str) -> None:
        """Tell the other processes to look at ``address`` (short, ASCII).

        From any thread. Never blocks and never raises: a hint that cannot leave is dropped.
        """
        self._station.get().send(address)

    def listen(self) -> None:
        """Begin to receive hints in this process. Does nothing if it has begun."""
        self._station.get().listen()

    def stop(self) -> None:
        """Leave the group and end the thread. The next use starts anew."""
        self._station.get().stop()

    @property
    def connected(self) -> bool:
        """Whether hints get through, as far as is known; False before the first use.

        That is: there is a layer, the breaker is closed, and if this process listens, its own messages come back.
        """
        return self._station.get().connected


class Outbox:
    """The addresses that gather for the next message; from any thread, never more than ``MAX_GATHERED``."""

    def __init__(self) -> None:
        # Re-entrant: a signal handler may send while its thread is in here.
        self._lock = threading.RLock()
        self._gathered: set[str] = set()
        self._announced = False

    def put(self, address: str) -> bool:
        """Add an address. Returns whether it is the first since :meth:`take`, so that somebody is to be told."""
        with self._lock:
            if EVERYTHING not in self._gathered:
                self._gathered.add(address)
                if address == EVERYTHING or len(self._gathered) > MAX_GATHERED:
                    self._gathered = {EVERYTHING}
            first = not self._announced
            self._announced = True
            return first

    def take(self) -> list[str]:
        """Remove and return what has gathered."""
        with self._lock:
            gathered, self._gathered = self._gathered, set()
            self._announced = False
            return list(gathered)


class Station:
    """One process's end: its outbox, its breaker, and the link that is up or is to be tried next."""

    def __init__(self, on_hint: Callable[[frozenset[str]], None], layer: Callable[[], Any | None]) -> None:
        self.tag = secrets.token_hex(8)
        self.outbox = Outbox()
        self.layer = layer
        self._on_hint = on_hint
        self._loop = BackgroundLoop(THREAD)
        self._lock = threading.RLock()
        self._reset()

    def _reset(self) -> None:
        self._link: Link | None = None
        self.listening = False
        self._absent = False
        self._dropping = False
        self._alarmed = False
        self._wait = 0.0

    @property
    def connected(self) -> bool:
        link = self._link
        return link is not None and link.ready and not self._alarmed

    def send(self, address: str) -> None:
        if self._dropping or self._absent:
            return
        if len(address) > MAX_ADDRESS or not address.isascii():
            address = EVERYTHING
        if self.outbox.put(address):
            try:
                self._loop.call(self._current().poke)
            except RuntimeError:
                self.outbox.take()
                logger.debug("no thread could be started; a hint is dropped")

    def listen(self) -> None:
        with self._lock:
            if self._absent or (self.listening and self._link is not None):
                return
            # Under the lock: a link that is about to succeed another sees it, whichever we have told.
            self.listening = True
        try:
            self._loop.call(self._current().listen)
        except RuntimeError:
            logger.debug("no thread could be started; hints are not received")

    def stop(self) -> None:
        with self._lock:
            self._reset()
        self._loop.stop()
        self.outbox.take()

    def hint(self, at: Iterable[str]) -> None:
        try:
            self._on_hint(frozenset(at))
        except Exception:
            logger.exception("what was to be done on a hint failed")

    def none(self, link: Link) -> None:
        """There is no layer: nothing leaves, and no thread is needed."""
        with self._lock:
            if link is self._link:
                self._absent = True
                self._loop.stop()
        self.outbox.take()

    def trying(self, link: Link) -> None:
        """The wait is over. What is sent from here on is not covered by what the new link begins with."""
        with self._lock:
            if link is self._link:
                self._dropping = False

    def up(self, link: Link) -> None:
        """A link does what is asked of it so far."""
        if link.ready and self._alarmed and link is self._link:
            self._alarmed = False
            logger.info("wake-ups are back")

    def down(self, link: Link, error: BaseException) -> None:
        """A link broke: open the breaker, and have another link tried after a while. In the broken link's loop."""
        with self._lock:
            if link is not self._link:
                return
            self._dropping = True
            self._wait = min(self._wait * 2, LAST_WAIT) if self._wait and not link.steady else FIRST_WAIT
            news = not self._alarmed
            self._alarmed = True
        self.outbox.take()
        if news:
            name = type(error).__name__
            logger.warning("wake-ups are off, since the channel layer failed (%s); changes are found by polling", name)
            self.hint([EVERYTHING])
        with self._lock:
            if link is self._link:
                self._replace(link)

    def _replace(self, link: Link) -> None:
        # Libraries tie connections to the loop and close them with it, so the next link has another loop.
        self._loop.stop()
        successor = link.successor(self._wait)
        try:
            self._loop.spawn(successor.run)
            self._link = successor
        except RuntimeError:
            logger.debug("no thread could be started; whoever sends or listens next tries again")
            self._link = None
            self._dropping = False

    def _current(self) -> Link:
        with self._lock:
            if self._link is None:
                link = Link(self)
                self._loop.spawn(link.run)
                self._link = link
            return self._link


class Link:
    """One life of the connection to the layer. Any error ends it; another link has an instance of its own.

    All but the constructor runs in the wake-ups' thread.
    """

    def __init__(self, station: Station, wait: float = 0.0, left: tuple[str, ...] = ()) -> None:
        self._station = station
        self._wait = wait
        self._left = left
        self._layer: Any = None
        self._channel: str | None = None
        self._up_since: float | None = None
        self._proved = False
        self._poked, self._wanted, self._joined, self._heard = (asyncio.Event() for _event in range(4))
        if station.listening:
            self._wanted.set()

    @property
    def ready(self) -> bool:
        return self._up_since is not None and (self._proved or not self._station.listening)

    @property
    def steady(self) -> bool:
        """Up for so long that the next failure is another story."""
        return self._up_since is not None and monotonic() - self._up_since > STEADY_SECONDS

    def poke(self) -> None:
        """There is something in the outbox."""
        self._poked.set()

    def listen(self) -> None:
        """Receive from now on, or as soon as the link is up."""
        self._wanted.set()

    def successor(self, wait: float) -> Link:
        """The link to try after ``wait`` seconds."""
        left = self._left if self._channel is None else (*self._left, self._channel)
        return Link(self._station, wait, left[-MAX_LEFT:])

    async def run(self) -> None:
        """Wait, connect, and serve until something fails."""
        await asyncio.sleep(self._wait)
        if not self._make_layer():
            self._station.none(self)
            return
        try:
            await self._serve()
        except Exception as error:
            self._station.down(self, error)
        except asyncio.CancelledError:
            await self._leave()
            raise

    def _make_layer(self) -> bool:
        try:
            self._layer = self._station.layer()
        except Exception:
            logger.exception("the channel layer cannot be made; changes are found by polling")
        return self._layer is not None

    async def _serve(self) -> NoReturn:
        self._station.trying(self)
        if self._wait:
            # Hints were dropped meanwhile.
            await self._tell([EVERYTHING])
        self._up_since = monotonic()
        self._station.up(self)
        await first_failure(self._send_gathered(), self._watch(), self._hear())

    async def _send_gathered(self) -> None:
        while True:
            at = self._station.outbox.take()
            for start in range(0, len(at), MAX_AT):
                await self._tell(at[start : start + MAX_AT])
            if at:
                await asyncio.sleep(INTERVAL)
            else:
                await self._poked.wait()
                self._poked.clear()

    async def _watch(self) -> None:
        """Join the group, and see time and again that our own messages come back.

        Memberships expire, some brokers forget them, and a connection can be dead without anybody telling.
        """
        await self._wanted.wait()
        self._channel = await within(SEND_TIMEOUT, self._layer.new_channel())
        while True:
            await within(SEND_TIMEOUT, self._layer.group_add(GROUP, self._channel))
            self._joined.set()
            self._heard.clear()
            await self._tell([])
            # Not wait_for, which before Python 3.12 forgets a cancellation that comes together with the echo.
            async with asyncio.timeout(ECHO_TIMEOUT):
                await self._heard.wait()
            if not self._proved:
                self._proved = True
                self._station.up(self)
                self._station.hint([EVERYTHING])
                await self._forget_left()
            await asyncio.sleep(RENEW_SECONDS)

    async def _hear(self) -> None:
        await self._joined.wait()
        while True:
            message = await self._layer.receive(self._channel)
            self._heard.set()
            if at := addresses(message, self._station.tag):
                self._station.hint(at)

    async def _tell(self, at: list[str]) -> None:
        message = {"type": LOOK, "from": self._station.tag, "at": at}
        await within(SEND_TIMEOUT, self._layer.group_send(GROUP, message))

    async def _forget_left(self) -> None:
        """Take the channels of broken links out of the group, where they would be written to for a day."""
        for channel in self._left:
            await within(SEND_TIMEOUT, self._layer.group_discard(GROUP, channel))
        self._left = ()

    async def _leave(self) -> None:
        if self._channel is not None:
            with suppress(Exception):
                await within(FAREWELL_SECONDS, self._layer.group_discard(GROUP, self._channel))


def addresses(message: Any, tag: str) -> list[str]:
    """The addresses of a message; none if it is not a well-formed hint, or if it has our own ``tag``."""
    if not isinstance(message, dict) or message.get("type") != LOOK or message.get("from") == tag:
        return []
    at = message.get("at")
    if not isinstance(at, list) or not all(isinstance(address, str) for address in at):
        return []
    return at
