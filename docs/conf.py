"""The documentation site: `sphinx-build -W --keep-going -c docs . build/site`.

Its pages are the Markdown files of the repository. Two things are added while they are read: the navigation, from the
sections of docs/README.md, and the list of settings, from jaxunet/runs/settings.py and configs/default.py.
"""

import os
import pathlib
import re
import shutil
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}  # of the notebook's kernel

from jaxunet import __version__ as release  # noqa: E402
from jaxunet.configs import default  # noqa: E402
from jaxunet.runs import settings  # noqa: E402

project = "jaxunet"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "jaxunet/weights/*.md"]
html_theme = "furo"
html_title = f"jaxunet {release}"
html_show_copyright = False
exclude_patterns = [".*", "build", "runs"]  # not searched for pages
smartquotes_action = "D"  # dashes; quotes stay as they are
default_role = "code"  # of single backquotes in docstrings
napoleon_use_ivar = True
autodoc_member_order = "bysource"
maximum_signature_line_length = 80
myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300  # seconds of a cell
nb_output_stderr = "remove"


def navigation(index: str) -> str:
    """docs/README.md -> one table of contents per section."""
    result = "\n```{toctree}\n:hidden:\ndocs/README\n```\n"
    for section in re.split(r"^## ", index, flags=re.M)[1:]:
        pages = [os.path.normpath(f"docs/{link}") for link in re.findall(r"\]\(([^)]+)\.md\)", section)]
        entries = "\n".join(page for page in pages if page != root_doc)
        result += f"\n```{{toctree}}\n:hidden:\n:caption: {section.splitlines()[0]}\n{entries}\n```\n"
    return result


def comments(program: str) -> dict[str, str]:
    """configs/default.py -> setting or section of the config -> its comment."""
    found, above = {}, ""
    for line in program.splitlines():
        if comment := re.match(r" +# (.*)", line):
            above += f"{comment[1]} "
        elif assigned := re.match(r" +((?:\w+\.)+\w+) = [^#]+(?:# (.*))?", line):
            found[assigned[1].removeprefix("config.")] = above + (assigned[2] or "")
            above = ""
    return found


def allowed(row: settings.Setting) -> str:
    """The values that a setting may have."""
    choices = row.choices() if callable(row.choices) else row.choices
    if choices:
        return "one of " + ", ".join(f"`{choice!r}`" for choice in choices)
    bounds = {"above": row.above, "at least": row.at_least, "below": row.below, "at most": row.at_most}
    limits = [f"{word} {bound:,}" for word, bound in bounds.items() if bound is not None]
    return row.words or ", ".join([f"`{row.kind.__name__}`", *limits])


def list_of_settings() -> str:
    """Markdown: each setting with its comment, default and allowed values, in the sections of the config."""
    explained = comments((ROOT / "configs/default.py").read_text())
    explained = {k: re.sub(r"([<*])", r"\\\1", re.sub(r"(--\S+)", r"`\1`", text)) for k, text in explained.items()}
    defaults, result, section = settings.flatten(default.get_config()), "", ""
    for key in sorted(settings.SETTINGS, key=lambda key: "." in key):
        row = settings.SETTINGS[key]
        if "." in key and (new := key.split(".")[0]) != section:
            section, result = new, f"{result}\n## {new}\n\n{explained[new]}\n"
        facts = f"Default `{defaults[key]!r}`; {allowed(row)}." + " May change when a run resumes." * row.free
        result += f"\n```{{confval}} {key}\n{explained[key]}\n\n{facts}\n```\n"
    return result


def add_generated(app, page, text):
    if page == root_doc:
        text[0] += navigation((ROOT / "docs/README.md").read_text())
    elif page == "docs/settings":
        text[0] = text[0].replace("<!-- settings -->", list_of_settings())


def add_start_page(app, error):
    if not error:
        shutil.copy(app.outdir / "README.html", app.outdir / "index.html")


def setup(app):
    app.connect("source-read", add_generated)
    app.connect("build-finished", add_start_page)
