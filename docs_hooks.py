"""Extend mkdocs for `make docs`: TeX becomes MathML; notebooks, docstrings and README become parts of pages.

This file is not part of the package. mkdocs.yml names it twice: as a hook, and as an extension of mkdocstrings.
"""

import ast
import html
import json
import re
from base64 import b64decode
from pathlib import Path

import griffe
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

README = Path(__file__).with_name("README.md")
INCLUDED = re.compile(r"<!-- README: (.+) -->")
TEX = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)


def on_files(files, config, **_):
    """Make a page of each notebook: text, code, printed output and figures."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(file)
        page, figures = notebook(file.content_string, Path(file.src_uri).stem)
        files.append(File.generated(config, f"{file.src_uri}.md", content=page))
        for name, content in figures.items():
            files.append(File.generated(config, f"{Path(file.src_uri).parent}/{name}", content=content))
    return files


def notebook(text, name):
    """Return a notebook as Markdown, and its figures by file name."""
    blocks, figures = [], {}
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        blocks.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
        for output in cell.get("outputs", ()):
            if "text" in output:
                blocks.append(f"```text\n{''.join(output['text'])}```")
            if "image/png" in output.get("data", {}):
                file = f"{name}-{len(figures) + 1}.png"
                figures[file] = b64decode(output["data"]["image/png"])
                blocks.append(f"![figure {len(figures)}]({file})")
    return "\n\n".join(blocks), figures


def on_page_markdown(markdown, page, **_):
    """Put a section of README.md, without its heading, where a page has ``<!-- README: its heading -->``."""
    markdown = INCLUDED.sub(lambda found: section(found[1], page.file.src_path), markdown)
    return re.sub(r"\]\(([^)\s]+\.ipynb)\)", r"](\1.md)", markdown)


def section(heading, wanted_by):
    found = re.search(rf"^## {re.escape(heading)}\n\n(.*?)(?=^## |\Z)", README.read_text(encoding="utf-8"), re.M | re.S)
    if found is None:
        raise PluginError(f"{wanted_by}: README.md has no section {heading!r}")
    return found[1].rstrip().replace("](docs/", "](")


def on_page_content(content, page, **_):
    """Turn TeX, which pymdownx.arithmatex found between dollars, into MathML: browsers draw it without a script."""
    return TEX.sub(lambda found: mathml(html.unescape(found[2]), found[1] == "div", page.file.src_path), content)


def mathml(tex, block, wanted_by):
    try:
        drawn = convert(tex, display="block" if block else "inline")
    except Exception as error:
        raise PluginError(f"{wanted_by}: invalid TeX: {tex} ({type(error).__name__}: {error})") from error
    if "\\" in html.unescape(drawn):  # latex2mathml passes on commands that it does not know
        raise PluginError(f"{wanted_by}: latex2mathml does not know: {tex}")
    return drawn


class Docstrings(griffe.Extension):
    """Turn our docstrings into Markdown, and fail if a public name has none.

    "Shapes:" and "Memory:" begin paragraphs, a section needs no empty line before it, and ``*map`` keeps its asterisk.
    """

    def on_package(self, *, pkg, **_):
        if missing := list(undocumented(pkg)):
            raise PluginError(f"no docstring: {', '.join(missing)}")

    def on_object(self, *, obj, **_):
        if obj.is_class and (texts := option_texts(obj)):
            lines = "\n".join(f"    {name}: {text}" for name, text in texts.items())
            obj.docstring.value += f"\nAttributes:\n{lines}"
        if obj.docstring is not None:
            text = re.sub(r"(?<![*`\w])\*(?=map\b)", r"\*", obj.docstring.value)
            text = re.sub(r"(?:^|\n)(Shapes|Memory): ", r"\n\n**\1:** ", text)
            obj.docstring.value = re.sub(r"\n(?=(?:Args|Attributes|Returns|Raises):\n)", "\n\n", text).lstrip("\n")


def option_texts(thing):
    """Return the help texts of a dataclass's fields ``_option(default, text)``, and leave the defaults alone there."""
    texts = {}
    for name, field in thing.attributes.items():
        if isinstance(field.value, griffe.ExprCall) and str(field.value.function) == "_option":
            field.value, text = field.value.arguments
            thing.parameters[name].default = field.value
            texts[name] = ast.literal_eval(str(text))
    return texts


# nn.Module documents when these are called, the class documents their computation.
ELSEWHERE = {"forward", "extra_repr"}


def undocumented(module):
    """Yield the names in ``__all__`` of a module and its submodules, and members of such classes, without docstring."""
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
