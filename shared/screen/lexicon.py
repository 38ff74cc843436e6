"""Finding terms in folded text, however they are spelled.

Every term is stored under its *skeleton*: one letter for all that can be read as it, runs of a letter reduced
to one. The text is cut into tokens (runs of letters, runs of digits), each token gets its skeleton, and from
each token on the skeletons are appended and looked up in one hash table, as long as the result is the
beginning of some term. So "t.e.e.n", "te(en)", "t33n", "teeeen" and a mixed-script spelling all meet the same
entry, and a hit costs one look-up whatever the number of terms. A hit is a candidate only: `_reads_as` then
compares the original letters, so that "ten" or "shot a photo" is not taken for a term.

Time is linear: a walk from a token goes at most as far as the longest term has letters (about 30; runs of one
letter are entered at their beginning only), so the work is bounded by that constant times the length of the
text, and in practice by two or three look-ups a token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from shared.screen import characters
from shared.screen.normalise import fold

_LETTERS = "a-zñ\u00df-\u00ff\u0370-\u052f\u0620-\u064a\u066e-\u06d3\u06fa-\u06ff\u0750-\u077f\u0900-\u0963\u0970-\u097f"
_ASCII_TOKEN = re.compile("([a-z]+|[0-9]+)")
_TOKEN = re.compile(f"([{_LETTERS}]+|[0-9]+)")
_SIGN_TOKEN = re.compile(f"([{_LETTERS}]+|[0-9]+|[{re.escape(characters.SIGNS)}])")
_DOUBLED = re.compile(r"([^\n])\1+")
_RUN = re.compile(r"(.)\1*", re.DOTALL)
_SKELETON = dict(characters.SKELETON)


class Kind(Enum):
    """What a lexicon entry does when it is found."""

    REFUSE = "refuse"
    CLASS = "class"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class Entry:
    """One spelling of one term. `label` is the rule's id or the class's name."""

    compact: str
    kind: Kind
    label: str
    breaks: frozenset[int]
    """Offsets in `compact` at which a new word of the phrase begins."""
    runs: tuple[tuple[frozenset[str], int], ...]


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens `start` up to, not including, `end` read as `entry`."""

    start: int
    end: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text cut up: `separators[i]` stands before `words[i]`, the last one after the last word."""

    words: tuple[str, ...]
    separators: tuple[str, ...]
    skeletons: tuple[str, ...]

    @classmethod
    def of(cls, folded: str, *, signs_are_letters: bool = False) -> Tokens:
        if signs_are_letters:
            pattern = _SIGN_TOKEN
        else:
            pattern = _ASCII_TOKEN if folded.isascii() else _TOKEN
        pieces = pattern.split(folded)
        words = pieces[1::2]
        skeletons = _DOUBLED.sub(r"\1", "\n".join(words).translate(_SKELETON)).split("\n") if words else []
        return cls(tuple(words), tuple(pieces[0::2]), tuple(skeletons))


@dataclass(frozen=True, slots=True)
class Lexicon:
    """All entries under their skeletons; a beginning of a skeleton maps to no entries."""

    table: Mapping[str, tuple[Entry, ...]]
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
        """`terms` are (text, kind, label); texts are folded here, the same way as what they are compared to."""
        table: dict[str, list[Entry]] = {}
        for text, kind, label in dict.fromkeys(terms):
            entry = _entry(text, kind, label)
            table.setdefault(skeleton(entry.compact), []).append(entry)
        frozen = {key: tuple(entries) for key, entries in table.items()}
        for key in table:
            for length in range(1, len(key)):
                frozen.setdefault(key[:length], ())
        return cls(frozen, frozenset(map(fold, natural_words)), frozenset(map(fold, natural_parts)))

    def spans(self, tokens: Tokens) -> list[Span]:
        """Every entry that some run of tokens can be read as."""
        found: list[Span] = []
        get = self.table.get
        skeletons = tokens.skeletons
        count = len(skeletons)
        previous = ""
        for start, begun in enumerate(skeletons):
            entries = get(begun)
            if entries is None or (begun == previous and len(begun) == 1):
                previous = begun
                continue
            previous = begun
            end = start + 1
            grown = begun
            while True:
                if entries:
                    for entry in entries:
                        if self._reads_as(entry, tokens, start, end):
                            found.append(Span(start, end, entry))
                # A run of one letter is taken in one step, or a long one would be compared again and again.
                reached = end
                while end < count and skeletons[end] == grown[-1]:
                    end += 1
                if end == reached:
                    if end == count:
                        break
                    added = skeletons[end]
                    grown += added[1:] if added[0] == grown[-1] else added
                    entries = get(grown)
                    if entries is None:
                        break
                    end += 1
        return found

    def _reads_as(self, entry: Entry, tokens: Tokens, start: int, end: int) -> bool:
        compact = entry.compact
        if end == start + 1:
            word = tokens.words[start]
            if word == compact:
                return True
            if len(word) < len(compact) or entry.kind is Kind.ALLOW:
                return False
            return word not in self.natural_words and _looks_like(word, entry)
        parts = tokens.words[start:end]
        word = "".join(parts)
        if len(word) < len(compact):
            return False
        inner = tokens.separators[start + 1 : end]
        if word == compact:
            if _aligned(parts, entry.breaks):
                return entry.kind is not Kind.ALLOW or all(gap in (" ", "-", "_", "") for gap in inner)
        elif not _looks_like(word, entry):
            return False
        return entry.kind is not Kind.ALLOW and self._split_on_purpose(parts, inner, len(entry.breaks))

    def _split_on_purpose(self, parts: Sequence[str], inner: Sequence[str], allowed_gaps: int) -> bool:
        """Whether a word in pieces is one word, not several that happen to stand beside each other."""
        # A hyphen at the end of a line is a division; any other separator with white space in it is prose.
        gaps = [any(map(str.isspace, gap)) and not (gap[0] in "-\u2010" and "\n" in gap) for gap in inner]
        if sum(gaps) <= allowed_gaps and not any(part.isdigit() for part in parts):
            return not (any(gaps) and all(part in self.natural_parts for part in parts))
        if all(len(part) == 1 for part in parts):
            return True
        for index, part in enumerate(parts):
            before = index > 0 and not gaps[index - 1]
            after = index < len(gaps) and not gaps[index]
            if part.isdigit() and not before and not after:
                return False
        return not (any(gaps) and all(part in self.natural_parts or part.isdigit() for part in parts))


def skeleton(text: str) -> str:
    return _DOUBLED.sub(r"\1", text.translate(_SKELETON))


def _entry(text: str, kind: Kind, label: str) -> Entry:
    words = [word for word in _TOKEN.split(fold(text).replace("\u0640", ""))[1::2] if word]
    if not words:
        raise ValueError(f"the term {text!r} has no letters of a supported script")
    breaks, offset = [], 0
    for word in words[:-1]:
        offset += len(word)
        breaks.append(offset)
    compact = "".join(words)
    runs = tuple((frozenset(run), len(run)) for run in _runs(compact))
    return Entry(compact, kind, label, frozenset(breaks), runs)


def _runs(word: str) -> Iterator[str]:
    offset = 0
    for match in _RUN.finditer(word.translate(_SKELETON)):
        yield word[offset : match.end()]
        offset = match.end()


def _aligned(parts: Sequence[str], breaks: frozenset[int]) -> bool:
    offset, seen = 0, 0
    for part in parts[:-1]:
        offset += len(part)
        if offset not in breaks:
            return False
        seen += 1
    return seen == len(breaks)


def _looks_like(word: str, entry: Entry) -> bool:
    """Whether each letter of `word` can be read as its letter of the term, and none is missing."""
    letters = 0
    for written, (meant, length) in zip(_runs(word), entry.runs, strict=True):
        if len(written) < length:
            return False
        if "ñ" in meant and "ñ" not in written:
            return False
        for character in written:
            if character in meant:
                letters += character.isalpha()
            elif character.isalpha():
                if not _reads_for(character, meant):
                    return False
                letters += 1
    return letters > 0


def _reads_for(character: str, meant: frozenset[str]) -> bool:
    if character in "il":
        return "i" in meant or "l" in meant
    if character == "ñ":
        return "n" in meant
    # A letter of the term's own script is that letter; one of another script is there for its looks.
    return all(_script(character) != _script(letter) for letter in meant)


def _script(character: str) -> int:
    code = ord(character)
    return 0 if code < 0x370 else 1 if code < 0x400 else 2 if code < 0x530 else code >> 8
