"""The consent page: who asks, for what, for which server, and where the answer goes."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from oauth2_provider.views import AuthorizationView

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Consent(AuthorizationView):  # type: ignore[misc]  # the toolkit has no types
    """The toolkit's view, with more for its template to say."""

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context: dict[str, Any] = super().get_context_data(**kwargs)
        # After a form that is not valid there are no arguments, only the form.
        asked = {**context["form"].initial, **kwargs}
        redirect = urlsplit(asked.get("redirect_uri") or "")
        client = urlsplit(str(asked.get("client_id") or ""))
        return context | {
            "redirect_host": redirect.netloc or f"{redirect.scheme}:",
            "redirect_is_here": redirect.hostname in LOOPBACK,
            # A client that is named by a URL is whoever has that host; any other has chosen its name freely.
            "client_host": client.hostname if client.scheme == "https" else "",
            "resources": (asked.get("resource") or "").split(),
        }
