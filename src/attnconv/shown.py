r"""Untrusted text (class names, paths, members of archives) escaped for terminals, pages and cards.

Terminals obey escape sequences, pages run markup, and encoders refuse the lone surrogates in names that are not UTF-8.
Unprintable characters (controls, escapes, bidirectional marks, line ends, lone surrogates) are therefore written as in
Python: ``\x1b``, ``\u202e``, ``\n``, ``\udcff``. Printable text of any script is unchanged, and so is escaped text.
"""

import html
import re


def shown(text: object) -> str:
    """Return str(``text``) as one line of printable characters."""
    text = str(text)
    return text if text.isprintable() else "".join(map(_printable, text))


def shown_html(text: object) -> str:
    """Return ``shown`` text as HTML, for an element or a quoted attribute."""
    return html.escape(shown(text))


def shown_markdown(text: object) -> str:
    """Return ``shown`` text as Markdown within a line, without links but those of mail addresses."""
    text = re.sub(r"([\\`*<>\[\]|~$&])", r"\\\1", shown(text))
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return re.sub(r"(?i)(?<=www)(?=\.)|(?=://)", r"\\", text)  # which GitHub would make links


def code_span(text: object) -> str:
    """Return ``shown`` text as a code span of Markdown."""
    text = shown(text)
    ticks = "`" * (_longest(text) + 1)
    pad = " " if "`" in (text[:1], text[-1:]) else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def fenced(text: str, language: str = "") -> str:
    """Return a fenced code block of Markdown with each line ``shown``."""
    fence = "`" * max(_longest(text) + 1, 3)
    return "\n".join([f"{fence}{language}", shown_lines(text), fence])


def shown_lines(text: str) -> str:
    """Return ``text`` with each line ``shown``."""
    return "\n".join(map(shown, text.split("\n")))


def quoted(text: str) -> str:
    """Return ``text`` from a file for a message: escaped and at most 60 letters."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _longest(text: str) -> int:
    """Return the length of the longest run of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)


def _printable(letter: str) -> str:
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
