"""A cache bounded in bytes that forgets what was not used for the longest time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar


class HasBytes(Protocol):
    """A tensor, an array, or whatever else knows its size."""

    @property
    def nbytes(self) -> int: ...


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value", bound=HasBytes)


class ByteBoundedCache(Generic[Key, Value]):
    """Values by key, the least recently used ones dropped beyond `limit_bytes`.

    A value larger than the limit is handed out and not kept. `hits` and `misses` count the look-ups and may
    be read from any thread; everything else is for one.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.hits = 0
        self.misses = 0
        self.size_bytes = 0
        self._limit_bytes = limit_bytes
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def hit_rate(self) -> float:
        """Hits of all look-ups; 0.0 before the first."""
        return self.hits / max(1, self.hits + self.misses)

    def get_or_make(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value kept under `key`, or a new one from `make`. Nothing is kept where `make` raises."""
        if key in self._values:
            self.hits += 1
            self._values.move_to_end(key)
            return self._values[key]
        self.misses += 1
        value = make()
        if value.nbytes <= self._limit_bytes:
            self._values[key] = value
            self.size_bytes += value.nbytes
        while self.size_bytes > self._limit_bytes:
            _, oldest = self._values.popitem(last=False)
            self.size_bytes -= oldest.nbytes
        return value

    def clear(self) -> None:
        """Drop every value; the counts stay."""
        self._values.clear()
        self.size_bytes = 0
