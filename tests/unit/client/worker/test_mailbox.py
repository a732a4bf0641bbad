"""Items from many threads to one loop."""

import asyncio
import threading

from stepstream.worker.mailbox import Mailbox


async def test_every_item_of_every_thread_arrives_in_its_order() -> None:
    received: list[tuple[int, int]] = []
    done = asyncio.Event()

    def deliver(items: list[tuple[int, int]]) -> None:
        received.extend(items)
        if len(received) == 4000:
            done.set()

    mailbox = Mailbox(asyncio.get_running_loop(), deliver)

    def send(sender: int) -> None:
        for number in range(1000):
            mailbox.put((sender, number))

    threads = [threading.Thread(target=send, args=[sender]) for sender in range(4)]
    for thread in threads:
        thread.start()
    async with asyncio.timeout(10):
        await done.wait()

    for sender in range(4):
        assert [number for who, number in received if who == sender] == list(range(1000))


async def test_a_burst_is_one_delivery() -> None:
    deliveries: list[list[int]] = []
    done = asyncio.Event()
    mailbox: Mailbox[int] = Mailbox(
        asyncio.get_running_loop(), lambda items: (deliveries.append(items), done.set())[1]
    )

    for number in range(10):
        mailbox.put(number)
    await done.wait()

    assert deliveries == [list(range(10))]


def test_a_closed_loop_gets_nothing() -> None:
    loop = asyncio.new_event_loop()
    loop.close()

    Mailbox(loop, print).put("lost")
