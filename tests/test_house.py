"""The house: a package imports only from those above it, and some libraries have one home (jaxunet/__init__.py)."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "jaxunet"
ORDER = (
    *("core", "devices", "xrays", "data", "models", "scoring", "runs", "training", "prediction", "evaluation"),
    *("export", "preflight", "api", "commands", "command_line", "__main__", "__init__"),
)
APART = {"training": "prediction", "prediction": "training"}  # neighbours that must not know each other
EXCEPT = {("evaluation", "training"): {"compare.py"}}  # the only files that may
HOMES = {  # library -> the only places that import it
    "flax.linen": ("models/",),
    "orbax": ("runs/checkpoint.py",),
    "tensorflow_datasets": ("data/",),
    "pydicom": ("xrays/dicom.py", "xrays/dicomweb.py", "prediction/dicom_"),
    "highdicom": ("prediction/dicom_",),
    "dicomweb_client": ("xrays/dicomweb.py",),
    **dict.fromkeys(("mlflow", "trackio", "wandb"), ("runs/trackers.py",)),
}


def imports(path: pathlib.Path) -> set[str]:
    """Every module that the file imports, at its top or late, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


FILES = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}


def package(name: str) -> str:
    """`data/png.py` or `jaxunet.data.png` -> "data"."""
    return name.removeprefix("jaxunet.").replace(".py", "").replace(".", "/").split("/")[0]


@pytest.mark.parametrize("name", FILES)
def test_imports_only_from_packages_above(name: str) -> None:
    mine = package(name)
    for module in imports(FILES[name]):
        if not module.startswith("jaxunet.") or module.count(".") == 1 and package(module) not in ORDER:
            continue  # another library, or a name of jaxunet itself
        theirs = package(module)
        assert ORDER.index(theirs) <= ORDER.index(mine), f"{name} imports {module} from below"
        assert APART.get(mine) != theirs, f"{name} imports {module}: {mine} and {theirs} stay apart"
        allowed = EXCEPT.get((mine, theirs))
        assert allowed is None or FILES[name].name in allowed, f"{name} imports {module}: only {allowed} may"


def test_no_two_files_import_each_other_in_a_circle() -> None:
    modules = {f"jaxunet.{name[:-3].replace('/', '.')}": path for name, path in FILES.items()}
    graph = {module: imports(path) & modules.keys() - {module} for module, path in modules.items()}
    while leaves := [module for module, needs in graph.items() if not needs]:
        graph = {module: needs - set(leaves) for module, needs in graph.items() if module not in leaves}
    assert not graph, f"these import each other: {graph}"


@pytest.mark.parametrize("library", HOMES)
def test_library_has_one_home(library: str) -> None:
    users = [n for n, p in FILES.items() if any(m == library or m.startswith(f"{library}.") for m in imports(p))]
    assert users
    assert all(user.startswith(HOMES[library]) for user in users), f"{library} is imported by {users}"


def test_pmap_is_named_in_one_file() -> None:
    users = [n for n, p in FILES.items() if "pmap(" in p.read_text()]
    assert users == ["devices/replicas.py"]
