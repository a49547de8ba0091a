from __future__ import annotations

from django.urls import include, path

from demo_project.urls import urlpatterns as demo_urls
from tests.live.app.server import live

urlpatterns = [*demo_urls, path("live/", include(live.urls))]
