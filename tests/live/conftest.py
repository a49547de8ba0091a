from tests.live.fixtures import database, pytest_runtest_makereport, serve

__all__ = ["database", "pytest_runtest_makereport", "serve"]
