from tests.live.fixtures import database, pair, pytest_runtest_makereport, serve

__all__ = ["database", "pair", "pytest_runtest_makereport", "serve"]
