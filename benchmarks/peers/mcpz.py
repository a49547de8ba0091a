"""django-mcpz in the smallest Django project that serves it: no middleware, no database.

Runs in an environment of its own (see ``benchmarks.environments``), where this project is not installed.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest
from django.urls import path
from django_mcpz.server import MCPServer, public

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DEBUG=False,
    INSTALLED_APPS=["django_mcpz"],
    MIDDLEWARE=[],
    ROOT_URLCONF=__name__,
    SECRET_KEY="benchmark",
)


@dataclass
class Terms:
    a: int
    b: int


@dataclass
class Sum:
    result: int


def add(request: HttpRequest, terms: Terms) -> Sum:
    return Sum(result=terms.a + terms.b)


server = MCPServer(name="benchmark", version="1", auth=public)
server.tool(description="Add two numbers.", output_schema=Sum)(add)

urlpatterns = [path("mcp", server)]
application = get_wsgi_application()
