"""Rules as data: the TOML files beside this module, read into frozen types.

`rules.toml` holds what is refused, word classes and numbers; `allow.toml` the compounds that are plainly
something else. An operator's file has `[[rule]]` tables only: it adds refusals and can take nothing away.

A term is one or more words, matched as whole words; braces list alternatives (``kid{,s}`` is "kid" and
"kids"). A pattern is a sequence of word classes ``<class>`` and words ``=word``, each made optional by a
``?`` behind it. `anywhere` terms are found at any place, for scripts that write words without spaces.
`expressions` are regular expressions over folded text; `joined_expressions` are pairs of characters, one of
which the text must hold, and an expression over text without separators. Both repeat nothing without a bound,
which a test checks.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

Table = Mapping[str, object]

_FOLDER = Path(__file__).parent
_BRACES = re.compile(r"\{([^{}]*)\}")
_RULE_KEYS = frozenset(
    {
        "id", "reason", "field", "terms", "prefixes", "suffixes", "patterns", "anywhere", "expressions",
        "joined_expressions", "refuse", "pass",
    }
)  # fmt: skip
_OPERATOR_KEYS = frozenset({"id", "reason", "terms", "anywhere", "refuse", "pass"})
# An empty term would be found in every text.
_NEVER_EMPTY = frozenset({"terms", "patterns", "anywhere", "expressions", "phrases"})
_RULE_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


class RulesError(ValueError):
    """A rules file is not usable; the message names the file, the rule and what is wrong."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One refusal: what it matches, why, and texts on both sides of it that a test runs."""

    id: str
    reason: str
    terms: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    anywhere: tuple[str, ...] = ()
    expressions: tuple[str, ...] = ()
    joined_expressions: tuple[tuple[str, str], ...] = ()
    examples_refused: tuple[str, ...] = ()
    examples_passed: tuple[str, ...] = ()
    negative: bool = False
    """Whether the rule reads the negative prompt instead of the texts that are drawn."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """Compounds that are plainly something else than the refused word they contain."""

    reason: str
    phrases: tuple[str, ...]
    anywhere: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ruleset:
    """Everything the matcher is compiled from."""

    rules: tuple[Rule, ...]
    allowances: tuple[Allowance, ...]
    classes: Mapping[str, tuple[str, ...]]
    numbers: Mapping[int, tuple[str, ...]]
    foreign_numbers: Mapping[int, tuple[str, ...]]
    compound_left: tuple[str, ...]
    compound_core: tuple[str, ...]
    compound_right: tuple[str, ...]
    masked: tuple[str, ...]
    natural_words: frozenset[str]
    natural_parts: frozenset[str]


def standard_ruleset() -> Ruleset:
    """The reviewed rules shipped with this package."""
    data = _load(_FOLDER / "rules.toml")
    allow = _load(_FOLDER / "allow.toml")
    words, compounds = _table(data, "words"), _table(data, "compounds")
    return Ruleset(
        rules=tuple(_rule(entry, _RULE_KEYS, "rules.toml") for entry in _tables(data, "rule")),
        allowances=tuple(
            Allowance(str(entry["reason"]), _expanded(_texts(entry, "phrases")), _texts(entry, "anywhere"))
            for entry in _tables(allow, "allow")
        ),
        classes=_expanded_table(_table(data, "classes")),
        numbers=_numbered(_table(data, "numbers")),
        foreign_numbers=_numbered(_table(data, "foreign_numbers")),
        compound_left=_expanded(_texts(compounds, "left")),
        compound_core=_expanded(_texts(compounds, "core")),
        compound_right=_expanded(_texts(compounds, "right")),
        masked=_expanded(_texts(words, "masked")),
        natural_words=frozenset(_texts(words, "natural")),
        natural_parts=frozenset(_texts(words, "parts")),
    )


def operator_rules(path: Path) -> tuple[Rule, ...]:
    """The refusals an operator adds, their ids prefixed with ``operator-``.

    Raises `RulesError` for anything but ``[[rule]]`` tables with `id`, `reason`, `terms`, `anywhere` and
    examples: there is no key that could weaken the standard rules.
    """
    data = _load(path)
    unknown = sorted(set(data) - {"rule"})
    if unknown:
        raise RulesError(f"{path}: only [[rule]] tables are read, found {', '.join(unknown)}; remove them")
    entries = data.get("rule")
    if not isinstance(entries, list) or not entries:
        raise RulesError(f"{path}: no [[rule]] table found; add at least one with id, reason and terms")
    rules = tuple(_rule(entry, _OPERATOR_KEYS, str(path), prefix="operator-") for entry in entries)
    for rule in rules:
        if not rule.terms and not rule.anywhere:
            raise RulesError(
                f"{path}: rule {rule.id} has neither terms nor anywhere; it would refuse nothing"
            )
    ids = [rule.id for rule in rules]
    repeated = sorted({name for name in ids if ids.count(name) > 1})
    if repeated:
        raise RulesError(f"{path}: rule ids must differ, repeated: {', '.join(repeated)}")
    return rules


def expand_braces(text: str) -> Iterator[str]:
    """``kid{,s}`` as "kid", "kids"; several braces as their product."""
    parts = _BRACES.split(text)
    fixed, choices = parts[0::2], [part.split(",") for part in parts[1::2]]
    for chosen in itertools.product(*choices):
        form = "".join(itertools.chain.from_iterable(itertools.zip_longest(fixed, chosen, fillvalue="")))
        if "{" in form or "}" in form:
            raise RulesError(f"braces do not nest and come in pairs: {text!r}")
        yield form


def _expanded(listed: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(form for text in listed for form in expand_braces(text)))


def _expanded_table(table: Table) -> dict[str, tuple[str, ...]]:
    return {name: _expanded(_texts(table, name)) for name in table}


def _numbered(table: Table) -> dict[int, tuple[str, ...]]:
    return {int(value): listed for value, listed in _expanded_table(table).items()}


def _rule(entry: object, keys: frozenset[str], source: str, prefix: str = "") -> Rule:
    if not isinstance(entry, dict):
        raise RulesError(f"{source}: a rule is a [[rule]] table, found {type(entry).__name__}")
    name = entry.get("id")
    if not isinstance(name, str) or not _RULE_ID.fullmatch(name):
        raise RulesError(f"{source}: a rule needs an id of lower-case letters, digits and hyphens")
    unknown = sorted(set(entry) - keys)
    if unknown:
        raise RulesError(f"{source}: rule {name} has unknown keys: {', '.join(unknown)}")
    if not isinstance(entry.get("reason"), str):
        raise RulesError(f"{source}: rule {name} needs a reason")
    try:
        return Rule(
            id=prefix + name,
            reason=entry["reason"],
            terms=tuple(
                start + term + end
                for term in _expanded(_texts(entry, "terms"))
                for start in _texts(entry, "prefixes", ("",))
                for end in _texts(entry, "suffixes", ("",))
            ),
            patterns=_expanded(_texts(entry, "patterns")),
            anywhere=_expanded(_texts(entry, "anywhere")),
            expressions=_texts(entry, "expressions"),
            joined_expressions=_pairs(entry, "joined_expressions"),
            examples_refused=_texts(entry, "refuse"),
            examples_passed=_texts(entry, "pass"),
            negative=entry.get("field", "positive") == "negative",
        )
    except RulesError as error:
        raise RulesError(f"{source}: rule {name}: {error}") from error


def _texts(table: Table, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
    listed = table.get(key, default)
    if not isinstance(listed, list | tuple) or not all(isinstance(text, str) for text in listed):
        raise RulesError(f"{key} must be a list of texts")
    if key in _NEVER_EMPTY and not all(text.strip() for text in listed):
        raise RulesError(f"{key} holds an empty text, which would match everything")
    return tuple(listed)


def _pairs(table: Table, key: str) -> tuple[tuple[str, str], ...]:
    listed = table.get(key, [])
    if not isinstance(listed, list):
        raise RulesError(f"{key} must be a list of pairs")
    return tuple((needed, expression) for needed, expression in listed)


def _table(data: Table, key: str) -> Table:
    table = data[key]
    if not isinstance(table, dict):
        raise RulesError(f"{key} must be a table")
    return table


def _tables(data: Table, key: str) -> list[Table]:
    tables = data[key]
    if not isinstance(tables, list):
        raise RulesError(f"{key} must be a list of tables")
    return tables


def _load(path: Path) -> Table:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RulesError(f"{path}: cannot be read as TOML: {error}") from error
