"""OpenAI's routes: chat completions, completions, models, feedback.

In: checked bodies and a key. Out: responses, whole or as server-sent events; an exchange is journaled before its last
byte goes out. `model` chooses whose weights answer: `NAME` (the request's user decides), `NAME:base`, `NAME:user/ID`,
`NAME:user/ID/vN`. It does not know how an answer is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from ...errors import InputError, NotFound, StillhouseError
from ...generate import Sampling
from ...text.prompts import Message
from .. import teacher
from ..access import keys
from ..access.keys import ApiKey
from ..engine import engine
from ..engine.adapters import Key
from ..engine.engine import Event, Failed
from ..log import journal_records
from ..log.journal_records import Exchange, Feedback
from ..service import GenerationRequest, PreparedRequest, Service, WeightsChoice
from ..teacher import FallbackTeacher
from .auth import AppService, CallerKey, charge_tokens, check_allowed, resolve_user
from .errors import error_body
from .responses import ChoiceOutput, ResponseFormat
from .schema import ChatBody, CompletionBody, FeedbackBody, GenerationBody

routes = APIRouter(prefix="/v1")
_VERSION = re.compile(r"(?P<user>.+)/v(?P<number>[1-9][0-9]{0,8})", re.DOTALL)
_MOST_MODELS = 1000


@dataclass(frozen=True)
class _Call:
    """One HTTP request with what was prepared for it, and how its response is written."""

    service: Service
    key: ApiKey
    body: GenerationBody
    requests: Sequence[GenerationRequest]
    prepared: Sequence[PreparedRequest]
    format: ResponseFormat

    @property
    def engine_requests(self) -> list[engine.Request]:
        """`n` requests a prompt, each with a seed of its own."""
        return [
            replace(p.request, sampling=p.request.sampling.numbered(i))
            for p in self.prepared
            for i in range(self.body.n or 1)
        ]

    @property
    def teacher(self) -> FallbackTeacher | None:
        """The teacher that answers where the student is not sure. None where it may not: for several choices, raw
        prompts, a named version, and users with an adapter, whose knowledge the teacher lacks."""
        single = self.format.chat and (self.body.n or 1) == 1 and self.requests[0].choice == "user"
        return self.service.teacher if single and self.prepared[0].path in teacher.ROUTES else None

    def events(self) -> AsyncGenerator[tuple[int, Event], None]:
        """(which choice, event) as the engine or the teacher yields them."""
        if (teacher := self.teacher) is None:
            return self.service.stream(*self.engine_requests)
        (request,), (prepared,) = self.engine_requests, self.prepared
        sampling = replace(request.sampling, logprobs=request.sampling.logprobs or 0)
        student = self.service.stream(replace(request, sampling=sampling))
        return teacher.replace_uncertain(prepared.messages, sampling, student, self.format.about)

    @property
    def headers(self) -> dict[str, str]:
        """The route and the id of the response, for clients that do not read its body."""
        return {"X-Stillhouse-Path": self.format.about["path"], "X-Stillhouse-Response": self.format.id}


@routes.post("/chat/completions")
async def chat(body: ChatBody, request: Request, key: CallerKey, service: AppService) -> Response:
    """Answer a conversation, whole or as server-sent events."""
    messages = tuple(_message(m.role, m.text) for m in body.messages)
    generation = _generation_request(
        body, key, service, body.wanted_logprobs, body.max_completion_tokens or body.max_tokens
    )
    session = body.session or body.prompt_cache_key
    return await _reply(service, key, body, [replace(generation, messages=messages, session=session)], request)


@routes.post("/completions")
async def complete(body: CompletionBody, request: Request, key: CallerKey, service: AppService) -> Response:
    """Continue raw prompts, without a template or passages."""
    generation = _generation_request(body, key, service, body.logprobs, body.max_tokens or 16)
    prompts = [p if isinstance(p, str) else checked_tokens(service, p) for p in body.prompts]
    requests = [replace(generation, prompt=p, session=body.session) for p in prompts]
    return await _reply(service, key, body, requests, request)


@routes.get("/models")
async def list_models(key: CallerKey, service: AppService) -> dict[str, Any]:
    """The base, and the adapters this key may use."""
    users = [key.own_user] if key.own_user else await asyncio.to_thread(service.store.users)
    mine = [u for u in users if u is not None and keys.allowed(key, u, "read")][:_MOST_MODELS]
    cards = [
        _model_card(service, ""),
        _model_card(service, ":base"),
        *(_model_card(service, f":user/{user}") for user in mine),
    ]
    return {"object": "list", "data": cards}


@routes.get("/models/{name:path}")
async def show_model(name: str, key: CallerKey, service: AppService) -> dict[str, Any]:
    """One of the models that `list_models` lists, or a version of one."""
    user, _ = user_and_version(service, name)
    if user is not None:
        check_allowed(key, keys.stored_user(key, user) or user, "read")
    return _model_card(service, name.removeprefix(service.model.ref))


@routes.post("/feedback")
async def give_feedback(body: FeedbackBody, key: CallerKey, service: AppService) -> dict[str, Any]:
    """Keep a judgement of a response: on disk before it is acknowledged, and once per id."""
    exchange = await asyncio.to_thread(service.journal.find, body.response_id)
    if exchange is None or (exchange.user and not keys.allowed(key, exchange.user, "change")):
        raise NotFound(f"there is no response {body.response_id[:80]!r}")
    name, value = ("score", body.score) if body.score is not None else (body.key or "score", body.value)
    feedback = Feedback(
        body.id or journal_records.new_id("fb"), exchange.user, journal_records.now(), body.response_id, name, value,
        body.comment, body.correction, body.source,
    )  # fmt: skip
    await asyncio.wrap_future(service.journal.submit(feedback))
    service.metrics.feedback.labels(service.model.ref, body.source).inc()
    return {"object": "feedback", "id": feedback.id, "response_id": body.response_id}


def _message(role: str, text: str) -> Message:
    return {"role": "system" if role == "developer" else role, "content": text}


def checked_tokens(service: Service, ids: Sequence[int]) -> tuple[int, ...]:
    """`ids` as a tuple. `InputError`: one is not in the vocabulary."""
    largest = service.model.vocabulary - 1
    wrong = next((i for i in ids if not 0 <= i <= largest), None)
    if wrong is not None:
        raise InputError(f"prompt: token {wrong} is not in the vocabulary; 0 to {largest} are allowed")
    return tuple(ids)


def user_and_version(service: Service, name: str) -> tuple[str | None, int | None]:
    """(user, version) that a model's name picks; user "": the base alone, None: the request decides. `NotFound`."""
    ref = service.model.ref
    rest = name.removeprefix(ref) if name.startswith(ref) else None
    if rest == "":
        return None, None
    if rest == ":base":
        return "", None
    if rest is not None and rest.startswith(":user/") and len(rest) > 6:
        match = _VERSION.fullmatch(rest[6:])
        return (match["user"], int(match["number"])) if match else (rest[6:], None)
    raise NotFound(f"the model {name[:80]!r} does not exist; {ref!r}, '{ref}:base' or '{ref}:user/ID' can be asked")


