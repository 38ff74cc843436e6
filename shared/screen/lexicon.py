"""Finding terms in folded text, however they are spelled.

The text is cut into tokens: runs of letters and runs of digits. A token that is a term as it stands is found
in one hash table. Every term is also stored under its *skeleton*: one letter for all that can be read as it,
runs of a letter reduced to one. From each token on, the skeletons are appended and looked up in a second hash
table for as long as the result begins some term. So "t.e.e.n", "te(en)", "t33n", "teeeen" and a mixed-script
spelling all meet the same entry, and a look-up costs the same whatever the number of terms. What is found
there is a candidate: `_reads_as` then compares the letters as written, so that "ten" or "shot a photo" is not
taken for a term.

Time is linear. A walk from a token goes no further than the longest term has letters (runs of one letter are
skipped over), which bounds the look-ups by a constant for each token; plain text needs less than one. What
costs more than a look-up is counted, and a text that asks for more of it than any prompt does is refused
(`MAX_TOKENS` and the limits below it).
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import compress
from operator import ne

from shared.screen import characters
from shared.screen.normalise import UnreadableError, fold, map_characters

MAX_TOKENS = 4_000
"""Tokens in one text; 10,000 characters of prompt hold up to 1,900."""
MAX_WORDS = 1_300
"""Words of interest (terms, members of classes) in one text; 10,000 characters of prompt hold up to 800."""
MAX_STEPS = 4_000
"""Look-ups from one token on to the next; prompts of that length ask for up to 1,250."""
MAX_CANDIDATES = 250
"""Places in one text that could be read as a term spelled otherwise; prompts of that length have up to 90."""

_LETTERS = (
    "a-zñ\u00df-\u00ff"  # Latin
    "\u0370-\u052f"  # Greek, Cyrillic
    "\u0620-\u064a\u066e-\u06d3\u06fa-\u06ff\u0750-\u077f"  # Arabic
    "\u0900-\u0963\u0970-\u097f"  # Devanagari
)
_ASCII_TOKEN = re.compile("([a-z]+|[0-9]+)")
_TOKEN = re.compile(f"([{_LETTERS}]+|[0-9]+)")
_SIGN_TOKEN = re.compile(f"([{_LETTERS}]+|[0-9]+|[{re.escape(characters.SIGNS)}])")
_RUN = re.compile(r"(.)\1*", re.DOTALL)
_SKELETON = dict(characters.SKELETON)
_LOOKS = {chr(code): look or "" for code, look in characters.SKELETON.items()}
# Shorter words are looked up as written only: too many texts hold their letters side by side.
_SHORTEST_RESPELLED = 3
_SHORTEST_RESPELLED_CLASS = 2
# A number glued to one of these counts people ("2girls"): it is neither a letter nor an age.
COUNTED = frozenset({"girl", "girls", "boy", "boys", "women", "men", "people"})
_STROKES = frozenset({("i", "l"), ("l", "i")})
# Letters of one run that stand apart ("t e e e n"); a longer run belongs to no word.
_LONGEST_RUN = 8


class Kind(Enum):
    """What a lexicon entry does when it is found."""

    REFUSE = "refuse"
    COMPOUND = "compound"
    """Refused where written as one word or spelled out; its parts side by side have entries of their own."""
    CLASS = "class"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class Entry:
    """One term. `labels` are the ids of its rules or the names of its classes."""

    compact: str
    kind: Kind
    labels: tuple[str, ...]
    breaks: frozenset[int]
    """Offsets in `compact` at which a new word of the phrase begins."""

    @property
    def words(self) -> tuple[str, ...]:
        """The words of the phrase."""
        bounds = (0, *sorted(self.breaks), len(self.compact))
        return tuple(self.compact[start:end] for start, end in itertools.pairwise(bounds))


Span = tuple[int, int, tuple[str, ...]]
"""Tokens from the first number up to, not including, the second, and the labels of what they are."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What stands in a text: refused terms, allowed compounds, members of word classes."""

    refused: list[Span] = field(default_factory=list)
    allowed: list[Span] = field(default_factory=list)
    classes: list[Span] = field(default_factory=list)

    def of(self, kind: Kind) -> list[Span]:
        """The list that entries of this kind belong to."""
        if kind is Kind.CLASS:
            return self.classes
        return self.allowed if kind is Kind.ALLOW else self.refused


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text cut up: `separators[i]` stands before `words[i]`, the last one after the last word."""

    words: Sequence[str]
    separators: Sequence[str]
    skeletons: Sequence[str]

    @classmethod
    def of(cls, folded: str, *, signs_are_letters: bool = False) -> Tokens:
        plain = _ASCII_TOKEN if folded.isascii() else _TOKEN
        pattern = _SIGN_TOKEN if signs_are_letters else plain
        pieces = pattern.split(folded)
        words = pieces[1::2]
        skeletons = skeleton("\n".join(words)).split("\n") if words else []
        return cls(words, pieces[0::2], skeletons)


@dataclass(frozen=True, slots=True)
class Lexicon:
    """All terms, as written (`words`) and under their skeletons (`table`)."""

    words: Mapping[str, tuple[Entry, ...]]
    table: Mapping[str, tuple[Entry, ...]]
    """A proper beginning of a skeleton maps to no entries."""
    natural_words: frozenset[str]
    """Words of a supported language whose letters could be taken for a stretched or swapped term."""
    natural_parts: frozenset[str]
    """Words that stand beside each other in plain language and together spell a term ("shot a")."""

    @classmethod
    def build(
        cls,
        terms: Iterable[tuple[str, Kind, str]],
        natural_words: Iterable[str],
        natural_parts: Iterable[str],
    ) -> Lexicon:
        """`terms` are (text, kind, label); texts are folded here, the same way as what they are compared to.

        Raises ValueError for a term without letters or digits.
        """
        labels: dict[tuple[tuple[str, ...], Kind], dict[str, None]] = {}
        for text, kind, label in terms:
            labels.setdefault((_words_of(text), kind), {})[label] = None
        written: dict[str, list[Entry]] = {}
        respelled: dict[str, list[Entry]] = {}
        for (words, kind), named in labels.items():
            entry = _entry(words, kind, tuple(named))
            if len(words) == 1:
                written.setdefault(entry.compact, []).append(entry)
            shortest = _SHORTEST_RESPELLED_CLASS if kind is Kind.CLASS else _SHORTEST_RESPELLED
            if len(words) > 1 or len(entry.compact) >= shortest:
                respelled.setdefault(skeleton(entry.compact), []).append(entry)
        table = {key: tuple(entries) for key, entries in respelled.items()}
        for key in respelled:
            for length in range(1, len(key)):
                table.setdefault(key[:length], ())
        return cls(
            words={word: tuple(entries) for word, entries in written.items()},
            table=table,
            natural_words=frozenset(map(fold, natural_words)),
            natural_parts=frozenset(map(fold, natural_parts)),
        )

    def find(self, tokens: Tokens) -> Findings:
        """Every entry that some run of tokens can be read as.

        Raises `UnreadableError` for a text that exceeds one of the limits above.
        """
        findings = Findings()
        written, respelled = self.words.get, self.table.get
        words, skeletons = tokens.words, tokens.skeletons
        count = len(words)
        if count > MAX_TOKENS:
            raise UnreadableError("too-dense")
        interesting = candidates = steps = 0
        for start, begun in enumerate(skeletons):
            plain = written(words[start])
            if plain is not None:
                interesting += 1
                for entry in plain:
                    findings.of(entry.kind).append((start, start + 1, entry.labels))
            if candidates > MAX_CANDIDATES or interesting > MAX_WORDS or steps > MAX_STEPS:
                raise UnreadableError("too-dense")
            entries = respelled(begun)
            if entries is None or (len(begun) == 1 and start and words[start] == words[start - 1]):
                continue
            end = start + 1
            length = len(words[start])
            grown = begun
            while True:
                for entry in entries:
                    if length >= len(entry.compact) and not (
                        end == start + 1 and words[start] == entry.compact
                    ):
                        candidates += 1
                        if self._reads_as(entry, tokens, start, end):
                            findings.of(entry.kind).append((start, end, entry.labels))
                # A run of one letter is taken in one step, or a long one would be compared again and again.
                reached = end
                while end < count and skeletons[end] == grown[-1] and end - reached < _LONGEST_RUN:
                    length += len(words[end])
                    end += 1
                steps += 1 + end - reached
                if end == reached + _LONGEST_RUN:
                    break
                if end == reached:
                    if end == count:
                        break
                    added = skeletons[end]
                    grown += added[1:] if added[0] == grown[-1] else added
                    entries = respelled(grown)
                    if entries is None:
                        break
                    length += len(words[end])
                    end += 1
        return findings

    def _reads_as(self, entry: Entry, tokens: Tokens, start: int, end: int) -> bool:
        compact = entry.compact
        if end == start + 1:
            word = tokens.words[start]
            if word == compact:
                return entry.kind is not Kind.ALLOW
            return (
                entry.kind is not Kind.ALLOW and word not in self.natural_words and _looks_like(word, compact)
            )
        parts = tokens.words[start:end]
        word = "".join(parts)
        inner = tokens.separators[start + 1 : end]
        if word == compact:
            if _aligned(parts, entry.breaks):
                return entry.kind is not Kind.ALLOW or all(gap in (" ", "-", "_", "") for gap in inner)
        elif entry.kind is Kind.ALLOW or not _looks_like(word, compact):
            return False
        return entry.kind is not Kind.ALLOW and self._split_on_purpose(parts, inner, entry)

    def _split_on_purpose(self, parts: Sequence[str], inner: Sequence[str], entry: Entry) -> bool:
        """Whether a word in pieces is one word, not several that happen to stand beside each other."""
        if all(len(part) == 1 for part in parts):
            return True
        # A hyphen at the end of a line is a division; any other separator with white space in it is prose.
        gaps = [any(map(str.isspace, gap)) and not (gap[0] in "-\u2010" and "\n" in gap) for gap in inner]
        if entry.kind is Kind.COMPOUND and any(gaps):
            return False
        bounds = (True, *gaps, True)
        if any(
            part.isdigit()
            and bounds[index]
            and (bounds[index + 1] or parts[index + 1] in COUNTED)
            and part not in entry.words
            for index, part in enumerate(parts)
        ):
            return False
        if not all(gaps):
            return True
        if len(parts) == len(entry.breaks) + 1 and entry.breaks:
            # As many pieces as the phrase has words: each piece is its word or they are other words.
            return all(map(self._respells, parts, entry.words))
        return not all(
            part in self.natural_parts
            or part in self.natural_words
            or part.isdigit()
            or _script(part[0]) != _script(entry.compact[0])
            for part in parts
        )

    def _respells(self, word: str, meant: str) -> bool:
        return word == meant or (
            len(word) >= len(meant)
            and word not in self.natural_words
            and skeleton(word) == skeleton(meant)
            and _looks_like(word, meant)
        )


def skeleton(text: str) -> str:
    """One letter for all that can be read as it, and runs of a letter reduced to one."""
    if text.isascii():
        return without_repeats(text.translate(_SKELETON))
    letters = set(text)
    if letters.isdisjoint(_LOOKS):
        return without_repeats(text)
    return without_repeats(map_characters(text, {letter: _LOOKS.get(letter, letter) for letter in letters}))


def without_repeats(text: str) -> str:
    """Every run of one character reduced to one."""
    return "".join(compress(text, map(ne, text, text[1:] + "\0")))


def _words_of(text: str) -> tuple[str, ...]:
    words = tuple(_TOKEN.findall(fold(text)))
    if not words:
        raise ValueError(f"the term {text!r} has no letters of a supported script")
    return words


def _entry(words: tuple[str, ...], kind: Kind, labels: tuple[str, ...]) -> Entry:
    breaks, offset = [], 0
    for word in words[:-1]:
        offset += len(word)
        breaks.append(offset)
    return Entry("".join(words), kind, labels, frozenset(breaks))


def _runs(word: str) -> Iterator[str]:
    for match in _RUN.finditer(word.translate(_SKELETON)):
        yield word[match.start() : match.end()]


@functools.lru_cache(maxsize=4_096)
def _runs_of_term(compact: str) -> tuple[str, ...]:
    """Cached: a pure function of a fixed set of terms."""
    return tuple(_runs(compact))


def _aligned(parts: Sequence[str], breaks: frozenset[int]) -> bool:
    if len(parts) != len(breaks) + 1:
        return False
    offset = 0
    for part in parts[:-1]:
        offset += len(part)
        if offset not in breaks:
            return False
    return True


def _looks_like(word: str, compact: str) -> bool:
    """Whether each letter of `word` can be read as its letter of the term, and none is missing."""
    letters = 0
    for written, meant in zip(_runs(word), _runs_of_term(compact), strict=True):
        if len(written) < len(meant):
            return False
        if "ñ" in meant and "ñ" not in written:
            return False
        if written.isalpha() and not _same_strokes(written, meant):
            return False
        for character in written:
            if character in meant:
                letters += character.isalpha()
            elif character.isalpha():
                if not _reads_for(character, meant):
                    return False
                letters += 1
    return letters > 0


def _same_strokes(written: str, meant: str) -> bool:
    """Whether i and l change places in one direction only: I for every l, but not "lily" for "illy"."""
    if len(written) != len(meant):
        return True
    return len({pair for pair in zip(written, meant, strict=True) if pair in _STROKES}) < len(_STROKES)


def _reads_for(character: str, meant: str) -> bool:
    if character in "il":
        return "i" in meant or "l" in meant
    if character == "ñ":
        return "n" in meant
    # A letter of the term's own script is that letter; one of another script is there for its looks.
    return all(_script(character) != _script(letter) for letter in meant)


def _script(character: str) -> int:
    code = ord(character)
    return 0 if code < 0x370 else 1 if code < 0x400 else 2 if code < 0x530 else code >> 8
