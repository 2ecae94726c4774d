"""Whatever a name holds, what is shown of it is one line that any terminal, page and encoder takes."""

import html
import unicodedata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from attnconv.checks import InputError, InputTypeError, MissingExtraError, first_line
from attnconv.shown import code_span, fenced, shown, shown_html, shown_lines, shown_markdown

ANY = st.text(st.characters(exclude_categories=[]))  # lone surrogates among them


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("blue jay", "blue jay"),
        ("日本語 é ß 🐦", "日本語 é ß 🐦"),
        ("", ""),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x9b2J\x00\x7f", r"\x9b2J\x00\x7f"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        ("\u200b\u2028\ufeff\U000e0041", r"\u200b\u2028\ufeff\U000e0041"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), r"caf\udce9"),
        (r"C:\new", r"C:\new"),
    ],
)
def test_what_is_not_printable_is_escaped(text, expected):
    assert shown(text) == expected
    assert str(InputError(text)) == str(InputTypeError(text)) == str(MissingExtraError(text)) == expected


@given(ANY)
def test_any_text_becomes_one_printable_line(text):
    found = shown(text)
    found.encode()  # which no lone surrogate survives
    assert not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in found)
    assert shown(found) == found


def test_lines_of_our_own_stay_lines():
    assert shown_lines("a\x1b\n\u202eb") == "a\\x1b\n\\u202eb"
    assert first_line(ValueError("\x1b[2J\nmore")) == r"\x1b[2J"


def test_a_bare_assertion_is_its_own_reason():
    with pytest.raises(AssertionError) as caught:
        torch._assert(3 % 2 == 0, "")
    assert first_line(caught.value) == 'torch._assert(3 % 2 == 0, "")'
    assert (first_line(AssertionError()), first_line(ValueError())) == ("AssertionError", "ValueError")


@given(ANY)
def test_no_text_is_markup_of_a_page(text):
    found = shown_html(text)
    assert not set("<>\"'\n") & set(found)
    assert html.unescape(found) == shown(text)


def text_of(markdown):
    """The text of a line of Markdown; an error if it holds anything but text."""
    (opened, inline, closed) = MarkdownIt("gfm-like", {"linkify": False, "html": True}).parse(markdown)
    assert (opened.type, closed.type) == ("paragraph_open", "paragraph_close")
    found = ""
    for part in inline.children:
        assert part.type in ("text", "text_special"), (markdown, part.type)
        found += part.content
    return found


@pytest.mark.parametrize(
    "name",
    ["<script>alert(1)</script>", "a|b", "`x`", "[a](http://b)", "![a](b)", "**a**", "_a_", "~~a~~", "&lt;", "a\\",
     "$x$", "<!-- a", "a\n\n# b", "\u202ea", "snake_case"],
)  # fmt: skip
def test_no_name_is_markup_of_a_card(name):
    assert text_of(f"Classes: {shown_markdown(name)}, b.") == f"Classes: {shown(name)}, b."


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("www.a.example", r"www\.a.example"),
        ("WWW.a.example", r"WWW\.a.example"),
        ("see http://a.example/b", r"see http\://a.example/b"),
    ],
)
def test_what_begins_a_web_address_is_escaped(name, escaped):
    """cmark-gfm, which GitHub uses, looks for www. and :// and finds neither behind a backslash."""
    assert shown_markdown(name) == escaped


@given(ANY)
def test_no_text_is_markup_of_a_card(text):
    found = text_of(f"Classes: x{shown_markdown(text)}x.")
    assert found == f"Classes: x{shown(text)}x."


@given(st.text(st.sampled_from("`a \n<\x1b")))
def test_code_stays_code(text):
    (_, inline, _) = MarkdownIt().parse(f"x {code_span('a' + text + 'a')} x")
    assert [part.type for part in inline.children] == ["text", "code_inline", "text"]
    block, end = MarkdownIt().parse(f"{fenced(text, 'sh')}\n\nend")[::3][:2]
    assert (block.type, block.info, block.content.rstrip("\n")) == ("fence", "sh", shown_lines(text).rstrip("\n"))
    assert end.type == "paragraph_close"
