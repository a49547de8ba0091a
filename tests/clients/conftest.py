from tests.clients.fixtures import driver, entries, library, place
from tests.live.fixtures import database, pytest_runtest_makereport, serve

__all__ = ["database", "driver", "entries", "library", "place", "pytest_runtest_makereport", "serve"]
