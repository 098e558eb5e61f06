"""Events of several requests as one asynchronous iterator.

In: how to ask and how to cancel. Out: (which request, event) as they come from another thread. It knows no engine.
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
    """`Done` or `Failed` is the last event of each. Leaving the iterator cancels what is not done."""
    loop, events = asyncio.get_running_loop(), Events()
    numbers: list[int] = []
    try:
        for place, request in enumerate(requests):
            numbers.append(submit(request, partial(_pass_on, loop, events, place)))
        left = len(requests)
        while left:
            place, event = await events.get()
            left -= not isinstance(event, Piece)
            yield place, event
    finally:
        for number in numbers:
            cancel(number)


def _pass_on(loop: asyncio.AbstractEventLoop, events: Events, place: int, event: Event) -> None:
    loop.call_soon_threadsafe(events.put_nowait, (place, event))
