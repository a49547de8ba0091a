"""Creates or drops the database that the settings name, on its server.

python -m benchmarks.workers.database create|drop
"""

from __future__ import annotations

import sys

import django
from django.db import connection

STATEMENTS = {"create": "CREATE DATABASE {}", "drop": "DROP DATABASE {}"}


def main() -> None:
    django.setup()
    statement = STATEMENTS[sys.argv[1]].format(connection.ops.quote_name(connection.settings_dict["NAME"]))
    # The connection on which Django itself creates and drops test databases.
    with connection._nodb_cursor() as cursor:
        cursor.execute(statement)


if __name__ == "__main__":
    main()
