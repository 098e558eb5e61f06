"""A layer's forward is replaced, or followed by another function, and put back.

In: a layer of one input and one output, and either another way to compute its product or a function of its input and
output. Out: the layer, called as before. A forward hook does the same at five times the overhead, which one step of an
answer pays a hundred times. Functions come and go in any order; there is one replacement at a time.

It does not know what is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

Forward = Callable[[Tensor], Tensor]
Follow = Callable[[Tensor, Tensor], Tensor]


class _Followed:
    """A forward with something behind it: `then(x, own(x))`."""

    __slots__ = ("own", "then")

    def __init__(self, own: Forward, then: Follow) -> None:
        self.own, self.then = own, then

    def __call__(self, input: Tensor) -> Tensor:  # noqa: A002 - what torch calls it
        return self.then(input, self.own(input))


def follow(layer: nn.Module, then: Follow) -> Callable[[], None]:
    """`layer(x)` is `then(x, y)` from here on, y what it gave before; returns what undoes it."""
    followed = _Followed(layer.forward, then)
    _set(layer, followed)
    return partial(_unfollow, layer, followed)


def replace(layer: nn.Module, own: Forward) -> Callable[[], None]:
    """Another way to the layer's own product, which is of its class; returns what undoes it."""
    _put(layer, own)
    return partial(_put, layer, type(layer).forward.__get__(layer))


def is_plain(layer: nn.Module) -> bool:
    """Whether its own product is still the one of its class."""
    followed = _innermost(layer)
    return _of_class(layer, layer.forward if followed is None else followed.own)


def _put(layer: nn.Module, own: Forward) -> None:
    followed = _innermost(layer)
    if followed is None:
        _set(layer, own)
    else:
        followed.own = own


def _set(layer: nn.Module, forward: Forward) -> None:
    """Nothing stays on the layer when it is the forward of its class."""
    vars(layer).pop("forward", None)
    if not _of_class(layer, forward):
        layer.forward = forward


def _of_class(layer: nn.Module, forward: Forward) -> bool:
    return getattr(forward, "__func__", None) is type(layer).forward


def _innermost(layer: nn.Module) -> _Followed | None:
    inner, forward = None, vars(layer).get("forward")
    while isinstance(forward, _Followed):
        inner, forward = forward, forward.own
    return inner


def _unfollow(layer: nn.Module, followed: _Followed) -> None:
    outer = vars(layer).get("forward")
    if outer is followed:
        _set(layer, followed.own)
    while isinstance(outer, _Followed):
        if outer.own is followed:
            outer.own = followed.own
        outer = outer.own
