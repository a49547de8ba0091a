"""The home page: what is where, and how to connect."""

from __future__ import annotations

from typing import Any

from django.views.generic import TemplateView

from demo_project.library import clients


class Home(TemplateView):
    template_name = "library/home.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        base_url = self.request.build_absolute_uri("/").rstrip("/")
        return super().get_context_data(
            endpoints=clients.endpoints(base_url), configurations=clients.configurations(base_url), **kwargs
        )
