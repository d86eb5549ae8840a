"""Write python/llmcore/tokenizer/pipeline/unicode_tables.py: what characters are to Hugging Face's `tokenizers` 0.23.

    pip install unicodedataplus==16.0.0.post1 regex==2025.11.3
    python tools/generate_pipeline_tables.py [--check]

The library asks half a dozen Rust crates about characters, each with the data of another version of Unicode: from 8
(unicode_categories) to 17 (the standard library and unicode-segmentation). unicodedataplus knows Unicode 16 and in
which version a character came; this `regex` knows Unicode 17. What a later version changed its mind about is listed
here. tests/tokenizer/test_pipeline_peers.py compares every code point with the library.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

import regex
import unicodedataplus

PATH = Path(__file__).parents[1] / "python" / "llmcore" / "tokenizer" / "pipeline" / "unicode_tables.py"
CODES = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
AGES = {
    code: float(age) if (age := unicodedataplus.age(chr(code))) != "Unassigned" else 99.0
    for code in CODES
}  # fmt: skip
CATEGORIES = {code: unicodedataplus.category(chr(code)) for code in CODES}
# The lower case of what came after Unicode 13, which every Python from 3.10 on knows: (first, last, step, distance).
LATE_LOWER_CASE = [
    (0x1C89, 0x1C89, 1, 1), (0x2C2F, 0x2C2F, 1, 48), (0xA7C0, 0xA7C0, 1, 1), (0xA7CB, 0xA7CB, 1, -42343),
    (0xA7CC, 0xA7DA, 2, 1), (0xA7DC, 0xA7DC, 1, -42561), (0x10570, 0x1057A, 1, 39), (0x1057C, 0x1058A, 1, 39),
    (0x1058C, 0x10592, 1, 39), (0x10594, 0x10595, 1, 39), (0x10D50, 0x10D65, 1, 32), (0x16EA0, 0x16EB8, 1, 27),
]  # fmt: skip


def of_version(version: float, categories: tuple[str, ...], but: Iterable[int] = ()) -> set[int]:
    """Return the characters of some general categories as a version of Unicode had them. but: those whose category was
    another one then, in or out."""
    now = {code for code in CODES if AGES[code] <= version and CATEGORIES[code].startswith(categories)}
    return now ^ set(but)


def with_property(expression: str) -> set[int]:
    """Return the characters that have a property in Unicode 17."""
    matches = regex.compile(expression).fullmatch
    return {code for code in CODES if matches(chr(code))}


def ranges(codes: set[int]) -> str:
    found: list[list[int]] = []
    for code in sorted(codes):
        if found and found[-1][1] == code - 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return " ".join(f"{first:X}" if first == last else f"{first:X}-{last:X}" for first, last in found)


def lower_case() -> str:
    """Return runs as first-last:step:distance. U+0130, whose lower case is two characters, is not among them."""
    distances = {
        code: ord(lower) - code
        for code in CODES
        if AGES[code] <= 13 and len(lower := chr(code).lower()) == 1 and ord(lower) != code
    }
    for first, last, step, distance in LATE_LOWER_CASE:
        distances.update(dict.fromkeys(range(first, last + 1, step), distance))
    runs: list[list[int]] = []  # first, last, step (0 for one alone), distance
    for code, distance in sorted(distances.items()):
        if runs:
            first, last, step, before = runs[-1]
            if before == distance and code - last in (1, 2) and step in (0, code - last):
                runs[-1][1:3] = code, code - last
                continue
        runs.append([code, code, 0, distance])
    return " ".join(f"{first:X}-{last:X}:{step or 1}:{distance}" for first, last, step, distance in runs)


def scripts() -> dict[str, str]:
    """Return the scripts of Unicode 9, as SentencePiece tells them apart: Japanese is one of them."""
    of_script: dict[str, set[int]] = {}
    for code in CODES:
        name = unicodedataplus.script(chr(code)) if AGES[code] <= 9 else "Unknown"
        name = {0x589: "Common", 0x61C: "Common", 0x953: "Devanagari", 0x954: "Devanagari"}.get(code, name)
        if name in ("Hiragana", "Katakana") or code == 0x30FC:
            name = "Han"
        if name != "Unknown" and code != 0x20:
            of_script.setdefault(name, set()).add(code)
    return {name: ranges(codes) for name, codes in sorted(of_script.items())}


def tables() -> dict[str, tuple[str, str | dict[str, str]]]:
    """Return (what it is, ranges) by name."""
    break_of = r"\p{Grapheme_Cluster_Break=%s}"
    mark_changes = [0x111C9]  # punctuation until Unicode 10
    return {
        "NEWER": ("Unassigned in Unicode 9.", ranges({code for code in CODES if AGES[code] > 9})),
        "NUMBERS": (r"\p{N} of Unicode 17.", ranges(with_property(r"\p{N}"))),
        "PUNCTUATION": (
            r"\p{P} of Unicode 8, and ASCII's symbols.",
            ranges(
                of_version(8, ("P",), (0x166D, 0x111C9)) | {code for code in range(128) if CATEGORIES[code][0] in "PS"}
            ),
        ),
        "OTHER": (r"\p{Cc}, \p{Cf} and \p{Co} of Unicode 8.", ranges(of_version(8, ("Cc", "Cf", "Co")))),
        "NONSPACING": (
            r"\p{Mn} of Unicode 8.",
            ranges(of_version(8, ("Mn",), (0x1734, 0x1885, 0x1886, 0xA9BD, 0x1171E, *mark_changes))),
        ),
        "MARKS": (r"\p{M} of Unicode 9.", ranges(of_version(9, ("M",), (0x1CF2, 0x1CF3, *mark_changes)))),
        "LOWER_CASE": ("The lower case of Unicode 17: first-last:step:distance.", lower_case()),
        "SCRIPTS": ("Unicode 9.", scripts()),
        "CONTROL": ("Grapheme clusters of Unicode 17.", ranges(with_property(break_of % "Control"))),
        "EXTEND": ("", ranges(with_property(break_of % "Extend"))),
        "SPACING": ("", ranges(with_property(break_of % "SpacingMark"))),
        "PREPEND": ("", ranges(with_property(break_of % "Prepend"))),
        "HANGUL_L": ("", ranges(with_property(break_of % "L"))),
        "HANGUL_V": ("", ranges(with_property(break_of % "V"))),
        "HANGUL_T": ("", ranges(with_property(break_of % "T"))),
        "PICTOGRAPHIC": ("", ranges(with_property(r"\p{Extended_Pictographic}"))),
        "CONSONANT": ("", ranges(with_property(r"\p{Indic_Conjunct_Break=Consonant}"))),
        "LINKER": ("", ranges(with_property(r"\p{Indic_Conjunct_Break=Linker}"))),
    }


def render() -> str:
    lines = [
        '"""Generated by tools/generate_pipeline_tables.py. Do not edit. Hexadecimal code points and ranges of them."""'
    ]

    def add(opening: str, text: str, indent: str, closing: str) -> None:
        pieces = [f'"{line} "' for line in textwrap.wrap(text, 108, break_on_hyphens=False)]
        pieces[-1] = pieces[-1].replace(' "', '"')
        if len(pieces) == 1:
            lines.append(f"{indent}{opening}{pieces[0]}{closing}")
        else:
            lines.extend([f"{indent}{opening}(", *(f"{indent}    {p}" for p in pieces), f"{indent}){closing}"])

    for name, (about, value) in tables().items():
        lines += ["", *([f"# {about}"] if about else [])]
        if isinstance(value, str):
            add(f"{name} = ", value, "", "")
            continue
        lines.append(f"{name} = {{")
        for key, text in value.items():
            add(f'"{key}": ', text, "    ", ",")
        lines.append("}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if the file in the tree differs")
    check = parser.parse_args().check
    if unicodedataplus.unidata_version != "16.0.0" or regex.__version__ != "2025.11.3":
        sys.exit(f"expected the versions above, got {unicodedataplus.unidata_version} and {regex.__version__}")
    text = render()
    if not check:
        PATH.write_text(text)
    elif PATH.read_text() != text:
        sys.exit(f"{PATH} is out of date: run {Path(__file__).name}")


if __name__ == "__main__":
    main()
