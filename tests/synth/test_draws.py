"""Draws: integers that depend on nothing but the stream's name."""

from collections import Counter

import numpy as np
import pytest

from pipeline.synth.draws import Draws


def test_equal_names_give_equal_streams_and_other_names_others() -> None:
    same = [[Draws(1, 2, 3).below(1 << 40) for _ in range(2)] for _ in range(2)]
    assert same[0] == same[1]
    assert Draws(1, 2, 3).below(1 << 40) != Draws(1, 2, 4).below(1 << 40)
    assert Draws(1, 2, 3).below(1 << 40) != Draws(1, 3, 2).below(1 << 40)


def test_a_draw_is_the_top_of_the_raw_bits() -> None:
    raw = np.random.PCG64(np.random.SeedSequence([9, 9])).random_raw(3)
    draws = Draws(9, 9)
    assert [draws.below(1000) for _ in range(3)] == [int(bits) * 1000 // 2**64 for bits in raw]


@pytest.mark.parametrize("bound", [1, 2, 7, 1000])
def test_all_values_below_a_bound_come_about_as_often(bound: int) -> None:
    draws = Draws(bound)
    counts = Counter(draws.below(bound) for _ in range(200 * min(bound, 10)))
    assert set(counts) <= set(range(bound))
    if bound <= 10:
        assert min(counts.values()) > 130
        assert len(counts) == bound


def test_between_takes_both_ends_and_an_empty_range_its_low_end() -> None:
    draws = Draws(4)
    assert {draws.between(-1, 1) for _ in range(60)} == {-1, 0, 1}
    assert draws.between(5, 3) == 5


def test_chance_is_never_at_zero_always_at_one_and_close_in_between() -> None:
    draws = Draws(5)
    assert not any(draws.chance(0.0) for _ in range(100))
    assert all(draws.chance(1.0) for _ in range(100))
    assert 230 < sum(draws.chance(0.25) for _ in range(1000)) < 275


def test_by_weight_orders_all_keys_of_positive_weight() -> None:
    draws = Draws(6)
    firsts = Counter(draws.by_weight({"a": 3.0, "b": 1.0, "never": 0.0})[0] for _ in range(1000))
    assert set(firsts) == {"a", "b"}
    assert 700 < firsts["a"] < 800
    assert sorted(draws.by_weight({"a": 1e-6, "b": 1.0, "c": 0.0})) == ["a", "b"]


def test_shuffled_keeps_all_values_and_leaves_the_input() -> None:
    values = list(range(20))
    assert sorted(Draws(7).shuffled(values)) == values
    assert Draws(7).shuffled(values) != values == list(range(20))


def test_a_lattice_holds_bytes_of_its_size() -> None:
    lattice = Draws(8).lattice(30, 40)
    assert lattice.shape == (30, 40)
    assert (lattice.min(), lattice.max()) == (0, 255)
    assert 120 < lattice.mean() < 135


def test_noise_takes_the_raw_bits_byte_by_byte_lowest_first() -> None:
    raw = np.random.PCG64(np.random.SeedSequence([8])).random_raw(2)
    expected = b"".join(int(word).to_bytes(8, "little") for word in raw)[:15]
    assert Draws(8).noise(3, 5).tobytes() == expected
