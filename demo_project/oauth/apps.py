"""App configuration."""

from __future__ import annotations

from django.apps import AppConfig


class OAuthConfig(AppConfig):
    """Stands before the toolkit in INSTALLED_APPS: its consent page has the toolkit's name and takes its place."""

    name = "demo_project.oauth"
    label = "demo_oauth"
    verbose_name = "OAuth"
