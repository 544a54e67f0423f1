"""Ctrl-C waits for the end of a step once, not twice; handlers come back; other threads are left alone."""

import signal
import threading

import pytest
from runs import press

from metabook.history import History
from metabook.interrupts import DeferredInterrupts, Interrupted


@pytest.fixture
def received():
    """Signals that reach the handlers of somebody else."""
    numbers = []
    former = {n: signal.signal(n, lambda number, _: numbers.append(number)) for n in (signal.SIGINT, signal.SIGTERM)}
    yield numbers
    for number, handler in former.items():
        signal.signal(number, handler)


def handlers():
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_stops_at_once(number, received):
    before = handlers()
    with pytest.raises(KeyboardInterrupt, match="twice"):
        with DeferredInterrupts() as interrupt:
            assert not interrupt.requested
            press(number)
            assert interrupt.requested
            press(signal.SIGINT)
    assert handlers() == before and received == []


def test_a_signal_that_nobody_acted_on_reaches_the_former_handler(received):
    with DeferredInterrupts():
        press(signal.SIGTERM)
        assert received == []
    assert received == [signal.SIGTERM]


def test_an_error_keeps_its_place_before_a_signal(received):
    with pytest.raises(ZeroDivisionError):
        with DeferredInterrupts():
            press()
            1 / 0  # noqa: B018
    assert received == []


def test_ignored_signals_stay_ignored(received):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup and shells do for background jobs
    with DeferredInterrupts() as interrupt:
        press()
        press()
        assert not interrupt.requested and signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_change_no_handlers(received):
    before, seen = handlers(), []

    def work():
        with DeferredInterrupts() as interrupt:
            seen.append((interrupt.requested, handlers() == before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, True)]


def test_interrupted_is_a_keyboard_interrupt_with_a_history():
    history = History(loss=[1.0], score=[1.0], tasks_per_second=[1.0])
    with pytest.raises(KeyboardInterrupt, match="after step 1") as caught:
        raise Interrupted("interrupted after step 1", history)
    assert caught.value.history is history
