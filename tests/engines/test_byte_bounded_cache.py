from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.engines.cache import ByteBoundedCache

Bytes = NDArray[np.uint8]


def size(number: int) -> Bytes:
    return np.zeros(number, np.uint8)


def test_a_value_is_made_once_while_it_is_kept() -> None:
    cache: ByteBoundedCache[str, Bytes] = ByteBoundedCache(10)
    first = cache.get_or_make("a", lambda: size(4))
    assert cache.get_or_make("a", lambda: pytest.fail("made again")) is first
    assert (cache.hits, cache.misses) == (1, 1)


def test_the_value_unused_for_longest_goes_first() -> None:
    cache: ByteBoundedCache[str, Bytes] = ByteBoundedCache(10)
    for key in "aba":
        cache.get_or_make(key, lambda: size(4))
    cache.get_or_make("c", lambda: size(4))
    cache.get_or_make("a", lambda: pytest.fail("a was used after b"))
    assert (len(cache), cache.size_bytes) == (2, 8)


def test_nothing_is_kept_of_what_could_not_be_made() -> None:
    cache: ByteBoundedCache[str, Bytes] = ByteBoundedCache(10)

    def fail() -> Bytes:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 (raised above, without a text)
        cache.get_or_make("a", fail)
    assert len(cache) == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30))), st.integers(0, 40))
def test_the_cache_never_holds_more_than_its_limit(uses: list[tuple[int, int]], limit: int) -> None:
    cache: ByteBoundedCache[int, Bytes] = ByteBoundedCache(limit)
    sizes: dict[int, int] = {}
    for key, number in uses:
        sizes.setdefault(key, number)
        assert cache.get_or_make(key, lambda key=key: size(sizes[key])).nbytes == sizes[key]  # type: ignore[misc]
        assert cache.size_bytes <= limit
    cache.clear()
    assert (len(cache), cache.size_bytes) == (0, 0)
