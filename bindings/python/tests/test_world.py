"""Worlds: threads, and a carrier of Python functions, train as one process does."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import cavmae


def in_threads(work, count):
    """work(rank) in so many threads; what they returned, or raised."""
    results = [None] * count

    def one(rank):
        try:
            results[rank] = work(rank)
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


class Meeting:
    """Where ranks in threads of this process put arrays for one another."""

    def __init__(self, size):
        self.size, self.places, self.gate = size, [None] * size, threading.Barrier(size, timeout=20)

    def exchange(self, rank, array):
        self.places[rank] = array.copy()
        self.gate.wait()
        everybody = list(self.places)
        self.gate.wait()
        return everybody


class InMemory(cavmae.Carrier):
    name = "in memory"

    def __init__(self, meeting, rank):
        self.meeting, self.rank, self.closed = meeting, rank, False

    def all_reduce(self, data, bfloat16):
        assert not bfloat16
        data[:] = sum(self.meeting.exchange(self.rank, data))

    def reduce_scatter(self, send, receive, bfloat16):
        receive[:] = sum(rows[self.rank] for rows in self.meeting.exchange(self.rank, send))

    def all_gather(self, send, receive):
        receive[:] = np.stack(self.meeting.exchange(self.rank, send))

    def broadcast(self, data, root):
        data[:] = self.meeting.exchange(self.rank, data)[root]

    def barrier(self):
        self.meeting.exchange(self.rank, np.zeros(1))

    def abort(self):
        self.meeting.gate.abort()

    def close(self):
        self.closed = True


class Failing(InMemory):
    def all_gather(self, send, receive):
        raise ConnectionError("the cable is out")

    all_reduce = broadcast = barrier = reduce_scatter = all_gather


def train(context, world, clips, first, last):
    config = cavmae.Config("tiny", batch=4, lr=1e-3, context=context)
    config.set_world(world)
    assert config.world is world
    trainer = cavmae.Trainer(cavmae.Model(config), config)
    share = {name: np.ascontiguousarray(array[first:last]) for name, array in clips.items()}
    losses = [trainer.step(share).loss for _ in range(3)]
    return losses, trainer.model.parameters["modality_a"].copy()


def worlds_of(kind, contexts):
    if kind == "threads":
        return cavmae.World.threads(contexts)
    meeting = Meeting(len(contexts))
    return in_threads(
        lambda rank: cavmae.World(contexts[rank], InMemory(meeting, rank), rank, len(contexts)), len(contexts)
    )


@pytest.mark.parametrize("kind", ["threads", "python"])
def test_two_ranks_train_alike(kind, clips):
    contexts = [cavmae.Context(threads=1) for _ in range(2)]
    worlds = worlds_of(kind, contexts)
    assert [(world.rank, world.size) for world in worlds] == [(0, 2), (1, 2)]
    assert worlds[0].carrier == ("threads" if kind == "threads" else "in memory")
    (losses, parameter), (others, same) = in_threads(
        lambda rank: train(contexts[rank], worlds[rank], clips, 2 * rank, 2 * rank + 2), 2
    )
    assert losses == others and len(set(losses)) == 3
    np.testing.assert_array_equal(parameter, same)


def test_collectives_for_the_program():
    contexts = [cavmae.Context(threads=1) for _ in range(3)]
    worlds = cavmae.World.threads(contexts)

    def work(rank):
        world = worlds[rank]
        world.barrier()
        total = world.sum([rank, 1.0])
        everybody = world.gather(np.array([rank, 10 * rank], np.int32))
        data = np.full(3, float(rank))
        world.broadcast(data, root=2)
        return total.tolist(), everybody.tolist(), data.tolist()

    expected = ([3.0, 3.0], [[0, 0], [1, 10], [2, 20]], [2.0] * 3)
    assert in_threads(work, 3) == [expected] * 3


def test_a_failing_carrier_is_the_cause():
    contexts = [cavmae.Context(threads=1) for _ in range(2)]
    meeting = Meeting(2)
    carriers = [InMemory(meeting, 0), InMemory(meeting, 1)]
    worlds = in_threads(lambda rank: cavmae.World(contexts[rank], carriers[rank], rank, 2, timeout=3), 2)
    assert all(isinstance(world, cavmae.World) for world in worlds)
    carriers[1].__class__ = Failing
    results = in_threads(lambda rank: worlds[rank].barrier(), 2)
    assert all(isinstance(one, cavmae.CavmaeError) for one in results)
    assert "the cable is out" in str(results[1]) and isinstance(results[1].__cause__, ConnectionError)
    for world in worlds:
        world.close()
    assert carriers[0].closed and carriers[1].closed


def test_fail_tells_the_others():
    contexts = [cavmae.Context(threads=1) for _ in range(2)]
    worlds = cavmae.World.threads(contexts)
    told = in_threads(lambda rank: worlds[1].barrier() if rank else worlds[0].fail("out of coffee"), 2)
    assert told[0] is None and isinstance(told[1], cavmae.PeerError) and "out of coffee" in str(told[1])


def test_search_over_a_world():
    contexts = [cavmae.Context(threads=1) for _ in range(2)]
    worlds = cavmae.World.threads(contexts)
    rows = np.random.default_rng(0).standard_normal((20, 8), np.float32)

    def work(rank):
        index = cavmae.Index(np.ascontiguousarray(rows[10 * rank : 10 * rank + 10]), context=contexts[rank])
        return index.search(rows[3:5], k=4, world=worlds[rank]).ids.tolist()

    first, second = in_threads(work, 2)
    whole = cavmae.Index(rows).search(rows[3:5], k=4).ids.tolist()
    assert first == second == whole


def test_arguments():
    context = cavmae.Context(threads=1)
    with pytest.raises(ValueError, match="128 bytes"):
        cavmae.World.nccl(context, 0, 1, b"short")
    with pytest.raises(cavmae.CavmaeError):
        cavmae.nccl_id(context)
    with pytest.raises(cavmae.ArgumentError):
        cavmae.World.threads([])
