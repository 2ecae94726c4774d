"""What `make docs` does beyond mkdocs' own: TeX becomes MathML; notebooks, docstrings and README are fitted in.

Nothing here is part of the package. mkdocs.yml names this file twice: as a hook, and as an extension of mkdocstrings.
"""

import html
import json
import re
from pathlib import Path

import griffe
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

README = Path(__file__).with_name("README.md")
INCLUDED = re.compile(r"<!-- README: (.+) -->")
TEX = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)


def on_files(files, config, **_):
    """A notebook is a page of its text and its code, without outputs, which it is committed without."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(file)
        files.append(File.generated(config, f"{file.src_uri}.md", content=notebook(file.content_string)))
    return files


def notebook(text):
    sources = [("".join(cell["source"]), cell["cell_type"]) for cell in json.loads(text)["cells"]]
    return "\n\n".join(f"```python\n{source}\n```" if kind == "code" else source for source, kind in sources)


def on_page_markdown(markdown, page, **_):
    """Put a section of README.md, without its heading, where a page has ``<!-- README: its heading -->``."""
    markdown = INCLUDED.sub(lambda found: section(found[1], page.file.src_path), markdown)
    return re.sub(r"\]\(([^)\s]+\.ipynb)\)", r"](\1.md)", markdown)


def section(heading, wanted_by):
    found = re.search(rf"^## {re.escape(heading)}\n\n(.*?)(?=^## |\Z)", README.read_text(encoding="utf-8"), re.M | re.S)
    if found is None:
        raise PluginError(f"{wanted_by}: README.md has no section {heading!r}")
    return found[1].rstrip()


def on_page_content(content, page, **_):
    """TeX between dollars, which pymdownx.arithmatex has found, as MathML: browsers draw it without a script."""
    return TEX.sub(lambda found: mathml(html.unescape(found[2]), found[1] == "div", page.file.src_path), content)


def mathml(tex, block, wanted_by):
    try:
        drawn = convert(tex, display="block" if block else "inline")
    except Exception as error:
        raise PluginError(f"{wanted_by}: no TeX: {tex} ({type(error).__name__}: {error})") from error
    if "\\" in html.unescape(drawn):  # what latex2mathml does not know it passes on
        raise PluginError(f"{wanted_by}: unknown to latex2mathml: {tex}")
    return drawn


class Docstrings(griffe.Extension):
    """Our docstrings as Markdown: "Shapes:" and "Memory:" are paragraphs, sections need no empty line before them, and
    the asterisk of ``*map`` is one. A public name without a docstring ends the build.
    """

    def on_package(self, *, pkg, **_):
        if missing := list(undocumented(pkg)):
            raise PluginError(f"no docstring: {', '.join(missing)}")

    def on_object(self, *, obj, **_):
        if obj.docstring is not None:
            text = re.sub(r"(?<![*`\w])\*(?=map\b)", r"\*", obj.docstring.value)
            text = re.sub(r"(?:^|\n)(Shapes|Memory): ", r"\n\n**\1:** ", text)
            obj.docstring.value = re.sub(r"\n(?=(?:Args|Attributes|Returns|Raises):\n)", "\n\n", text).lstrip("\n")


# nn.Module says when these are called, and the class what it computes.
ELSEWHERE = {"forward", "extra_repr"}


def undocumented(module):
    """What a module and those in it name in ``__all__``, and public members of such classes, without a docstring."""
    for name in module.exports or ():
        thing = module[str(name)]
        thing = thing.final_target if thing.is_alias else thing
        members = thing.members.values() if thing.is_class else ()
        ours = [found for found in members if not found.name.startswith("_") and found.name not in ELSEWHERE]
        called = [found for found in ours if found.is_function or found.has_labels("property")]
        documented = [thing, *called] if thing.is_class or thing.is_function else []
        yield from (found.path for found in documented if not found.has_docstring)
    for inner in module.members.values():
        if not inner.is_alias and inner.is_module:
            yield from undocumented(inner)
