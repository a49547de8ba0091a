"""App configuration."""

from __future__ import annotations

from django.apps import AppConfig


class LibraryConfig(AppConfig):
    name = "demo_project.library"
    verbose_name = "Library"