def _generation_request(
    body: GenerationBody, key: ApiKey, service: Service, logprobs: int | None, most: int | None
) -> GenerationRequest:
    """The request without its messages or prompt: sampling, user, version. `Forbidden`, `NotFound`, `InputError`."""
    named, number = user_and_version(service, body.model)
    if named and body.user not in (None, named):
        raise InputError(f"user {body.user!r} and model {body.model!r} name two users: give one of them")
    user = keys.stored_user(key, body.user or named or None)
    if user is None and key.scope != "admin":
        resolve_user(key, None, "ask")
    if user is not None:
        check_allowed(key, user, "ask")
    choice: WeightsChoice = "base" if named == "" else "version" if number else "user"
    version = Key(user, number) if number and user else None
    given = {name: getattr(body, name) for name in ("seed", "top_k", "top_p", "min_p", "repetition_penalty")}
    drawn_by = {"seed": secrets.randbits(32)} | {name: value for name, value in given.items() if value is not None}
    sampling = Sampling(most or 1, _temperature(body, service), stop=body.stops, logprobs=logprobs, **drawn_by)
    return GenerationRequest(sampling, user, choice=choice, version=version, max_tokens=most)


def _temperature(body: GenerationBody, service: Service) -> float:
    """The request's temperature, or that of the model's own generation config."""
    return body.temperature if body.temperature is not None else service.model.temperature


def _model_card(service: Service, suffix: str) -> dict[str, Any]:
    ref = service.model.ref
    return {
        "id": f"{ref}{suffix}", "object": "model", "created": 0, "owned_by": "stillhouse", "root": ref,
        "parent": ref if suffix else None, "max_model_len": service.engine.room,
        "fingerprint": service.model.fingerprint,
    }  # fmt: skip


