"""The link against a server that answers what the test says."""

import asyncio
import itertools
import re
import time
from contextlib import asynccontextmanager, suppress

import pytest
from redis import exceptions as redis_errors

from stepstream.errors import StepstreamError, StoreBusy, StoreUnavailable
from stepstream_dispatcher.store import redis_link
from stepstream_dispatcher.store.port import StoreUnreachable
from stepstream_dispatcher.store.redis_link import TRIES, Link, StoreClock

COMMAND = re.compile(rb"\*\d+\r\n\$\d+\r\n(\w+)")
LATE = b"+of another\r\n"  # sent only when the connection is used again
LATER = b"+late\r\n"  # sent a while after the replies before it
LATER_S = 0.3
BREAK = b""  # in place of a reply: the connection is closed


class Server:
    """Answers GET by a script and everything else, the driver's greetings, by OK."""

    def __init__(self, answers):
        self.answers = iter([*answers, *itertools.repeat(b"+end\r\n", 99)])
        self.asked = 0
        self.connections = set()
        self.got_late = asyncio.Event()
        self.answering = asyncio.Event()  # answers wait while it is clear
        self.answering.set()
        self.got_asked = asyncio.Event()

    async def serve(self, reader, writer):
        self.connections.add(asyncio.current_task())
        try:
            await self.answer(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def answer(self, reader, writer):
        while chunk := await reader.read(1 << 16):
            replies = [self.reply_to(name) for name in COMMAND.findall(chunk)]
            if BREAK in replies:
                break
            if b"GET" in COMMAND.findall(chunk):
                await self.answering.wait()
            if LATE in replies:
                self.got_late.set()
                replies += [await reader.read(1 << 16) and LATE, b"+own\r\n"]
                replies.remove(LATE)
            if LATER in replies:
                asyncio.get_running_loop().call_later(LATER_S, writer.write, replies.pop())
            writer.write(b"".join(replies))
            await writer.drain()

    def reply_to(self, name):
        if name != b"GET":
            return b"+PONG\r\n" if name == b"PING" else b"+OK\r\n"
        self.asked += 1
        self.got_asked.set()
        return next(self.answers)


@asynccontextmanager
async def linked(*answers):
    scripted = Server(answers)
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        link = Link(f"redis://127.0.0.1:{port}", connections_max=2, name="test")
        try:
            yield link, scripted
        finally:
            await link.close()
            await asyncio.wait(scripted.connections, timeout=5)


async def test_nothing_is_asked_with_nothing():
    async with linked() as (link, server):
        assert await link.ask() == []
        assert server.connections == set()
        await link.ask(("GET", "x"))


async def test_a_reply_is_given_raw():
    async with linked(b"$3\r\n\x00\xff1\r\n") as (link, _):
        assert await link.ask(("GET", "x")) == [b"\x00\xff1"]


@pytest.mark.parametrize(
    "answer",
    [
        BREAK,
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-READONLY You can't write against a read only replica.\r\n",
        b"-BUSY Redis is busy running a script.\r\n",
        b"-MASTERDOWN Link with MASTER is down\r\n",
    ],
)
async def test_a_passing_trouble_is_waited_out(answer):
    async with linked(answer, answer, b"+done\r\n") as (link, server):
        assert await link.ask(("GET", "x")) == [b"done"]
        assert server.asked == 3


@pytest.mark.parametrize("answer", [b"-LOADING Redis is loading\r\n", b"-BUSY a script runs\r\n"])
async def test_a_trouble_that_stays_says_that_nothing_was_done(answer):
    async with linked(*[answer] * TRIES) as (link, server):
        with pytest.raises(StoreUnreachable):
            await link.ask(("GET", "x"))
        assert server.asked == TRIES


async def test_a_lost_reply_among_refusals_leaves_the_outcome_open():
    refusal = b"-LOADING Redis is loading\r\n"
    async with linked(BREAK, refusal, refusal) as (link, _):
        with pytest.raises(StoreUnavailable) as caught:
            await link.ask(("GET", "x"))

    assert caught.type is StoreUnavailable


@pytest.mark.parametrize(
    "answer",
    [b"-MISCONF Errors writing to the AOF file\r\n", b"-NOREPLICAS Not enough good replicas\r\n"],
)
async def test_what_an_operator_must_mend_is_not_repeated(answer):
    async with linked(answer) as (link, server):
        with pytest.raises(StoreUnavailable, match="redis refuses"):
            await link.ask(("GET", "x"))
        assert server.asked == 1


async def test_an_error_of_one_command_leaves_the_connection_in_step():
    async with linked(b"-ERR no\r\n", b"+second\r\n", b"+third\r\n") as (link, _):
        with pytest.raises(redis_errors.ResponseError, match="no"):
            await link.ask(("GET", "x"), ("GET", "y"))

        assert await link.ask(("GET", "z")) == [b"third"]


async def test_each_reply_has_its_time_however_long_the_sending_took(monkeypatch):
    monkeypatch.setattr(redis_link, "REPLY_TIMEOUT_S", 0.5)
    pack = redis_link._pack

    def pack_slowly(command):
        until = time.monotonic() + 0.2
        while time.monotonic() < until:  # the process is kept from running
            pass
        return pack(command)

    async with linked(b"+one\r\n") as (link, server):
        await link.ask(("GET", "x"))  # connects
        monkeypatch.setattr(redis_link, "_pack", pack_slowly)
        server.answers = iter([b"+two\r\n", LATER])

        assert await link.ask_once(("GET", "x"), ("GET", "x")) == [b"two", b"late"]


async def test_a_cancelled_caller_never_gives_its_reply_to_another():
    async with linked(LATE, b"+own\r\n") as (link, server):
        async with asyncio.TaskGroup() as group, asyncio.timeout(5):
            asking = group.create_task(link.ask_once(("GET", "x")))
            await server.got_late.wait()
            asking.cancel()

        assert await link.ask(("GET", "y")) == [b"own"]


async def test_nobody_there_means_that_nothing_was_sent(unused_tcp_port):
    link = Link(f"redis://127.0.0.1:{unused_tcp_port}", connections_max=1, name="test")

    with pytest.raises(StoreUnreachable):
        await link.ask(("GET", "x"))
    await link.close()


# --- more calls than connections -----------------------------------------------------------------

CALLS = 2_000


async def ask_many(link, count=CALLS):
    """What each of many calls at once came to: its reply, or the kind of its error."""

    async def ask():
        try:
            return (await link.ask(("GET", "x")))[0]
        except StepstreamError as error:
            return type(error)

    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(ask()) for _ in range(count)]
    return [each.result() for each in asking]


