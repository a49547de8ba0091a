"""``subscriptions/listen`` (2026-07-28): one request whose response is a stream of a server's notices.

Acknowledged first, then what changes, from whichever process; no ids and no replay: who lost the connection listens
anew and looks again. A stream that the server ends on purpose closes with the request's result.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types import SubscriptionFilter, SubscriptionsListenRequestParams

from mcp_django import jsonrpc, sse
from mcp_django.conf import mcp_settings
from mcp_django.cursors import NOTICES
from mcp_django.hearers import Hearer, params_of
from mcp_django.http import Response, stream_response, too_many_streams
from mcp_django.sessions import sessions

if TYPE_CHECKING:
    from mcp_django.stream_reads import Notice
    from mcp_django.streams import Streams

ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"


async def listen(
    server: str,
    request: jsonrpc.Request,
    offered: Callable[[str], Awaitable[bool]],
    closing: dict[str, Any],
) -> Response:
    """Answer a ``subscriptions/listen`` request (subscriptions, 2026-07-28).

    Args:
        server: the name of the server to listen to.
        offered: says of a resource's URI whether the caller may read it.
        closing: the result that ends the stream, without the subscription's id.

    Raises:
        MCPError: -32602, it asks for more resources than one stream may.
        HTTPRefusal: 503, the process has as many connections open as it may.
        StoreUnavailable: where the server's notices stand is not known.
    """
    params = SubscriptionsListenRequestParams.model_validate(request.params, by_name=False)
    honored = await honored_of(params.notifications, offered)
    streams = sessions().streams
    if streams.closing or streams.connections >= mcp_settings.MAX_STREAMS:
        raise too_many_streams("process")
    clock = await streams.clock(server)
    return stream_response(Listener(streams, server, request.id, honored, clock, closing))


async def honored_of(wanted: SubscriptionFilter, offered: Callable[[str], Awaitable[bool]]) -> SubscriptionFilter:
    """What of a filter will be sent. A resource that the caller cannot read is left out, one that is not there too.

    Raises:
        MCPError: -32602, it names too many resources.
    """
    uris = list(dict.fromkeys(wanted.resource_subscriptions or ()))
    if len(uris) > mcp_settings.MAX_SUBSCRIPTIONS:
        raise MCPError(
            jsonrpc.INVALID_PARAMS,
            f"A stream may subscribe to {mcp_settings.MAX_SUBSCRIPTIONS} resources at most "
            "(MCP_DJANGO_MAX_SUBSCRIPTIONS). Open another for the rest.",
        )
    return SubscriptionFilter(
        tools_list_changed=wanted.tools_list_changed or None,
        prompts_list_changed=wanted.prompts_list_changed or None,
        resources_list_changed=wanted.resources_list_changed or None,
        resource_subscriptions=[uri for uri in uris if await offered(uri)] or None,
    )


class Listener(Hearer):
    """One such stream.

    Args:
        request_id: of the request that it answers; it names the subscription on every message.
        honored: what is sent. heard: the number of the server's last notice before it began.
        closing: the result that ends it, without the subscription's id.
    """

    __slots__ = (
        "_closing",
        "_honored",
        "_kinds",
        "_meta",
        "_notices",
        "_request_id",
        "_streams",
        "_uris",
        "heard",
        "server",
    )

    def __init__(
        self,
        streams: Streams,
        server: str,
        request_id: jsonrpc.RequestId,
        honored: SubscriptionFilter,
        heard: int,
        closing: dict[str, Any],
    ) -> None:
        super().__init__()
        self.server = server
        self.heard = heard
        self._streams = streams
        self._request_id = request_id
        self._honored = honored
        self._meta = {SUBSCRIPTION_ID_META_KEY: request_id}
        self._closing = closing
        self._notices = {}
        wanted = {
            "tools": honored.tools_list_changed,
            "prompts": honored.prompts_list_changed,
            "resources": honored.resources_list_changed,
            "resource": honored.resource_subscriptions,
        }
        self._kinds = frozenset(kind for kind, is_wanted in wanted.items() if is_wanted)
        self._uris = frozenset(honored.resource_subscriptions or ())

    @property
    def uris(self) -> frozenset[str]:
        return self._uris

    def concerns(self, notice: Notice) -> bool:
        return notice.kind in self._kinds and super().concerns(notice)

    def _attach(self) -> None:
        self._streams.listen(self)

    def _detach(self) -> None:
        self._streams.listeners.discard(self)

    def _greeting(self) -> bytes:
        return self._frame(ACKNOWLEDGED, {"notifications": self._honored.model_dump(by_alias=True, exclude_none=True)})

    async def _read(self) -> bytes:
        return b"".join(self._frame(NOTICES[notice.kind], params_of(notice)) for notice in self._take_notices())

    def _farewell(self) -> bytes:
        meta = {**self._closing.get("_meta", {}), **self._meta}
        return sse.event(jsonrpc.line(jsonrpc.result(self._request_id, {**self._closing, "_meta": meta})), None)

    def _frame(self, method: str, params: dict[str, Any] | None) -> bytes:
        return sse.event(jsonrpc.line(jsonrpc.notification(method, {**(params or {}), "_meta": self._meta})), None)
