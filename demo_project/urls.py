"""/mcp is the library, /everything/mcp every protocol feature once."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.staticfiles.urls import staticfiles_urlpatterns
from django.urls import include, path

from demo_project.everything.server import everything
from demo_project.library.views import Home

urlpatterns = [
    path("", Home.as_view(), name="home"),
    path("", include("mcp_django.urls")),
    path("everything/", include(everything.urls)),
    path("admin/", admin.site.urls),
    # Under DEBUG only; lets the admin have its style sheets whichever ASGI server runs.
    *staticfiles_urlpatterns(),
]
