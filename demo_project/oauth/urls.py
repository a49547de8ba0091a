"""The URLs of the authorization server, after those of mcp_django."""

from __future__ import annotations

from django.contrib.auth.views import LoginView
from django.urls import include, path
from oauth2_provider import urls as toolkit

from demo_project.oauth.views import Consent

urlpatterns = [
    path("accounts/login/", LoginView.as_view(), name="login"),
    # In the place of the toolkit's own page, whose name and URL it takes.
    path("o/authorize/", Consent.as_view()),
    path("o/", include("oauth2_provider.urls")),
    # Where clients look for the issuer http://host/o. They bring a page for protected resources too, which must stand
    # behind that of mcp_django.
    path("", include(toolkit.metadata_urlpatterns)),
]
