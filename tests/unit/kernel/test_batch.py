import asyncio

import pytest

from backstay.kernel.batch import Batcher, Stopped


async def test_while_one_group_is_written_the_next_one_gathers():
    groups, gate = [], asyncio.Event()

    async def write(items):
        groups.append(items)
        await gate.wait()
        return [item * 2 for item in items]

    batcher = Batcher("test", write, most=3)
    first = batcher.submit(0)
    await asyncio.sleep(0)
    rest = [batcher.submit(n) for n in range(1, 6)]
    gate.set()
    assert await asyncio.gather(first, *rest) == [0, 2, 4, 6, 8, 10]
    assert groups == [[0], [1, 2, 3], [4, 5]]


async def test_a_failure_is_for_the_one_that_caused_it():
    async def write(items):
        if "bad" in items:
            raise ValueError("bad")
        return [KeyError(item) if item == "no" else item for item in items]

    batcher = Batcher("test", write)
    results = await asyncio.gather(*map(batcher.submit, ["a", "bad", "no", "b"]), return_exceptions=True)
    assert [type(result) for result in results] == [str, ValueError, KeyError, str]


async def test_stopping_writes_what_waits_and_takes_no_more():
    async def write(items):
        await asyncio.sleep(0)
        return items

    batcher = Batcher("test", write)
    waiting = [batcher.submit(n) for n in range(3)]
    await batcher.stop()
    assert [future.result() for future in waiting] == [0, 1, 2]
    with pytest.raises(Stopped):
        batcher.submit(3)


async def test_a_crowd_in_step_is_split_so_that_one_half_is_written_while_the_other_works():
    groups = []

    async def write(items):
        groups.append(len(items))
        for _ in range(5):  # a database takes longer than it takes to ask again
            await asyncio.sleep(0)
        return items

    async def again_and_again(number):
        for _ in range(6):
            await batcher.submit(number)

    batcher = Batcher("test", write, most=512, lanes=2)
    await asyncio.gather(*map(again_and_again, range(200)))
    assert sum(groups) == 1_200
    assert groups[0] == 200
    assert max(groups[1:]) < 200


async def test_a_lane_that_is_cancelled_between_two_halves_leaves_nobody_waiting():
    async def write(items):
        return items

    batcher = Batcher("test", write, most=512, lanes=2)
    waiting = [batcher.submit(number) for number in range(200)]
    await waiting[0]
    for runner in batcher._runners:
        runner.cancel()
    assert await asyncio.wait_for(asyncio.gather(*waiting), 5) == list(range(200))


async def test_what_came_of_an_item_is_told_also_when_nobody_waits_for_it():
    gate, told = asyncio.Event(), []

    async def write(items):
        await gate.wait()
        return [KeyError(item) if item == "no" else item for item in items]

    batcher = Batcher("test", write)
    left = batcher.submit("left", told.append)
    batcher.post("posted", told.append)
    batcher.post("no", told.append)
    await asyncio.sleep(0)
    left.cancel()
    gate.set()
    await batcher.stop()
    assert told[:2] == ["left", "posted"]
    assert isinstance(told[2], KeyError)


async def test_who_waits_too_long_is_told_so_and_the_item_is_written_all_the_same():
    gate, told = asyncio.Event(), []

    async def write(items):
        await gate.wait()
        return items

    batcher = Batcher("test", write, most=1, patience=0.01)
    waiting = [batcher.submit(n, told.append) for n in range(3)]  # one on its way, two behind it
    for future in waiting:
        with pytest.raises(TimeoutError):
            await future
    late = batcher.submit(3, told.append)
    gate.set()
    assert await late == 3
    assert told == [0, 1, 2, 3]
