r"""Text that comes from files and folders (classes, paths, members of archives) on its way to where somebody reads it.

A terminal obeys escape sequences, a page runs what looks like markup, and no encoder takes the lone surrogates that
stand for the bytes of a name which is not UTF-8. So whatever is not printable (control characters, escapes,
bidirectional marks, line ends, lone surrogates) is shown as Python would write it: ``\x1b``, ``\u202e``, ``\n``,
``\udcff``. Printable text of any script stays as it is, and so does what was made showable before.
"""

import html
import re


def shown(text: object) -> str:
    """Return str(``text``) as one line of printable characters."""
    text = str(text)
    return text if text.isprintable() else "".join(map(_printable, text))


def shown_html(text: object) -> str:
    """Return ``shown`` as HTML, within an element or within the quotes of an attribute."""
    return html.escape(shown(text))


def shown_markdown(text: object) -> str:
    """Return ``shown`` as Markdown within a line; text that has none of its characters of markup stays as it is."""
    text = re.sub(r"([\\`*<>\[\]|~$&])", r"\\\1", shown(text))
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


def code_span(text: object) -> str:
    """Return ``shown`` as code within a line of Markdown."""
    text = shown(text)
    ticks = "`" * (_longest(text) + 1)
    pad = " " if "`" in (text[:1], text[-1:]) else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def fenced(text: str, language: str = "") -> str:
    """Return a block of code of Markdown, each line as ``shown`` gives it."""
    fence = "`" * max(_longest(text) + 1, 3)
    return "\n".join([f"{fence}{language}", shown_lines(text), fence])


def shown_lines(text: str) -> str:
    """Return ``text`` with each of its lines as ``shown`` gives it."""
    return "\n".join(map(shown, text.split("\n")))


def quoted(text: str) -> str:
    """Return ``text`` from a file as a message has it: escaped, and not longer than a line."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _longest(text: str) -> int:
    """Return the length of the longest run of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)


def _printable(letter: str) -> str:
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
