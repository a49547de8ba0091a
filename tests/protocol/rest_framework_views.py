"""A view of Django REST framework that shows everybody their own rows, and a tool that does so by the view."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.db.models import QuerySet
from rest_framework import serializers, viewsets
from rest_framework.request import Request

from mcp_django import Context, MCPServer
from tests.protocol.servers import Bearer

rest = MCPServer("protocol-rest", authenticators=[Bearer()])


class UserSerializer(serializers.ModelSerializer):  # type: ignore[misc]
    class Meta:
        model = User
        fields = ("username",)


class Users(viewsets.ReadOnlyModelViewSet):  # type: ignore[misc]
    serializer_class = UserSerializer

    def get_queryset(self) -> QuerySet[User]:
        return User.objects.filter(pk=self.request.user.pk)


@rest.tool()
def usernames(ctx: Context) -> list[str]:
    """The users that the view shows the caller."""
    view = Users()
    view.setup(ctx.request)
    view.request = Request(ctx.request)
    view.request.user = ctx.request.user
    return [row["username"] for row in UserSerializer(view.get_queryset(), many=True).data]


users: Any = Users.as_view({"get": "list"})
