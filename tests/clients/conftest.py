from tests.clients.fixtures import running_drivers, running_servers
from tests.live.fixtures import database, pytest_runtest_makereport, serve

__all__ = ["database", "pytest_runtest_makereport", "running_drivers", "running_servers", "serve"]
