"""The order of activations against one long stream, and the split into training and test."""

import numpy as np
import pytest

from toysae import ToysaeError
from toysae.lm.capture.stream import Stream, split_off

COUNTS = np.random.default_rng(0).integers(1, 9, 40)
SOME = np.random.default_rng(1).permutation(40)[:31]  # in no order


class Memory:
    """Rows (sequence, position), and what was asked for."""

    d, dtype = 2, np.float32

    def __init__(self, counts=COUNTS):
        self.counts, self.asked = counts, []

    def read(self, sequences):
        self.asked.append(int(self.counts[sequences].sum()))
        return rows_of(self.counts, sequences)


def rows_of(counts, sequences):
    return np.array([(i, p) for i in sequences for p in range(counts[i])], np.float32)


def stream_of(seed=3, buffer_rows=30, source=None):
    return Stream(source or Memory(), SOME, seed, buffer_rows)


def in_order(rows):
    return rows[np.lexsort(rows.T[::-1])]


def in_batches(stream, size, n):
    return np.concatenate([stream.rows(i, min(size, n - i)) for i in range(0, n, size)])


@pytest.mark.parametrize("buffer_rows", [1, 7, 30, 10_000])
@pytest.mark.parametrize(("seed", "size"), [(0, 1), (1, 13), (2, 64), (3, 1000)])
def test_every_row_comes_once_an_epoch(buffer_rows, seed, size):
    stream = stream_of(seed, buffer_rows)
    n = int(COUNTS[SOME].sum())
    assert stream.n_rows == n and n % 13 and n % 64
    rows = in_batches(stream, size, 3 * n)
    assert rows.dtype == np.float32
    wanted = in_order(rows_of(COUNTS, SOME))
    epochs = rows.reshape(3, n, 2)
    for epoch in epochs:
        np.testing.assert_array_equal(in_order(epoch), wanted)
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert (epochs[one] != epochs[other]).any()


@pytest.mark.parametrize("buffer_rows", [1, 30, 10_000])
def test_any_place_can_be_gone_to_at_once(buffer_rows):
    n = int(COUNTS[SOME].sum())
    whole = stream_of(buffer_rows=buffer_rows).rows(0, 3 * n)
    rng, wandering = np.random.default_rng(2), stream_of(buffer_rows=buffer_rows)
    for _ in range(40):
        start, length = rng.integers(0, [2 * n, n]).tolist()
        np.testing.assert_array_equal(wandering.rows(start, length), whole[start : start + length])
    for start in (n - 1, n, 2 * n - 3):
        fresh = stream_of(buffer_rows=buffer_rows)
        np.testing.assert_array_equal(fresh.rows(start, 9), whole[start : start + 9])


def test_the_order_follows_from_the_seed():
    n = stream_of().n_rows
    one, same, other = (stream_of(seed).rows(0, n) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any(1).mean() > 0.9


def test_each_epoch_fills_its_buffers_from_other_sequences():
    class Telling(Memory):
        def read(self, sequences):
            self.asked.append(frozenset(sequences.tolist()))
            return rows_of(self.counts, sequences)

    source = Telling(np.full(40, 5))
    in_batches(Stream(source, np.arange(40), 0, 50), 10, 600)
    assert len(source.asked) == 12 == len(set(source.asked))
    for epoch in range(3):
        assert frozenset().union(*source.asked[4 * epoch : 4 * epoch + 4]) == set(range(40))


def test_sequences_and_their_rows_are_mixed():
    """A buffer holds sequences from anywhere, and their rows lie in no order."""
    counts = np.full(400, 5)
    rows = Stream(Memory(counts), np.arange(400), 0, 200).rows(0, 2000)
    seq, pos = rows.T
    for b in range(10):
        own = seq[200 * b : 200 * (b + 1)]
        assert len(set(own)) == 40 and np.ptp(own) > 200
        assert np.abs(np.corrcoef(np.arange(200), own)[0, 1]) < 0.3
    assert (np.diff(pos) == 1).mean() < 0.3  # 4 of 5 as they were read
    assert (np.diff(seq) == 0).mean() < 0.1


@pytest.mark.parametrize("buffer_rows", [1, 7, 50, 500])
def test_no_more_is_read_at_once_than_a_buffer_holds(buffer_rows):
    source = Memory(np.full(100, 6))
    stream = Stream(source, np.arange(100), 0, buffer_rows)
    in_batches(stream, 17, 900)
    assert max(source.asked) <= max(buffer_rows, 6)
    assert max(source.asked) > buffer_rows - 6
    # In order, each buffer is read once: 600 rows an epoch.
    per_buffer = max(1, buffer_rows // 6)
    half = -(-50 // per_buffer)
    assert len(source.asked) == -(-100 // per_buffer) + half


def test_sequences_of_any_length_give_a_buffer_of_about_that_many_rows():
    source = Memory()
    stream_of(buffer_rows=40, source=source).rows(0, 400)
    mean, largest = COUNTS[SOME].mean(), int(COUNTS[SOME].max())
    assert max(source.asked) <= 40 * largest / mean
    assert np.mean(source.asked) == pytest.approx(40, abs=largest)


def test_streams_of_nothing_are_refused():
    with pytest.raises(ToysaeError, match="there are no activations to train on"):
        Stream(Memory(np.zeros(4, int)), np.arange(4), 0)
    with pytest.raises(ToysaeError, match="no activations to train on"):
        Stream(Memory(), np.arange(0), 0)
    with pytest.raises(ToysaeError, match="buffer_rows 0 must be at least 1"):
        stream_of(buffer_rows=0)


def test_sequences_without_rows_are_passed_over():
    counts = np.where(np.arange(30) % 3, 4, 0)
    for seed in range(5):
        rows = Stream(Memory(counts), np.arange(30), seed, 9).rows(0, 80)
        np.testing.assert_array_equal(in_order(rows), rows_of(counts, range(30)))


# What is held out


@pytest.mark.parametrize("wanted", [1, 5, 17, 10**9])
def test_what_is_held_out_is_disjoint_and_about_as_much_as_asked(wanted):
    train, held_out = split_off(COUNTS, wanted)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held_out])), np.arange(40))
    for part in (train, held_out):
        assert len(part) and (np.diff(part) > 0).all()
    enough = min(wanted, 0.1 * COUNTS.sum())
    assert enough <= COUNTS[held_out].sum() < enough + COUNTS.max()


def test_the_split_is_the_same_however_often_asked_and_grows_in_place():
    """More held out is what was held out, and more."""
    np.random.seed(7)  # noqa: NPY002  (no global state decides it)
    one = split_off(COUNTS, 5)[1]
    np.random.seed(8)  # noqa: NPY002
    assert set(one) < set(split_off(COUNTS, 17)[1])
    np.testing.assert_array_equal(one, split_off(COUNTS, 5)[1])


def test_some_of_every_text_is_left_to_train_on():
    for counts in ([3, 900], [900, 3]):
        train, held_out = split_off(np.array(counts), 10**9)
        assert len(train) == len(held_out) == 1
    for n in (0, 1):
        with pytest.raises(ToysaeError, match=f"{n} sequences cannot be split"):
            split_off(np.full(n, 100))
