"""Commands and settings in README.md and docs/ agree with the program. Links: the build of the site checks them.

The default tests read every command and check its flags, config, overrides and files. `-m slow` runs them, page by page
and in order, as written, in a copy of the repository with a small synthetic archive as `covidqu.zip`.
"""

import ast
import dataclasses
import functools
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib

import pytest
from PIL import Image

from configs import default
from jaxunet.commands import MODES, Flags
from jaxunet.core.errors import run_or_explain
from jaxunet.data.drawing import draw_chest_xray
from jaxunet.evaluation import compare
from jaxunet.runs import checks, settings
from tests.support import own_folder
from tests.support.clone import copy_clone
from tests.support.fake_archive import fake_files, write_zip
from tests.support.hostile_input import launch_and_check

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = [page for page in PAGES if page.name == "add_a_model.md"]  # it changes the program, so it runs on a copy

# Flags that a mode requires.
NEEDED = {
    **dict.fromkeys(("train", "compare"), ("workdir",)),
    "predict": ("input", "output"),
    "export": ("output",),
    "preflight": ("topology",),
    "import_torch": ("workdir", "source"),
}

# Commands that are not run: pattern -> reason.
NOT_RUN = {
    r"^python3 -m venv": "the interpreter of the tests stands for .venv",
    r"pip (install|wheel|download)": "needs a network",
    r"^npm |--format=(html|onnx_int8)": "needs npm's packages or the dataset",
    r"^scp |^ssh ": "needs another machine",
    r"-m pytest($| -m slow| tests/test_(pretrained|distributed|metrics_ref))": "tests have a turn of their own",
    r"pre-commit|/mypy$|sphinx-build|^\.ci/run": "checks of the clone itself",
    r"gcloud |gs://BUCKET": "needs Google Cloud",
    r"^#SBATCH|^srun |COORDINATOR|--coordinator_address|^python launch\.py \.\.\.": "needs several machines",
    r"--config\.track=": "needs the packages of an extra",
    r"=FOLDER": "a folder of the user's own",
    r"/shared/": "needs a folder that several machines share",
    r"--topology=(v5e|h100)": "needs the compilers for TPUs and GPUs",
    r"--mode=import_torch": "needs the weights of a PyTorch network",
    r"--mode=serve": "a server runs until it is stopped",
    r"benchmarks/": "measurements: minutes to hours, on real X-rays",
    r"configs/(resnet101_unet|separable_unet|classify)\.py": "some 50 M parameters: hours on a CPU",
    r"configs/efficientnet_unet\.py": "needs the packages of the extra [imagenet]",
    r"configs/compare\.py": "two of its systems have 50 M parameters",
}

# Runs that pages take as given: page -> workdirs.
GIVEN = {
    "evaluation.md": ("runs/unet", "runs/a", "runs/b", "runs/c"),
    "export.md": ("runs/unet",),
    "predict.md": ("runs/unet",),
    "report.md": ("runs/unet",),
}


# ---- reading a page --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Block:
    """Fenced code: its language, its text, and the text of the page between the previous block and this one."""

    language: str
    text: str
    before: str


@dataclasses.dataclass(frozen=True)
class Command:
    """One simple command of a page. `error`: the error that the page says it ends with, or None."""

    text: str
    error: str | None = None

    def ends_with(self, said: str) -> bool:
        """Whether `said` contains the error."""
        pattern = ".*".join(re.escape(part) for part in (self.error or "").split("..."))
        return bool(re.search(pattern, " ".join(said.split())))


@functools.cache
def blocks(page: pathlib.Path) -> list[Block]:
    text, end, found = page.read_text(), 0, []
    for match in re.finditer(r"^( *)```(\w+)\n(.*?)^\1```$", text, re.M | re.S):
        found.append(Block(match[2], textwrap.dedent(match[3]), text[end : match.start()]))
        end = match.end()
    return found


def prose(page: pathlib.Path) -> str:
    return re.sub(r"^( *)```\w*\n.*?^\1```$", "", page.read_text(), flags=re.M | re.S)


def split(block: str) -> list[str]:
    """The simple commands of a bash block. Continued lines are joined; lines are split at && outside quotes."""
    lines = block.replace("\\\n", " ").splitlines()
    quoted = r"""(?=(?:[^"']|"[^"]*"|'[^']*')*$)"""
    parts = [part.strip() for line in lines for part in re.split(rf"\s&&\s{quoted}", line)]
    return [part for part in parts if part and not re.match(r"#(?!SBATCH)", part)]


def commands(page: pathlib.Path) -> list[Command]:
    """The commands of a page, in order. If a text block beginning with "error:" follows a bash block, the last command
    ends with that error; "..." in it matches any text.
    """
    found: list[Command] = []
    for block in blocks(page):
        if block.language == "bash":
            found += map(Command, split(block.text))
        elif block.language == "text" and block.text.startswith("error:") and not block.before.strip():
            found[-1] = Command(found[-1].text, " ".join(block.text.split()))
    return found


