from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from django.apps import AppConfig
from django.utils.autoreload import autoreload_started


class LiveConfig(AppConfig):
    name = "tests.live.app"

    def ready(self) -> None:
        """Have runserver reload when a file changes that only the test touches."""
        if watched := os.environ.get("LIVE_WATCHED"):
            self.watched = Path(watched)
            autoreload_started.connect(self.watch)

    def watch(self, sender: Any, **kwargs: Any) -> None:
        sender.extra_files.add(self.watched)
