"""App configuration."""

from __future__ import annotations

from django.apps import AppConfig


class MembersConfig(AppConfig):
    name = "demo_project.members"
    verbose_name = "Members"
