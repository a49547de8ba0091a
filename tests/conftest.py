"""What holds for all tests."""

from __future__ import annotations

import django
import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Before 6.1 Django leaves the file of a request's body open when the client goes away, until it is collected:
    in whichever test that may be."""
    if django.VERSION < (6, 1):
        config.addinivalue_line("filterwarnings", "ignore:Unclosed file <tempfile:ResourceWarning")