async def test_calls_beyond_the_connections_wait_their_turn(monkeypatch):
    monkeypatch.setattr(redis_link, "SLOT_WAIT_S", 30.0)
    async with linked(*[b"+done\r\n"] * CALLS) as (link, server):
        assert set(await ask_many(link)) == {b"done"}
        assert server.asked == CALLS
        assert len(server.connections) == 2


async def test_calls_that_find_no_connection_are_told_that_the_store_is_busy(monkeypatch):
    monkeypatch.setattr(redis_link, "SLOT_WAIT_S", 0.2)
    async with linked() as (link, server), asyncio.TaskGroup() as group:
        server.answering.clear()
        first = group.create_task(ask_many(link, 2))
        await server.got_asked.wait()

        assert set(await ask_many(link)) == {StoreBusy}

        server.answering.set()
        assert await first == [b"end", b"end"]
        assert await ask_many(link, 2) == [b"end", b"end"]


async def test_a_busy_store_says_when_to_try_again_and_is_no_outage(monkeypatch):
    monkeypatch.setattr(redis_link, "SLOT_WAIT_S", 0.05)
    async with linked() as (link, server), asyncio.TaskGroup() as group:
        server.answering.clear()
        group.create_task(ask_many(link, 2))
        await server.got_asked.wait()

        with pytest.raises(StoreBusy) as caught:
            await link.ask(("GET", "x"))
        server.answering.set()

    assert not isinstance(caught.value, StoreUnavailable)
    assert caught.value.retry_after_s == redis_link.BUSY_RETRY_S


async def test_calls_behind_those_that_nobody_answers_are_told_the_same(monkeypatch):
    monkeypatch.setattr(redis_link, "SLOT_WAIT_S", 2.0)
    monkeypatch.setattr(redis_link, "REPLY_TIMEOUT_S", 0.1)
    async with linked() as (link, server):
        server.answering.clear()

        assert set(await ask_many(link)) == {StoreUnavailable}
        server.answering.set()


async def test_no_call_is_told_busy_while_nobody_listens(unused_tcp_port):
    link = Link(f"redis://127.0.0.1:{unused_tcp_port}", connections_max=2, name="test")

    assert set(await ask_many(link)) == {StoreUnreachable}
    await link.close()


async def test_a_caller_that_gives_up_waiting_takes_no_turn():
    async with linked() as (link, server), asyncio.TaskGroup() as group:
        server.answering.clear()
        first = group.create_task(ask_many(link, 2))
        await server.got_asked.wait()
        gone = [group.create_task(link.ask(("GET", "x"))) for _ in range(9)]
        await asyncio.sleep(0)
        for each in gone:
            each.cancel()
        server.answering.set()

        assert await first == [b"end", b"end"]
        assert await ask_many(link, 4) == [b"end"] * 4


def test_the_clock_follows_redis_from_the_middle_of_a_round_trip():
    now = [100.0]
    clock = StoreClock(lambda: now[0])

    now[0] = 100.2
    clock.observe(b"1800000000", b"500000", sent_mono=100.0)

    assert clock.now_ms() == 1_800_000_000_600


def test_the_clock_prefers_short_round_trips_for_a_second():
    now = [100.0]
    clock = StoreClock(lambda: now[0])
    clock.observe(b"1800000000", b"0", sent_mono=100.0)

    now[0] = 100.8
    clock.observe(b"1800000000", b"0", sent_mono=100.0)
    assert clock.now_ms() == 1_800_000_000_800

    now[0] = 102.0
    clock.observe(b"1800000009", b"0", sent_mono=101.0)
    assert clock.now_ms() == 1_800_000_009_500
