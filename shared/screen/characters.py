"""Character tables: what a character looks like to a reader, whatever its code point.

The Latin part is derived, not typed in: the names that Python's own Unicode database gives to the characters
("LATIN LETTER SMALL CAPITAL T", "NEGATIVE SQUARED LATIN CAPITAL LETTER T", "TAG LATIN SMALL LETTER T") say
which letter each one shows, so the table follows every new Unicode version that Python ships. Only the
lookalikes of other scripts, which no name gives away, are listed by hand.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from types import MappingProxyType

Table = Mapping[int, str | None]

# Blocks that hold Latin letters, letterlike symbols and their enclosed forms; scanned once, 0.01 s.
_LATIN_BLOCKS = (
    (0x00A0, 0x0370),
    (0x1D00, 0x1DC0),
    (0x1E00, 0x1F00),
    (0x2070, 0x20A0),
    (0x2100, 0x2190),
    (0x24B6, 0x24EB),
    (0x2C60, 0x2C80),
    (0xA720, 0xA800),
    (0xAB30, 0xAB70),
    (0x1DF00, 0x1DF2B),
    (0x1F100, 0x1F200),
)
_LATIN_NAME = re.compile(r"\b(?:LATIN|MODIFIER)\b.* ([A-Z])(?: (?:WITH|BELOW|ROTUNDA|BAR|PRECEDED)\b.*)?$")
_INDICATOR_NAME = re.compile(r"REGIONAL INDICATOR SYMBOL LETTER ([A-Z])$")
_FIRST_WORD = re.compile(
    r"(?:LATIN|MODIFIER) (?:CAPITAL |SMALL )?(?:LETTER|LIGATURE) (?:SMALL |CAPITAL )*(?:TURNED |REVERSED |OPEN |CLOSED )?"
    r"([A-Z]{2,})"
)
# Letters whose name is a word, and the letters a reader takes them for.
_NAMED_LETTERS = {
    "AE": "ae", "OE": "oe", "OU": "ou", "SHARP": "ss", "ETH": "d", "THORN": "th", "WYNN": "w", "SCHWA": "e",
    "ESH": "s", "EZH": "z", "ENG": "n", "ALPHA": "a", "IOTA": "i", "UPSILON": "u", "GAMMA": "y", "CHI": "x",
    "BETA": "b", "OMEGA": "w", "PHI": "o", "DELTA": "d", "EPSILON": "e", "KRA": "k", "YOGH": "z", "HENG": "h",
    "RAMS": "y", "IJ": "ij", "LJ": "lj", "NJ": "nj", "DZ": "dz", "TZ": "tz", "TESH": "ts", "DEZH": "dz",
    "LEZH": "lz", "BILABIAL": "o", "HWAIR": "h", "HV": "hv", "OI": "oi", "YR": "r", "DB": "db", "QP": "qp",
    "TS": "ts", "TC": "tc", "LS": "ls", "FENG": "n", "UE": "ue", "TH": "th", "AV": "av", "AO": "ao", "AA": "aa",
    "AU": "au", "AY": "ay", "OO": "oo", "VY": "vy", "IS": "s", "STRETCHED": "c", "VEND": "v", "LAMBDA": "l",
    "AIN": "", "SALTILLO": "", "GLOTTAL": "", "PHARYNGEAL": "",
}  # fmt: skip

# Lookalikes in other scripts. Each Cyrillic or Greek letter stands for the one Latin letter it is read as,
# the "faux Cyrillic" of posters included (a Cyrillic ya for an R).
_CYRILLIC_LOOKS = (
    "аa бb вb гr дd еe жx зe иn йn кk лn мm нh оo пn рp сc тt уy фo хx цu чy шw щw ъb ыb ьb эe юo яr "
    "ѕs іi їi јj љb њh ћh ќk ўy џu ѡw ѳo ѵv ґr ғf қk ҝk ҟk ҡk ңh ҥh ҫc ҭt үy ұy ҳx һh ҽe ҿe ӏl ӕae ә"
    "e ӡz өo ԁd ԍg ԏr ԑe ԓn ԕp ԛq ԝw єe ӗe ӑa ӓa ӝx ӟe ӣn ӥn ӧo ӭe ӯy ӱy ӳy ӵy ӹb ѓr ѐe ёe ѝn ҏp ӎm ҩa "
    "ҁc ҕb ҷy ӌy ҹy ӊh ӈh ӄk ӆn ԟk ԡn ԣh ԥn ԧh ԩh ԯn ꙑb ѣb ѧa ѫx"
)
_GREEK_LOOKS = "αa βb γy δd εe ζz ηn θo ιi κk λa μu νv ξe οo πn ρp ςc σo τt υu φo χx ψw ωw ϲc ϳj ϐb ϑo ϕo ϖw ϰk ϱp ϵe ϸp ϻm ͷn ϝf ϙq"

# Letters of the supported scripts that are spelled in several ways; both sides of a comparison are folded.
_SPELLING = (
    "أا إا آا ٱا ىي ةه ؤو ئي یي کك ێي ەه ہه ھه گك "  # Arabic, with the Persian and Urdu forms
    "ёе йи ґг "  # Russian: the breve is dropped as a combining mark, so the letter loses it as well
    "歲岁 歳岁 嵗岁 學学 斈学 兒儿 児儿 嬰婴 園园 國国 齡龄 齢龄 級级 課课 處处 処处 貞贞 蘿萝 侶侣 "
    "來来 長长 門门 無无 髮发 發发 麗丽 專专 專专 導导 歡欢 網网 嬌娇 媽妈 親亲 孫孙 姪侄 "
)

# Devanagari nukta and virama, Arabic vowel marks and tatweel: writers add or leave them out at will. Dropping
# them (and the Latin combining marks) before NFKC also keeps canonical reordering, which is quadratic in a
# run of marks, away from hostile text.
_DROPPED_RANGES = (
    (0x0000, 0x0009), (0x000E, 0x0020), (0x007F, 0x00A0), (0x00AD, 0x00AE), (0x0300, 0x0370),
    (0x0483, 0x048A), (0x0600, 0x0606), (0x0610, 0x061B), (0x061C, 0x061D), (0x0640, 0x0641),
    (0x064B, 0x0660), (0x0670, 0x0671), (0x06D6, 0x06EE), (0x08D3, 0x0900), (0x093C, 0x093D),
    (0x094D, 0x094E), (0x0951, 0x0955), (0x115F, 0x1161), (0x180B, 0x1810), (0x1AB0, 0x1B00), (0x1DC0, 0x1E00),
    (0x200B, 0x2010), (0x202A, 0x202F), (0x2060, 0x2070), (0x20D0, 0x2100), (0x2DE0, 0x2E00),
    (0x3164, 0x3165), (0xA66F, 0xA680), (0xA69E, 0xA6A0), (0xFE00, 0xFE10), (0xFE20, 0xFE30), (0xFEFF, 0xFF00),
    (0xFFA0, 0xFFA1), (0xFFF0, 0xFFFC), (0x1D165, 0x1D16A), (0x1D16D, 0x1D183), (0xE0000, 0xE1000),
)  # fmt: skip
# Ligatures that NFKC would blow up to as many as 18 characters, and the squared words.
_BLANKED_RANGES = ((0x3300, 0x3358), (0x3371, 0x33E0), (0xFDF0, 0xFE00))

# Blocks with letters of scripts that have no rules. Greek is absent: single Greek letters are mathematics and
# lookalikes; whole Greek words are found by `GREEK_WORD`.
_UNREAD_BLOCKS = (
    (0x0530, 0x05FF), (0x0700, 0x074F), (0x0780, 0x086F), (0x0980, 0x10FF), (0x1200, 0x180A), (0x1810, 0x1AAF),
    (0x1B00, 0x1C7F), (0x1C90, 0x1CFF), (0x2800, 0x28FF), (0x2C00, 0x2C5F), (0x2C80, 0x2DDF), (0x3100, 0x312F),
    (0x31A0, 0x31BF), (0xA000, 0xA63F), (0xA6A0, 0xA6FF), (0xA800, 0xA82F), (0xA840, 0xA95F), (0xA980, 0xAB2F),
    (0xAB70, 0xABFF), (0xFB07, 0xFB4F), (0x10000, 0x100FF), (0x10280, 0x1077F), (0x107C0, 0x1BFFF),
    (0x1D800, 0x1DAFF), (0x1E000, 0x1E02F), (0x1E090, 0x1EDFF),
)  # fmt: skip
UNREAD_SCRIPT = re.compile("[" + "".join(f"{chr(a)}-{chr(b)}" for a, b in _UNREAD_BLOCKS) + "]")
GREEK_LETTER = re.compile("[α-ω]")
# Two Greek letters in a row, or three with separators between them, apart from letters of other scripts.
GREEK_WORD = re.compile(
    r"[α-ω](?<![a-zñа-ӿα-ω][α-ω])(?:[α-ω]+(?![a-zñа-ӿα-ω])|[\W_]{1,3}[α-ω][\W_]{1,3}[α-ω](?![a-zñа-ӿ]))"
)

EMOJI = MappingProxyType(
    {
        0x1F476: "baby", 0x1F9D2: "child", 0x1F466: "boy", 0x1F467: "little girl", 0x1F37C: "baby bottle",
        0x1F3EB: "school", 0x1F392: "school bag", 0x1F6B8: "children crossing", 0x1F46A: "family with child",
        0x1F931: "baby", 0x1F6BC: "baby", 0x1F47C: "baby angel", 0x1F9F7: " ", 0x1F46B: " ",
        0x1F170: "a", 0x1F171: "b", 0x1F17E: "o", 0x1F17F: "p", 0x1F18E: "ab",
    }
)  # fmt: skip

# Letters shown upside down; a text holding two of them is also read from its end.
TURNED = re.compile("[ɐɔǝɟƃɥᴉɾʞɯɹʇʌʍʎꓤ]")
FLIPPED: Table = MappingProxyType(
    dict(zip(map(ord, "ɐqɔpǝɟƃɥᴉɾʞlɯuodbɹsʇnʌʍxʎz"), "abcdefghijklmnopqrstuvwxyz", strict=True))
)

# Digits and signs used for letters. Each maps to one letter of the skeleton alphabet; letters that share a
# sign share a letter there (1 is i and l, 8 is b and g), see `SKELETON`.
SIGNS = "@$!|+€£¢¥§¡×ƒ"
_LEET = dict(zip("0123456789" + SIGNS, "oizeasbtbb" + "asiiteicysixf", strict=True))
_MERGED = {"l": "i", "g": "b", "q": "b", "z": "s", "v": "u", "ñ": "n"}
_MERGED_SIGNS = {"z": "s"}


def _pairs(listed: str) -> Iterable[tuple[str, str]]:
    return ((word[0], word[1:]) for word in listed.split())


def _latin_letters() -> dict[int, str]:
    letters: dict[int, str] = {}
    for start, end in _LATIN_BLOCKS:
        for code in range(start, end):
            name = unicodedata.name(chr(code), "")
            word = _FIRST_WORD.match(name)
            letter = _LATIN_NAME.search(name) or _INDICATOR_NAME.search(name)
            if word and word[1] in _NAMED_LETTERS:
                letters[code] = _NAMED_LETTERS[word[1]]
            elif letter:
                letters[code] = letter[1].lower()
    letters[ord("ñ")] = letters[ord("Ñ")] = "ñ"
    return letters


def _build_before_nfkc() -> Table:
    table: dict[int, str | None] = {}
    for start, end in _DROPPED_RANGES:
        table.update(dict.fromkeys(range(start, end)))
    for start, end in _BLANKED_RANGES:
        table.update(dict.fromkeys(range(start, end), " "))
    table.update(_latin_letters())
    table.update({code: f" {words} " if len(words) > 2 else words for code, words in EMOJI.items()})
    return MappingProxyType(table)


def _build_after_nfkc() -> Table:
    table: dict[int, str | None] = {ord(a): b for a, b in _pairs(_SPELLING)}
    for zero in (0x0660, 0x06F0, 0x0966):
        table.update({zero + value: str(value) for value in range(10)})
    for a, b in _pairs("ςσ άα έε ήη ίι όο ύυ ώω ϊι ϋυ ΐι ΰυ"):
        table[ord(a)] = b
    for quote in "'’‘ʼ`´":
        table[ord(quote)] = None
    return MappingProxyType(table)


def _build_skeleton() -> Table:
    table: dict[int, str | None] = {ord(a): b for a, b in _MERGED.items()}
    table.update({ord(a): _MERGED_SIGNS.get(b, b) for a, b in _LEET.items()})
    for a, b in (*_pairs(_CYRILLIC_LOOKS), *_pairs(_GREEK_LOOKS)):
        table[ord(a)] = "".join(_MERGED.get(letter, letter) for letter in b)
    return MappingProxyType(table)


BEFORE_NFKC = _build_before_nfkc()
AFTER_NFKC = _build_after_nfkc()
# One letter for everything that can be read as it; several letters may share one, so equality of skeletons is
# only a candidate, never a match.
SKELETON = _build_skeleton()
HIRAGANA: Mapping[str, str] = MappingProxyType(
    {chr(code): chr(code - 0x60) for code in range(0x30A1, 0x30F7)}
)
