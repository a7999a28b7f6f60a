"""Who makes room, and when."""

import asyncio
from functools import partial

import pytest

from media_callbacks.edge.admin_protocol import in_turns
from media_callbacks.edge.connections import NEVER, Connections, Turns


class Client:
    def __init__(self, silent_since: float, *, is_working: bool = False, deadline: float = NEVER) -> None:
        self.silent_since = silent_since
        self.is_working = is_working
        self.deadline = deadline
        self.ended: str | None = None

    def expire(self) -> None:
        self.ended = "expired"
        self.deadline = NEVER

    def evict(self) -> None:
        self.ended = "evicted"


async def until(condition) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - timers are what is tested
            await asyncio.sleep(0.005)


async def test_those_that_were_silent_longest_make_room_and_none_that_waits_for_an_answer():
    connections = Connections(limit=3, tick_s=60)
    working, old, middle, young, newest = clients = [
        Client(1, is_working=True),
        Client(2),
        Client(3),
        Client(4),
        Client(5),
    ]
    for client in clients:
        connections.add(client)
    # Not at once: their requests may be on the way.
    assert [client.ended for client in clients] == [None] * 5
    await until(lambda: old.ended is not None)
    assert [client.ended for client in clients] == [None, "evicted", "evicted", None, None]
    assert set(connections) == {working, young, newest}
    assert middle.ended == "evicted"


async def test_beyond_twice_the_limit_nothing_is_waited_for():
    connections = Connections(limit=3, tick_s=60)
    clients = [Client(number) for number in range(7)]
    for client in clients:
        connections.add(client)
    assert [client.ended for client in clients] == ["evicted"] * 4 + [None] * 3


async def test_whoever_is_over_time_is_told_so_once():
    connections = Connections(limit=3, tick_s=0.01)
    now = asyncio.get_running_loop().time()
    early, late = Client(now, deadline=now), Client(now, deadline=now + 3600)
    connections.add(early)
    connections.add(late)
    await until(lambda: early.ended is not None)
    assert (early.ended, late.ended) == ("expired", None)
    connections.remove(early)
    connections.remove(late)
    assert len(connections) == 0


async def due() -> None:
    """Let everything run that has become due."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_work_that_is_laid_up_is_done_a_few_pieces_at_a_time_with_rests(loop_clock):
    turns = Turns(each=2, rest_s=3600, monotonic=lambda: 0.0)
    done: list[int] = []
    seen: list[int] = []
    for number in range(5):
        turns.add(partial(done.append, number))
    for _ in range(3):
        await due()
        seen.append(len(done))
        loop_clock.skip(3600)
    assert done == [0, 1, 2, 3, 4]
    assert seen == [2, 4, 5]


async def test_work_that_comes_in_a_rest_waits_for_its_end(loop_clock):
    turns = Turns(each=2, rest_s=3600, monotonic=lambda: 0.0)
    done: list[int] = []
    turns.add(partial(done.append, 1))
    await due()
    turns.add(partial(done.append, 2))
    await due()
    assert done == [1]
    loop_clock.skip(3600)
    await due()
    assert done == [1, 2]
    loop_clock.skip(3600)
    await due()
    turns.add(partial(done.append, 3))
    await due()
    assert done == [1, 2, 3]


async def test_after_work_that_takes_long_the_others_have_twice_as_long(loop_clock):
    now, done = [0.0], []

    def take_long() -> None:
        now[0] += 1800
        done.append(now[0])

    turns = Turns(each=100, rest_s=0, monotonic=lambda: now[0])
    for _ in range(2):
        turns.add(take_long)
    await due()
    loop_clock.skip(3000)
    await due()
    assert done == [1800]
    loop_clock.skip(600)
    await due()
    assert done == [1800, 3600]


async def test_a_piece_of_work_that_fails_holds_up_no_other(loop_clock):
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
    turns = Turns(each=2, rest_s=3600, monotonic=lambda: 0.0)
    done: list[int] = []
    error = RuntimeError("a defect")

    def fail() -> None:
        raise error

    for piece in (fail, partial(done.append, 1), partial(done.append, 2)):
        turns.add(piece)
    await due()
    loop_clock.skip(3600)
    await due()
    assert done == [1, 2]
    assert failures == [error]


@pytest.mark.parametrize("closes_at", ["before", "meanwhile", "never"])
async def test_an_application_answers_only_while_the_connection_is_open(closes_at):
    """Where the server has answered in its place, another answer would be an error of ours."""
    is_closed = closes_at == "before"
    sent: list[object] = []
    received: list[int] = []

    async def app(scope, receive, send) -> None:
        nonlocal is_closed
        is_closed = closes_at == "meanwhile"
        await send({"type": "http.response.start"})

    async def receive():
        received.append(len(received))
        return {"type": "http.disconnect" if len(received) == 2 else "http.request"}

    async def send(message) -> None:
        sent.append(message)

    scope = {"type": "http", "state": {"is_closing": lambda: is_closed}}
    await in_turns(app, Turns(each=1))(scope, receive, send)
    assert len(sent) == (closes_at == "never")
    assert len(received) == (0 if closes_at == "never" else 2)
