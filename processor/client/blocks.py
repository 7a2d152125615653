"""Which block `async with tail.run()` (or `with tail.sync.run()`) the present code stands in."""

from __future__ import annotations

import asyncio
import os
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from processor.client.calling import Executing, executing

if TYPE_CHECKING:
    from processor.client.run import Run

__all__ = ["Block", "block", "enter_block", "leave_block"]


class Block(NamedTuple):
    """An entered run. around: the execution that the block stands in; another one that began inside of it is further in."""

    run: Run[Any]
    loop: asyncio.AbstractEventLoop
    around: Executing | None
    before: Block | None


_block: ContextVar[Block | None] = ContextVar("tailrace_block", default=None)


def block() -> Block | None:
    """The innermost block that has not been left; None outside."""
    here = _block.get()
    while here is not None and here.run._execution is None:  # left elsewhere, as by a task that copied the context
        here = here.before
    return here


def enter_block(run: Run[Any], loop: asyncio.AbstractEventLoop) -> None:
    _block.set(Block(run, loop, executing(), _block.get()))


def leave_block(run: Run[Any]) -> None:
    """Nothing happens in a context that it was not entered in."""
    here = _block.get()
    if here is not None and here.run is run:
        _block.set(here.before)


def _in_child() -> None:
    """After a fork() the block is the parent's."""
    _block.set(None)


os.register_at_fork(after_in_child=_in_child)
