from __future__ import annotations

import asyncio
import itertools
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from raftcore.sim.loop import Livelock, Process, SimLoop


@pytest.fixture
def loop():
    """A loop with a seed."""
    made = SimLoop(random.Random(1))
    yield made
    made.close()


def test_time_jumps_to_the_next_timer(loop):
    """Nothing waits: an hour of sleep takes no time at all, and the clock shows it."""
    seen = []

    async def sleep():
        await asyncio.sleep(3600)
        seen.append(asyncio.get_running_loop().time())

    loop.spawn(Process("a"), sleep())
    loop.run_until(4000)

    assert [3600] == seen
    assert loop.now == 4000


def test_callbacks_of_one_process_keep_their_order(loop):
    """As asyncio promises, however the processes take turns."""
    seen = {"a": [], "b": [], "c": []}

    async def work(name):
        for number in range(50):
            asyncio.get_running_loop().call_soon(seen[name].append, number)

    for name in seen:
        loop.spawn(Process(name), work(name))
    loop.run_until(1)

    assert {name: list(range(50)) for name in "abc"} == seen


def order(seed):
    """How three processes take turns."""
    loop, seen = SimLoop(random.Random(seed)), []

    async def work(name):
        for _ in range(10):
            seen.append(name)
            await asyncio.sleep(0)

    for name in "abc":
        loop.spawn(Process(name), work(name))
    loop.run_until(1)
    loop.close()
    return "".join(seen)


def test_which_process_runs_next_is_drawn_from_the_seed():
    """One seed gives one order, and different seeds give different ones."""
    orders = {order(seed) for seed in range(10)}

    assert order(3) == order(3)
    assert len(orders) == 10


def test_a_paused_process_does_later_what_became_due_meanwhile(loop):
    """As after SIGSTOP and SIGCONT: its clock went on, and its timers fire at once."""
    process, seen = Process("a"), []

    async def tick():
        for _ in range(3):
            await asyncio.sleep(1)
            seen.append(asyncio.get_running_loop().time())

    loop.spawn(process, tick())
    loop.run_until(1.5)
    loop.pause(process)
    loop.run_until(10)
    paused = list(seen)
    loop.resume(process)
    loop.run_until(12)

    assert [1] == paused
    assert [1, 10, 11] == seen


def test_a_killed_process_never_runs_again(loop):
    """Neither its callbacks nor the clean-up of its tasks, until the loop itself is closed."""
    process, seen = Process("a"), []

    async def work():
        try:
            await asyncio.sleep(1)
            seen.append("worked")
        finally:
            seen.append("cleaned up")

    loop.spawn(process, work())
    loop.run_until(0.5)
    loop.kill(process)
    loop.run_until(10)

    assert [] == seen


def test_each_process_has_its_own_clock(loop):
    """One that runs fast, from another beginning, fires its timers early."""
    fast, seen = Process("fast", started_at=100.0, rate=2.0), []

    async def sleep():
        await asyncio.sleep(10)
        seen.append((asyncio.get_running_loop().time(), loop.now))

    loop.spawn(fast, sleep())
    loop.run_until(20)

    assert [(110, 5)] == seen


def test_a_clock_that_jumps_fires_what_is_due_by_it(loop):
    """A jump ahead makes timers due at once; a new rate counts from then on."""
    process, seen = Process("a"), []

    async def sleep():
        await asyncio.sleep(10)
        seen.append(loop.now)
        await asyncio.sleep(10)
        seen.append(loop.now)

    loop.spawn(process, sleep())
    loop.run_until(1)
    loop.set_clock(process, jump=20)
    loop.run_until(2)
    loop.set_clock(process, rate=0.5)
    loop.run_until(30)

    assert [1, 20] == seen


def test_a_timer_never_fires_before_its_time_by_the_clock_of_its_process(loop):
    """Rounding between clocks would make a timer early by a hair, and its owner would arm it again for ever."""
    process, early = Process("a", started_at=1 / 3, rate=1.0000123), []

    async def sleep():
        here = asyncio.get_running_loop()
        for step in range(1000):
            when = here.time() + 0.1 / (step + 3)
            fired = here.create_future()
            here.call_at(when, fired.set_result, None)
            await fired
            early.append(here.time() < when)

    loop.spawn(process, sleep())
    loop.run_until(100)

    assert [False] * 1000 == early


def test_calls_of_one_executor_queue_and_take_their_time(loop):
    """One thread makes one call at a time, in order; two threads make two."""
    process, seen = Process("a"), []
    process.latency = lambda: 1.0

    async def work(threads):
        executor = ThreadPoolExecutor(threads)
        here = asyncio.get_running_loop()
        started = here.time()
        await asyncio.gather(*(here.run_in_executor(executor, seen.append, number) for number in range(4)))
        seen.append(here.time() - started)

    loop.spawn(process, work(1))
    loop.run_until(10)
    loop.spawn(process, work(2))
    loop.run_until(20)

    assert [0, 1, 2, 3, 4.0, 0, 1, 2, 3, 2.0] == seen


def test_a_failure_in_an_executor_reaches_who_waits(loop):
    """And what the call did is finished first."""
    process, seen = Process("a"), []

    def fail():
        loop.when_finished(lambda: seen.append("finished"))
        raise ValueError("told to")

    async def work():
        with pytest.raises(ValueError, match="told to"):
            await asyncio.get_running_loop().run_in_executor(None, fail)
        seen.append("caught")

    loop.spawn(process, work())
    loop.run_until(1)

    assert ["finished", "caught"] == seen


def test_what_fails_unseen_is_reported(loop):
    """A callback that raises does not stop the loop, and is not lost either."""

    async def work():
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)

    loop.spawn(Process("a"), work())
    loop.run_until(1)

    (error,) = loop.errors
    assert "ZeroDivisionError" in error


def test_callbacks_that_schedule_each_other_for_ever_are_an_error(loop):
    """The time would stand still."""

    async def spin():
        for _ in itertools.count():
            await asyncio.sleep(0)

    loop.spawn(Process("a"), spin())

    with pytest.raises(Livelock, match="callbacks have run at 0"):
        loop.run_until(1)
