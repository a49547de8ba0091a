"""What answers with an ``InputRequiredResult`` of its own making: what is wanted of the client before it comes again.

A client of 2026-07-28 gets that as it is. One of 2025 is sent the same as requests, and the handler is run again with
its answers.
"""

from __future__ import annotations

import json
from typing import TypeVar

from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import (
    ClientCapabilities,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    InputResponse,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    TextContent,
)
from pydantic import BaseModel, ValidationError

from demo_project.everything.conformance.contents import text
from demo_project.everything.server import everything
from mcp_django import Context

FormT = TypeVar("FormT", bound=BaseModel)
ResponseT = TypeVar("ResponseT", bound=InputResponse)
STATE = "what the first round knows"


class Name(BaseModel):
    name: str


class Colour(BaseModel):
    color: str


class Confirmation(BaseModel):
    ok: bool


class Background(BaseModel):
    context: str


def form(message: str, fields: type[BaseModel]) -> ElicitRequest:
    params = ElicitRequestFormParams(message=message, requested_schema=fields.model_json_schema())
    return ElicitRequest(params=params)


def sampling(prompt: str, max_tokens: int) -> CreateMessageRequest:
    messages = [SamplingMessage(role="user", content=text(prompt))]
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=messages, max_tokens=max_tokens))


def answer_to(ctx: Context, key: str, kind: type[ResponseT]) -> ResponseT | None:
    """The client's answer; None if there is none of this kind, so that it is asked for again."""
    answer = (ctx.input_responses or {}).get(key)
    return answer if isinstance(answer, kind) else None


def filled_in(ctx: Context, key: str, fields: type[FormT]) -> FormT | None:
    """What the user has filled in; None if there is nothing usable.

    Raises:
        ToolError: the user does not want to say.
    """
    answer = answer_to(ctx, key, ElicitResult)
    if answer is None:
        return None
    if answer.action != "accept":
        raise ToolError(f"The user was asked for {key}: {answer.action}.")
    try:
        return fields.model_validate(answer.content)
    except ValidationError:
        return None


def words_of(answer: CreateMessageResult) -> str:
    return answer.content.text if isinstance(answer.content, TextContent) else f"({answer.content.type})"


def list_of(answer: ListRootsResult) -> str:
    return ", ".join(str(root.uri) for root in answer.roots) or "none"


@everything.tool()
async def test_input_required_result_elicitation(ctx: Context) -> TextContent | InputRequiredResult:
    """Greet the user, whose name is asked for until it is there."""
    said = filled_in(ctx, "user_name", Name)
    if said is None:
        return InputRequiredResult(input_requests={"user_name": form("What is your name?", Name)})
    return text(f"Hello, {said.name}!")


@everything.tool()
async def test_input_required_result_sampling(ctx: Context) -> TextContent | InputRequiredResult:
    """Say what the client's model says."""
    said = answer_to(ctx, "capital_question", CreateMessageResult)
    if said is None:
        return InputRequiredResult(input_requests={"capital_question": sampling("What is the capital of France?", 100)})
    return text(f"The model said: {words_of(said)}")


@everything.tool()
async def test_input_required_result_list_roots(ctx: Context) -> TextContent | InputRequiredResult:
    """Say which roots the client has."""
    said = answer_to(ctx, "client_roots", ListRootsResult)
    if said is None:
        return InputRequiredResult(input_requests={"client_roots": ListRootsRequest()})
    return text(f"Roots: {list_of(said)}")


@everything.tool()
async def test_input_required_result_request_state(ctx: Context) -> TextContent | InputRequiredResult:
    """Let the client carry a state from the first round to the second."""
    said = filled_in(ctx, "confirm", Confirmation)
    if said is None or ctx.request_state is None:
        return InputRequiredResult(
            input_requests={"confirm": form("Please confirm", Confirmation)}, request_state=STATE
        )
    return text(f"state-ok: {ctx.request_state}, confirmed: {said.ok}")


@everything.tool()
async def test_input_required_result_multiple_inputs(ctx: Context) -> TextContent | InputRequiredResult:
    """Want three things of the client at once."""
    name = filled_in(ctx, "user_name", Name)
    greeting = answer_to(ctx, "greeting", CreateMessageResult)
    roots = answer_to(ctx, "client_roots", ListRootsResult)
    if name is None or greeting is None or roots is None:
        return InputRequiredResult(
            input_requests={
                "user_name": form("What is your name?", Name),
                "greeting": sampling("Generate a greeting", 50),
                "client_roots": ListRootsRequest(),
            },
            request_state=STATE,
        )
    return text(f"{words_of(greeting)}, {name.name}! Roots: {list_of(roots)}")


@everything.tool()
async def test_input_required_result_multi_round(ctx: Context) -> TextContent | InputRequiredResult:
    """Ask in two rounds; what was said in the first travels with the client in the state."""
    known = json.loads(ctx.request_state) if ctx.request_state else {}
    if "name" not in known:
        said = filled_in(ctx, "step1", Name)
        if said is None:
            state = json.dumps({"round": 1})
            return InputRequiredResult(input_requests={"step1": form("What is your name?", Name)}, request_state=state)
        known = {"round": 2, "name": said.name}
    favourite = filled_in(ctx, "step2", Colour)
    if favourite is None:
        asked = form("What is your favorite color?", Colour)
        return InputRequiredResult(input_requests={"step2": asked}, request_state=json.dumps(known))
    return text(f"{known['name']} likes {favourite.color}.")


@everything.tool()
async def test_input_required_result_tampered_state(ctx: Context) -> TextContent | InputRequiredResult:
    """Let the client carry a state that it can neither read nor change."""
    said = filled_in(ctx, "confirm", Confirmation)
    if said is None or ctx.request_state is None:
        return InputRequiredResult(
            input_requests={"confirm": form("Please confirm", Confirmation)}, request_state=STATE
        )
    return text(f"The state came back as it was: {ctx.request_state}")


@everything.tool()
async def test_input_required_result_capabilities(ctx: Context) -> TextContent | InputRequiredResult:
    """Want of the client whatever it declares that it takes, and nothing else."""
    wanted = requests_for(ctx.client_capabilities or ClientCapabilities())
    answers = {key: answer for key, answer in (ctx.input_responses or {}).items() if key in wanted}
    if answers.keys() != wanted.keys():
        return InputRequiredResult(input_requests=wanted)
    return text(f"Answered: {', '.join(sorted(answers)) or 'nothing, since nothing can be asked'}")


def requests_for(capabilities: ClientCapabilities) -> dict[str, InputRequest]:
    """One request for each kind that a client takes."""
    wanted: dict[str, InputRequest] = {}
    elicitation = capabilities.elicitation
    if elicitation is not None and (elicitation.form is not None or elicitation.url is None):
        wanted["user_name"] = form("What is your name?", Name)
    if capabilities.sampling is not None:
        wanted["greeting"] = sampling("Generate a greeting", 50)
    if capabilities.roots is not None:
        wanted["client_roots"] = ListRootsRequest()
    return wanted


@everything.prompt()
async def test_input_required_result_prompt(ctx: Context) -> str | InputRequiredResult:
    """A prompt about what the user says first."""
    said = filled_in(ctx, "user_context", Background)
    if said is None:
        return InputRequiredResult(input_requests={"user_context": form("What is it about?", Background)})
    return f"Help me with this: {said.context}"
