"""The fixtures that the official conformance suite expects of a server; names and results are the suite's.

The order of imports is that of tools/list, and the suite calls the first tool that it finds there.
"""

from __future__ import annotations

from demo_project.everything.conformance import contents, questions, rounds, running

__all__ = ["contents", "questions", "rounds", "running"]
