"""/mcp is the library, /everything/mcp every protocol feature once, /members/mcp closed to strangers."""

from __future__ import annotations

from django.conf import settings
from django.contrib import admin
from django.contrib.staticfiles.urls import staticfiles_urlpatterns
from django.urls import include, path

from demo_project.everything.server import everything
from demo_project.library.views import Home
from demo_project.members.server import members

urlpatterns = [
    path("", Home.as_view(), name="home"),
    path("", include("mcp_django.urls")),
    path("everything/", include(everything.urls)),
    path("members/", include(members.urls)),
    path("admin/", admin.site.urls),
    *([path("", include("demo_project.oauth.urls"))] if settings.OAUTH else []),
    # Under DEBUG only; lets the admin have its style sheets whichever ASGI server runs.
    *staticfiles_urlpatterns(),
]
