"""The context that handlers get: the SDK's, and what a Django project adds to it."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any, cast

from django.http import HttpRequest
from mcp.server.mcpserver import Context as SDKContext
from mcp_types import Implementation, InputResponseRequestParams, InputResponses

from mcp_django.adoption import QuickPrivates, adopted
from mcp_django.calls import Call
from mcp_django.exceptions import NoSession
from mcp_django.handlers import RestoreMarker
from mcp_django.state import State

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
    from mcp.server.context import ServerRequestContext
    from pydantic import AnyUrl

    from mcp_django.auth import Principal
    from mcp_django.kernel import Kernel
    from mcp_django.server import MCPServer


class Context(QuickPrivates, SDKContext[Any, Any]):
    """What a handler may know and do about the call it serves.

    A parameter annotated with this class receives it, whatever the parameter's name.
    """

    @classmethod
    def adopt(cls, context: SDKContext[Any, Any]) -> Context:
        """The context that the SDK made for a request, as one of this class.

        The same object with another class: a second one would have its (empty) model validated once more, which
        costs as much as the rest of a quick call's dispatch.
        """
        return adopted(context, cls)

    def _copied_for(self, request: ServerRequestContext[Any, Any], params: InputResponseRequestParams) -> Context:
        """A context like this one, for a request."""
        made = copy(self)
        made._request_context, made._input_params = request, params
        return made

    def _hand_over(self, state: str | None, responses: InputResponses | None) -> None:
        """Hand the handler the state and the answers of the rounds before (``request_state``, ``input_responses``)."""
        params = self._input_params or InputResponseRequestParams()
        self._input_params = params.model_copy(update={"request_state": state, "input_responses": responses})

    @property
    def call(self) -> Call:
        """The running call."""
        return cast(Call, self.request_context.request)

    @property
    def has_session(self) -> bool:
        """Whether the call belongs to a session; calls of clients of 2026-07-28 and later do not."""
        return self.call.session_id is not None

    @property
    def session_id(self) -> str:
        """The ``Mcp-Session-Id``. Whoever has it and the owner's credentials has the session: do not log it.

        Raises:
            NoSession: the call belongs to none.
        """
        if (session_id := self.call.session_id) is None:
            raise NoSession
        return session_id

    @property
    def session_key(self) -> str:
        """The key of the session's row: names the session without giving it away. For ``mcp.notify_session``.

        Raises:
            NoSession: the call belongs to none.
        """
        return self.call.session.digest

    @property
    def principal(self) -> Principal:
        """Whom the call speaks for: the user, the OAuth client that acts for them, and the scopes it is limited to."""
        return self.call.principal

    @property
    def user(self) -> AbstractBaseUser | AnonymousUser:
        """Django's user, an ``AnonymousUser`` if nobody was recognised."""
        return self.call.principal.user_or_anonymous

    @property
    def request(self) -> HttpRequest:
        """Django's request object, with ``user``, whichever entry the request came through."""
        request = self.call.http.django
        request.user = cast("User", self.user)
        return request

    @property
    def state(self) -> State:
        """The session's durable state.

        Raises:
            NoSession: the call belongs to none.
        """
        return self.call.session.state

    @property
    def restored(self) -> RestoreMarker | None:
        """Set if this process restored the session, in every call until it leaves this process's memory."""
        return self.call.session.marker if self.has_session else None

    @property
    def server(self) -> MCPServer:
        """The server that handles the call."""
        return cast("Kernel", self.mcp_server).owner

    async def notify_tools_changed(self) -> None:
        """Tell every client of this server that its tool list changed."""
        await self.server.anotify_tools_changed()

    async def notify_prompts_changed(self) -> None:
        """Tell every client of this server that its prompt list changed."""
        await self.server.anotify_prompts_changed()

    async def notify_resources_changed(self) -> None:
        """Tell every client of this server that its resource list changed."""
        await self.server.anotify_resources_changed()

    async def notify_resource_updated(self, uri: str | AnyUrl) -> None:
        """Tell the clients that subscribed to ``uri`` to read it again."""
        await self.server.anotify_resource_updated(str(uri))

    @property
    def client_info(self) -> Implementation | None:
        """The client's name and version as it gave them; from 2026-07-28 on it need not."""
        return self.call.peer.client_info
