"""A TCP gate between the servers and their database, to take the database away without touching it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType

CHUNK = 65536


class Link:
    """One connection through the gate: two threads that copy bytes while the link flows."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.upstream: socket.socket | None = None
        self.flowing = threading.Event()
        self.closed = False
        self.threads: list[threading.Thread] = []

    def run(self, target: tuple[str, int]) -> None:
        """Wait until the link flows, so that a silent gate accepts and says nothing, then copy both ways."""
        self.flowing.wait()
        if self.closed:
            return
        try:
            self.upstream = socket.create_connection(target, timeout=10)
            self.upstream.settimeout(None)
        except OSError:
            self.close()
            return
        back = threading.Thread(target=self.copy, args=(self.upstream, self.client), daemon=True)
        self.threads.append(back)
        back.start()
        self.copy(self.client, self.upstream)

    def copy(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(CHUNK):
                self.flowing.wait()
                if self.closed:
                    return
                target.sendall(chunk)
        self.close()

    def close(self) -> None:
        self.closed = True
        self.flowing.set()
        for end in (self.client, self.upstream):
            if end is not None:
                # A shutdown first: closing alone does not wake a thread that is blocked in recv().
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()


class Gate:
    """Listens on a loopback port of its own and passes connections on to `target` until told otherwise."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.links: list[Link] = []
        self.lock = threading.Lock()
        self.silent = False
        self.listener: socket.socket | None = None
        self.acceptor: threading.Thread | None = None
        self.port = 0
        self.listen()

    def listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(256)
        self.port = listener.getsockname()[1]
        self.listener = listener
        self.acceptor = threading.Thread(target=self.accept, args=(listener,), daemon=True)
        self.acceptor.start()

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            link = Link(client)
            thread = threading.Thread(target=link.run, args=(self.target,), daemon=True)
            link.threads.append(thread)
            with self.lock:
                self.links = [known for known in self.links if not known.closed]
                self.links.append(link)
                if not self.silent:
                    link.flowing.set()
            thread.start()

    def refuse(self) -> None:
        """As when the database server has stopped: connections are cut, new ones refused."""
        self.stop_listening()
        self.cut()

    def freeze(self) -> None:
        """As when the network is gone: connections stay open and silent, new ones are never answered."""
        with self.lock:
            self.silent = True
            for link in self.links:
                link.flowing.clear()

    def thaw(self) -> None:
        """The network is back, and what was under way arrives after all."""
        with self.lock:
            self.silent = False
            for link in self.links:
                link.flowing.set()

    def forget(self) -> None:
        """The network is back for new connections; those from before stay silent for ever."""
        with self.lock:
            self.silent = False

    def restore(self) -> None:
        """The database server has started again after `refuse`."""
        self.listen()

    def cut(self) -> None:
        with self.lock:
            links, self.links = self.links, []
        for link in links:
            link.close()
        for link in links:
            for thread in link.threads:
                thread.join(timeout=5)

    def stop_listening(self) -> None:
        if self.listener is None or self.acceptor is None:
            return
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.acceptor.join(timeout=5)
        self.listener = self.acceptor = None

    def __enter__(self) -> Gate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_listening()
        self.cut()
