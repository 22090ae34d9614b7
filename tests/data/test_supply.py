"""Nothing that runs code out of data is called; every dependency is pinned; files get the user's permissions."""

import ast
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import tomllib
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from jaxunet.core.files import write_atomically

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = [
    ROOT / "launch.py",
    ROOT / "setup.py",
    *sorted((ROOT / "jaxunet").rglob("*.py")),
    *sorted((ROOT / "configs").rglob("*.py")),
]

# ---- calls -----------------------------------------------------------------------------------------------------------

NEVER = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput", "tempfile.mktemp"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "pandas.read_pickle", "runpy.run_path"),
}
PICKLES = ("pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
UNPACK = ("extract", "extractall", "unpack_archive")  # an archive's names are not trusted with places to write


def unsafe(source: str) -> Iterator[str]:
    """What in `source` could run code, or write to places, that a file names."""
    tree = ast.parse(source)
    names: dict[str, str] = {}  # as written -> where it is from
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname or a.name: a.name if a.asname else a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for module in names.values():
        if module.split(".")[0] in PICKLES:
            yield f"imports {module}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, _, rest = ast.unparse(node.func).partition(".")
            called = ".".join(filter(None, [names.get(first, first), rest]))
            options = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if (
                called in NEVER
                or called.split(".")[-1] in UNPACK
                or options.get("shell", "False") != "False"
                or options.get("allow_pickle", "False") != "False"
                or (called == "torch.load" and options.get("weights_only") != "True")
            ):
                yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "exec(text)",
        "import pickle",
        "from pickle import load as read",
        "import os\nos.system('ls')",
        "from os import system as run\nrun('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import subprocess as s\ns.Popen('ls', shell=flag)",
        "import yaml\nyaml.load(text)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import torch\ntorch.load(path)",
        "from torch import load\nload(path, weights_only=False)",
        "import zipfile\nzipfile.ZipFile(path).extractall(folder)",
    ],
)
def test_unsafe_calls_are_found(source):
    assert list(unsafe(source))


def test_the_program_has_no_unsafe_calls():
    found = {str(path.relative_to(ROOT)): list(unsafe(path.read_text())) for path in PROGRAM}
    assert len(found) > 40
    restricted = {
        "jaxunet/models/torch_files.py": ["imports pickle"]
    }  # its unpickler runs nothing: test_torch_files.py
    assert {path: lines for path, lines in found.items() if lines} == restricted
    assert not list(unsafe("import torch, numpy as np\ntorch.load(p, weights_only=True)\nnp.load(p)\nmodel.eval()"))


# ---- dependencies ----------------------------------------------------------------------------------------------------


def needed(extra: str) -> Iterator[str]:
    """Names of all installed packages that jaxunet with this extra needs, directly or through others."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [(Requirement(line), "") for line in project["dependencies"] + project["optional-dependencies"][extra]]
    seen = set()
    while waiting:
        requirement, extra = waiting.pop()
        if (requirement.marker and not requirement.marker.evaluate({"extra": extra})) or str(requirement) in seen:
            continue
        seen.add(str(requirement))
        name = canonicalize_name(requirement.name)
        if name != "jaxunet":  # whose extras are named by others
            yield name
        further = [Requirement(line) for line in importlib.metadata.requires(name) or []]
        waiting += [(r, e) for r in further for e in {"", *requirement.extras}]


EXTRAS = {"test": (), "dev": ("build", "mypy", "pre_commit"), "docs": ("furo", "myst_nb", "sphinx")}


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_dependency_is_pinned_once(extra):
    if not all(map(importlib.util.find_spec, EXTRAS[extra])):
        pytest.skip(f"the extra [{extra}] is not installed")
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = [Requirement(line) for line in lines]
    here = [canonicalize_name(pin.name) for pin in pins if not pin.marker or pin.marker.evaluate()]
    assert len(here) == len(set(here)), "pinned twice"
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in pins)
    names = set(needed(extra))
    assert {"jax", "jaxlib", "six"} <= names
    assert not names - set(here), "not in constraints.txt"


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664), (0o077, 0o600)])
def test_written_files_have_the_permissions_of_any_other(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "new.json", "{}")
        write_atomically(tmp_path / "new.json", "[]")
    finally:
        os.umask(before)
    assert (tmp_path / "new.json").stat().st_mode & 0o777 == mode
    assert (tmp_path / "new.json").read_text() == "[]"


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path):
    write_atomically(tmp_path / "kept.json", "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "kept.json", "\ud800")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "folder", "a folder is in its place")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "kept.json"]
    assert (tmp_path / "kept.json").read_text() == "old"
