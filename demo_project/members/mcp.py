"""What members may call. Names, arguments and results are a contract."""

from __future__ import annotations

from pydantic import BaseModel

from demo_project.everything.features import Rows, count, slow_progress
from demo_project.library.models import Loan
from demo_project.members.server import members
from mcp_django import Context


class Caller(BaseModel):
    user: str


@members.tool()
async def whoami(ctx: Context) -> Caller:
    """Who you are here: the name of the user that you call as."""
    return Caller(user=ctx.user.get_username())


# The same functions as at /everything/mcp. Sessions, and so the counts in them, belong to one server.
members.tool()(count)
members.tool()(slow_progress)


@members.tool(permission="library.view_report", scopes=["library:report"])
def staff_report() -> Rows:
    """How many loans there have been. For staff: to others there is no such tool."""
    return Rows(rows=Loan.objects.count())
