"""Makes users with a bearer token each, and prints the tokens: ``python -m benchmarks.workers.tokens COUNT``."""

from __future__ import annotations

import sys

import django

django.setup()

from django.contrib.auth import get_user_model  # noqa: E402 - models can be imported from here on

from mcp_django.tokens.models import Token  # noqa: E402

if __name__ == "__main__":
    for number in range(int(sys.argv[1])):
        user = get_user_model()._default_manager.create_user(f"benchmark-{number}")
        _row, raw_token = Token.objects.issue(user)
        print(raw_token)
