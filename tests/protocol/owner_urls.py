"""The places of the two servers whose callers have something to lose."""

from __future__ import annotations

from django.urls import include, path

from tests.protocol import owner_servers

urlpatterns = [
    path("one/", include(owner_servers.one.urls)),
    path("two/", include(owner_servers.two.urls)),
]
