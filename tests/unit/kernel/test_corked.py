"""Heads of answers wait for what follows them at once, and for nothing else."""

import asyncio

import pytest

from backstay.kernel.corked import Corked

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Wire:
    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed_after: int | None = None

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.closed_after = len(self.sent)

    def is_closing(self) -> bool:
        return self.closed_after is not None


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
async def corked(wire):
    return Corked(wire, asyncio.get_running_loop())


async def test_a_head_and_its_body_are_one_write(wire, corked):
    corked.write(HEAD)
    corked.write(b"ok")
    await asyncio.sleep(0)
    assert wire.sent == [HEAD + b"ok"]


async def test_a_head_alone_leaves_at_the_end_of_the_turn(wire, corked):
    corked.write(HEAD)
    await asyncio.sleep(0)
    corked.write(b"ok")
    assert wire.sent == [HEAD, b"ok"]


async def test_a_long_body_is_not_copied_behind_its_head(wire, corked):
    body = b"x" * 100_000
    corked.write(HEAD)
    corked.write(body)
    assert wire.sent == [HEAD, body]
    assert wire.sent[1] is body


async def test_the_head_of_the_next_answer_does_not_wait_for_the_last_ones(wire, corked):
    for _ in range(2):
        corked.write(HEAD)
        corked.write(b"ok")
    assert wire.sent == [HEAD + b"ok"] * 2


async def test_closing_sends_the_head_first(wire, corked):
    corked.write(HEAD)
    corked.close()
    await asyncio.sleep(0)
    assert (wire.sent, wire.closed_after, corked.is_closing()) == ([HEAD], 1, True)