async def _reply(
    service: Service, key: ApiKey, body: GenerationBody, requests: Sequence[GenerationRequest], request: Request
) -> Response:
    prepared = [await service.prepare(r) for r in requests]
    charge_tokens(service, key, sum(len(p.request.prompt) + p.request.sampling.max_new_tokens for p in prepared))
    chat, first = isinstance(body, ChatBody), prepared[0]
    about: dict[str, Any] = {
        "path": first.path, "user": requests[0].user, "session": first.session, "passages": first.passages,
        "version": first.version.number if first.version else None,
    }  # fmt: skip
    if first.refused:
        about["refused"] = list(first.refused)
    wants = first.request.sampling.logprobs is not None
    name, n = journal_records.new_id("chatcmpl" if chat else "cmpl"), body.n or 1
    form = ResponseFormat(name, int(time.time()), body.model, chat, about, wants, service.model, n)
    call = _Call(service, key, body, requests, prepared, form)
    if body.stream:
        events = call.events()
        first_event = await anext(events)  # a full queue is a status, not a broken stream
        if isinstance(first_event[1], Failed):
            raise first_event[1].error
        return StreamingResponse(
            _streamed(call, first_event, events), media_type="text/event-stream", headers=call.headers
        )
    return await _cancelled_on_disconnect(request, _whole(call))


async def _cancelled_on_disconnect(request: Request, reply: Coroutine[Any, Any, Response]) -> Response:
    """The response. If the client leaves before it is whole, the work on it is cancelled."""
    whole = asyncio.ensure_future(reply)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({whole, gone}, return_when=asyncio.FIRST_COMPLETED)
        return whole.result() if whole.done() else Response(status_code=499)
    finally:
        for task in (whole, gone):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


async def _whole(call: _Call) -> Response:
    outputs = [ChoiceOutput() for _ in call.engine_requests]
    async with contextlib.aclosing(call.events()) as events:
        async for place, event in events:
            if isinstance(event, Failed):
                raise event.error
            outputs[place].take(event)
    if not await _record(call, outputs):
        call.format.about["recorded"] = False
    return JSONResponse(call.format.whole(outputs), headers=call.headers)


async def _streamed(
    call: _Call, first_event: tuple[int, Event], events: AsyncGenerator[tuple[int, Event], None]
) -> AsyncIterator[str]:
    outputs = [ChoiceOutput() for _ in call.engine_requests]
    recorded = False
    try:
        for place in range(len(outputs)):
            if (opening := call.format.opening(place)) is not None:
                yield _sse(opening)
        async for place, event in _prepended(first_event, events):
            if isinstance(event, Failed):
                yield _sse(error_body(event.error.status, str(event.error)))
                return
            outputs[place].take(event)
            if all(output.done for output in outputs):
                recorded = True
                if not await _record(call, outputs):
                    call.format.about["recorded"] = False
            if (chunk := call.format.chunk(place, event)) is not None:
                yield _sse(chunk)
        if call.body.stream_options and call.body.stream_options.include_usage:
            yield _sse(call.format.last(outputs))
        yield "data: [DONE]\n\n"
    finally:
        await events.aclose()
        if not recorded and any(
            output.text for output in outputs
        ):  # the client left: what it got is journaled all the same
            await asyncio.shield(_record(call, outputs))


async def _prepended(
    first_event: tuple[int, Event], events: AsyncIterator[tuple[int, Event]]
) -> AsyncIterator[tuple[int, Event]]:
    yield first_event
    async for item in events:
        yield item


def _sse(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def _record(call: _Call, outputs: Sequence[ChoiceOutput]) -> bool:
    """Journal the exchange; False where the disk refuses. Of several prompts or choices the first is journaled."""
    request, prepared, first, done = call.requests[0], call.prepared[0], outputs[0], outputs[0].done
    exchange = Exchange(
        id=call.format.id, user=request.user or "", session=prepared.session, time=journal_records.now(), turns=(),
        answer=first.text, model=call.body.model, base=call.service.model.fingerprint, path=call.format.about["path"],
        version=prepared.version.number if prepared.version else None, finish=done.reason if done else "cancelled",
        prompt_tokens=len(prepared.request.prompt), cached_tokens=done.cached_tokens if done else 0,
        completion_tokens=len(first.pieces), first_token_seconds=round(done.first - done.arrived, 6) if done else 0.0,
        seconds=round(done.at - done.arrived, 6) if done else 0.0, key=call.key.id,
    )  # fmt: skip
    messages = request.messages or ({"role": "prompt", "content": _prompt_text(call, request)},)
    try:
        return await call.service.record(exchange, messages) and await _record_correction(call, exchange)
    except StillhouseError:  # what follows from an exchange is no reason to lose its answer
        return True


async def _record_correction(call: _Call, exchange: Exchange) -> bool:
    """Journal an answer of the teacher's as a correction of the student's, for the next student to learn."""
    about = call.format.about
    if exchange.path != "teacher":
        return True
    correction = Feedback(
        journal_records.new_id("fb"), exchange.user, journal_records.now(), exchange.id, "teacher", about["confidence"],
        about["student"], exchange.answer, "model",
    )  # fmt: skip
    await asyncio.wrap_future(call.service.journal.submit(correction))
    return True


def _prompt_text(call: _Call, request: GenerationRequest) -> str:
    return request.prompt if isinstance(request.prompt, str) else call.service.model.text(request.prompt)
