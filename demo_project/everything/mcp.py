"""What autodiscovery imports.

The order of imports is that of tools/list, and the conformance suite calls the first tool it finds there.
"""

from __future__ import annotations

from demo_project.everything import conformance, features
from demo_project.everything.server import everything

__all__ = ["conformance", "everything", "features"]
