"""App configuration."""

from __future__ import annotations

from django.apps import AppConfig


class EverythingConfig(AppConfig):
    name = "demo_project.everything"
    verbose_name = "Everything"
