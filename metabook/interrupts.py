"""Ctrl-C and SIGTERM wait for the end of a step, so that a run stops where it can be continued."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from metabook.history import History

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A run was stopped by Ctrl-C or SIGTERM, at the end of a step.

    history: of all steps up to and including that one.
    """

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history


class DeferredInterrupts:
    """Within this context the first Ctrl-C or SIGTERM only sets `requested`; a second one raises KeyboardInterrupt.

    Signals that are ignored stay ignored.  Outside the main thread, where Python delivers no signals, nothing changes.
    The former handlers are back afterwards, and receive a signal that came too late for anybody to act on it.
    """

    def __init__(self) -> None:
        self.requested = False
        self._former: dict[int, object] = {}
        self._received: int | None = None

    def __enter__(self) -> DeferredInterrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: not set from Python
                    self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        if self._received is not None and kind is None:
            signal.raise_signal(self._received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt("interrupted twice: stopped in the middle of a step")
        self.requested, self._received = True, number
