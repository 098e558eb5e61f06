"""Events of several requests as one asynchronous iterator.

In: functions that submit and cancel a request. Out: pairs of a request's index and an event, as another thread sends
them. This module does not know the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial

from .sequence import Event, Piece, Request, Sink

Events = asyncio.Queue[tuple[int, Event]]


async def events_of(
    requests: Sequence[Request], submit: Callable[[Request, Sink], int], cancel: Callable[[int], None]
) -> AsyncGenerator[tuple[int, Event], None]:
    """Yields (index of the request, event). The last event of each request is `Done` or `Failed`. Leaving the iterator
    cancels the requests that have not ended."""
    loop, events = asyncio.get_running_loop(), Events()
    numbers: list[int] = []
    try:
        for place, request in enumerate(requests):
            numbers.append(submit(request, partial(_send, loop, events, place)))
        left = len(requests)
        while left:
            place, event = await events.get()
            left -= not isinstance(event, Piece)
            yield place, event
    finally:
        for number in numbers:
            cancel(number)


def _send(loop: asyncio.AbstractEventLoop, events: Events, place: int, event: Event) -> None:
    loop.call_soon_threadsafe(events.put_nowait, (place, event))