def launches(text: str) -> list[list[str]]:
    """The arguments of every `launch.py` in a command, also in a quoted command for another machine."""
    tokens = shlex.shlex(text, posix=True, punctuation_chars=True)
    tokens.whitespace_split, inside = True, False
    found: list[list[str]] = []
    for token in tokens:
        if set(token) <= set("();<>|&"):
            inside = False
        elif "launch.py " in token:
            found += launches(token)
        elif token == "launch.py":
            inside = True
            found.append([])
        elif inside and token != "...":  # the page omits something
            found[-1].append(token)
    return found


def documented_launches() -> list[tuple[str, Command]]:
    """(where, command) of every command line with `launch.py` in pages and in docstrings of config files."""
    found = []
    for page in PAGES:
        found += [(page.name, command) for command in commands(page) if "launch.py" in command.text]
        yaml = "".join(block.text for block in blocks(page) if block.language == "yaml")
        found += [(page.name, Command(line)) for line in yaml.splitlines() if "launch.py" in line]
    for path in sorted((ROOT / "configs").glob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        found += [(path.name, Command(line)) for line in docstring.splitlines() if "python launch.py" in line]
    return found


def ids(cases: list) -> list[str]:
    return [f"{i}-{case[0]}" for i, case in enumerate(cases)]


# ---- what the default tests check ------------------------------------------------------------------------------------

LAUNCHES = documented_launches()


def check_as_written(mode: str, flags: Flags, *, whole: bool) -> int:
    """Replaces `commands.execute`: checks the configs; if `whole`, also that no required flag is missing."""

    def check() -> None:
        config = flags.config
        missing = [f"--{name}" for name in NEEDED.get(mode, ()) if not getattr(flags, name)]
        if mode == "evaluate" and not (flags.workdir or flags.output):
            missing.append("--workdir or --output")
        assert not missing or not whole, f"--mode={mode} needs {missing}"
        if config.get("dataset", {}).get("name") == "folder":  # as if the folder were there
            config.dataset.spec = '{"targets": [{"name": "lung", "folder": "lung"}]}'
            config.dataset.targets = ("lung",)
            config.dataset.train_config = config.dataset.eval_config = "all"  # evaluate reads no --config
        if "systems" in config:
            assert mode == "compare"
            for name in config.systems:
                compare._system_config(config, name)
        else:
            checks.check(config)

    return run_or_explain(check)


@pytest.mark.parametrize(("where", "command"), LAUNCHES, ids=ids(LAUNCHES))
def test_documented_launch_is_taken(where, command, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    if "configs/pyramid.py" in command.text:
        pytest.skip("what an example makes: test_an_example_fits, and -m slow")
    assert launches(command.text)
    check = functools.partial(check_as_written, whole="..." not in command.text)
    for name in ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"):
        monkeypatch.setenv(name, "0")
    for arguments in launches(os.path.expandvars(command.text)):
        status, said = launch_and_check(*arguments, check=check), capsys.readouterr().err
        assert status == 0 or command.error, said
        if status and "devices" not in command.error:  # it depends on the machine
            assert command.ends_with(said)


def test_commands_are_found():
    """A page that is written differently must not go unread."""
    assert len(LAUNCHES) > 40
    for page in PAGES:
        fences = re.findall(r"^ *```bash", page.read_text(), re.M)
        assert len(fences) == sum(b.language == "bash" for b in blocks(page)), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page):
    text = page.read_text()
    keys = settings.flatten(default.get_config())
    known = {*keys, *(key.rpartition(".")[0] for key in keys)}
    named = {key.rstrip(".") for key in re.findall(r"\bconfig\.(\w+(?:\.\w+)*)", prose(page))} - {"json", "py"}
    assert not {key for key in named if key not in known and not key.startswith(("section.", "systems."))}
    assert set(re.findall(r"--mode=(\w+)", text)) <= set(MODES)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = re.findall(r"(?:'\.|jaxunet)\[([\w,]+)\]'", text)
    assert {extra for names in wanted for extra in names.split(",")} <= set(extras)
    paths = set(re.findall(r"(?<![\w/])(?:benchmarks|configs|jaxunet|tests|docs)/[\w/]+\.(?:py|md|png)", text))
    made = {path for path, _ in example_files(page)} if page in EXAMPLES else set()
    assert not {path for path in paths if not (ROOT / path).exists() and path not in made}


def test_every_reason_not_to_run_is_needed():
    everything = [command.text for page in PAGES for command in commands(page)]
    assert not [pattern for pattern in NOT_RUN if not any(re.search(pattern, text) for text in everything)]


def test_no_command_that_is_run_reaches_for_another_machine():
    run = [command.text for page in PAGES for command in commands(page) if not reason_not_to_run(command)]
    assert not [text for text in run if re.search(r"\w@\w", text)]


def test_runs_are_given_to_pages_that_are_run():
    assert set(GIVEN) <= {page.name for page in RUN}


# ---- the worked example ----------------------------------------------------------------------------------------------


def example_files(page: pathlib.Path) -> list[tuple[str, Block]]:
    """(path, block) of a page of `EXAMPLES`: new files, and changes to existing files."""
    found = []
    for block in blocks(page):
        if block.language in ("python", "diff"):
            paragraph = block.before.strip().split("\n\n")[-1]
            found.append((re.findall(r"`([\w/]+\.py)`", paragraph)[0], block))
    return found


def changed(text: str, diff: str) -> str:
    """`text` with the hunks of `diff` applied; each must fit in exactly one place."""
    for hunk in re.split(r"^@@.*\n", diff, flags=re.M):
        lines = hunk.splitlines()
        if not lines:
            continue
        old, new = ("\n".join(line[1:] for line in lines if line[:1] != sign) + "\n" for sign in "+-")
        assert text.count(old) == 1, f"this is not there, or not only once:\n{old}"
        text = text.replace(old, new)
    return text


def write_example(page: pathlib.Path, root: pathlib.Path) -> None:
    for name, block in example_files(page):
        path = root / name
        path.write_text(changed(path.read_text(), block.text) if block.language == "diff" else block.text)


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.name)
def test_an_example_fits(page, tmp_path):
    """The changes of the page apply to the files, and the result is Python in this project's style."""
    assert len(example_files(page)) >= 2
    for name, block in example_files(page):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if block.language == "diff":
            shutil.copy(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    write_example(page, tmp_path)
    for command in (["check", "--select=E,F,W,UP,B,C4,SIM,RET,PIE,PT"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "."]
        done = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


# ---- running the pages -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def workbench(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of the repository with what pages name: `.venv/bin/python`, `covidqu.zip`, `xrays/` and two folders."""
    root = tmp_path_factory.mktemp("docs") / "jaxunet"
    copy_clone(root)
    for path in (root / ".venv/bin/python", root.parent / "bin/python"):
        path.parent.mkdir(parents=True)
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        path.chmod(0o755)
    files, parts = fake_files(3), ("Infection Segmentation Data", "Lung Segmentation Data")
    lung_part = {name.replace(*parts): data for name, data in fake_files(2).items() if "infection masks" not in name}
    write_zip(root / "covidqu.zip", files | lung_part)
    for name in ("mydata", "external"):
        own_folder.write(root / name, images=1, shrink=4)
        (root / name / "ribs").rename(root / name / "lung masks")
    (root / "xrays").mkdir()
    for i, (suffix, size) in enumerate({"png": (256, 256), "jpg": (500, 400), "tif": (300, 310)}.items()):
        drawn = Image.fromarray(draw_chest_xray(0, 3 + i, "test", "COVID-19")[0])
        drawn.resize(size).save(root / "xrays" / f"patient{i}.{suffix}")
    return root


@pytest.fixture(scope="session")
def given(workbench: pathlib.Path) -> pathlib.Path:
    """Workdir of a small run, for pages that need one."""
    settings = "--config=configs/unet.py --config.dataset.source=covidqu.zip --config.dataset.image_size=64"
    done = execute(f"python launch.py --workdir=../given {settings}", workbench)
    assert done.returncode == 0, done.stderr
    return workbench.parent / "given"


_LONGEST = 3600  # seconds that a command may take


def execute(command: str, root: pathlib.Path) -> subprocess.CompletedProcess:
    """Runs a command in `root` in a shell with its own home, caches and search path."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS" and not k.startswith(("PYTEST", "JAXUNET"))}
    base = root.parent
    environment |= {"HOME": str(base / "home"), "XDG_CACHE_HOME": str(base.parent / "docs_cache")}
    environment |= {"PATH": f"{base / 'bin'}:{os.environ['PATH']}", "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        ["bash", "-c", command], cwd=root, env=environment, capture_output=True, text=True, timeout=_LONGEST
    )


def reason_not_to_run(command: Command) -> str | None:
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, command.text)), None)


RUN = [page for page in PAGES if not all(map(reason_not_to_run, commands(page)))]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_do_what_the_page_says(page, workbench, tmp_path, request):
    root = tmp_path / "jaxunet"
    shutil.copytree(workbench, root)
    shutil.copytree(workbench.parent / "bin", tmp_path / "bin")
    for workdir in GIVEN.get(page.name, ()):
        shutil.copytree(request.getfixturevalue("given"), root / workdir)
    if page in EXAMPLES:
        write_example(page, root)
    for command in commands(page):
        if reason := reason_not_to_run(command):
            print(f"not run ({reason}): {command.text}")
            continue
        done = execute(command.text, root)
        said = f"{command.text}\nstatus {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        unsure = done.returncode == 2 and "not usable as frontal chest X-rays" in done.stdout  # networks of a few steps
        assert (done.returncode != 0 and not unsure) == (command.error is not None), said
        assert command.ends_with(done.stderr), said
        print(f"run: {command.text}")
