"""Every command and snippet of the documents works as printed; what is generated is up to date.

A block of a document is ```language [title="file"] [broken] [config]. Blocks with a title are files that the others may
use; a yaml block is a recipe, but for `config`: that is of somebody's own program.
"""

import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from sample_models import batches, mlp

from paredown import Recipe, RecipeError
from paredown.framework.cli.main import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
LANGUAGES = {"python", "yaml", "bash", "console", "toml", "mermaid"}
#: their commands start many processes, or write many files
SLOW = {
    "docs/cluster.md",
    "docs/engines.md",
    "docs/recommend.md",
    "docs/sharing.md",
    "docs/sweeps.md",
    "docs/trainers.md",
}
SHELL = {"python3 -m venv .venv", ". .venv/bin/activate"}


@dataclass
class Block:
    language: str
    title: str | None
    broken: bool
    config: bool
    text: str
    line: int


def blocks_of(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        title = re.search(r'title="([^"]+)"', match[2])
        line = text[: match.start(3)].count("\n") + 1
        words = match[2].split()
        yield Block(match[1], title and title[1], "broken" in words, "config" in words, match[3], line)


@pytest.fixture
def session(monkeypatch, tmp_path, capsys):
    """A folder to work in, a namespace with what a reader of the first two lines has, and a way to run commands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    random = torch.get_rng_state()
    modules = set(sys.modules)
    yield Session(monkeypatch, tmp_path, capsys)
    torch.set_rng_state(random)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


class Session:
    def __init__(self, monkeypatch, folder, capsys):
        self.monkeypatch, self.folder, self.capsys = monkeypatch, folder, capsys
        model = mlp()
        self.names = {
            "__name__": "document",
            "model": model,
            "optimizer": torch.optim.SGD(model.parameters(), 0.1),
            "loader": batches(),
        }

    def write(self, block):
        path = self.folder / block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")

    def python(self, block, document):
        code = "\n" * (block.line - 1) + block.text
        exec(compile(code, document, "exec"), self.names)

    def paredown(self, arguments):
        self.capsys.readouterr()
        self.monkeypatch.setattr(sys, "argv", ["paredown", *arguments])
        try:
            code = main() or 0
        except SystemExit as exit:
            code = exit.code or 0
        told = self.capsys.readouterr()
        return code, told.out + told.err

    def shell(self, line):
        words = shlex.split(line)
        if words[0] == "paredown":
            code, told = self.paredown(words[1:])
            assert code == 0, f"{line}\n{told}"
        elif words[:2] == ["pip", "install"]:
            check_install(words[2:])
        elif words[0] == "python" and (self.folder / words[1]).is_file():
            done = subprocess.run([sys.executable, *words[1:]], cwd=self.folder, capture_output=True, text=True)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        elif "torchrun" in words[:2]:
            place = words.index("torchrun")
            self.processes(line, words[place + 1 :], dict(word.split("=") for word in words[:place]))
        elif words[0] == "make":
            assert set(words[1:]) <= targets(), line
        else:
            assert line in SHELL, f"{line}: nobody knows whether this works"

    def processes(self, line, words, variables):
        """torchrun, on a port of its own and with one thread a process.

        On a busy machine torch's gloo threads sometimes abort a process that has already ended (without paredown too):
        then once more.
        """
        own = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
        command = [sys.executable, "-m", "torch.distributed.run", *own, *words]
        environment = {**os.environ, **variables}
        for _ in range(3):
            done = subprocess.run(
                command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300
            )
            if "terminate called without an active exception" not in done.stderr:
                break
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"

    def console(self, text):
        command, _, wanted = text.partition("\n")
        words = shlex.split(command.removeprefix("$ "))
        assert words[0] == "paredown"
        assert self.paredown(words[1:])[1] == wanted


def targets():
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def check_install(words):
    for word in words:
        if word == "-e":
            continue
        if word.startswith("."):
            extra = re.fullmatch(r"\.(\[(\w+)\])?", word)
            assert extra, word
            assert extra[2] is None or extra[2] in extras(), word
        else:
            assert f"TORCH := {word}\n" in (ROOT / "Makefile").read_text(encoding="utf-8"), word


def extras():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    return set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))


def test_blocks_are_of_known_languages():
    for document in DOCUMENTS:
        assert {block.language for block in blocks_of(document)} <= LANGUAGES, document
        assert (ROOT / document).read_text(encoding="utf-8").count("```") == 2 * len(list(blocks_of(document)))


def marked(document):
    return pytest.param(document, marks=[pytest.mark.slow, pytest.mark.timeout(1200)] if document in SLOW else [])


@pytest.mark.parametrize("document", [marked(name) for name in DOCUMENTS if name != "CONTRIBUTING.md"])
def test_document(document, session):
    blocks = list(blocks_of(document))
    for block in blocks:
        if block.title:
            session.write(block)
    for block in blocks:
        if block.language == "yaml" and not block.config:
            check_recipe(block, session.folder)
        elif block.language == "python" and not block.title:
            session.python(block, document)
        elif block.language == "bash":
            for line in block.text.splitlines():
                session.shell(line)
        elif block.language == "console":
            session.console(block.text)


def check_recipe(block, folder):
    path = folder / (block.title or "untitled.yaml")
    path.write_text(block.text, encoding="utf-8")
    if block.broken:
        with pytest.raises(RecipeError):
            Recipe.load(path)
    else:
        assert Recipe.load(path).modifiers


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_inside_of_the_text(document):
    text = BLOCK.sub("", (ROOT / document).read_text(encoding="utf-8"))
    for command in re.findall(r"`make ([^`]+)`", text):
        assert set(command.split()) <= targets(), command
    for command in re.findall(r"`pip install ([^`]+)`", text):
        check_install(shlex.split(command))
    for extra in re.findall(r"`'\.\[(\w+)\]'`", text):
        assert extra in extras()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text(encoding="utf-8")):
        assert ((ROOT / document).parent / link).exists(), link


def test_contributing_lines():
    for block in blocks_of("CONTRIBUTING.md"):
        if block.language == "bash":
            for line in block.text.splitlines():
                assert line.removeprefix("make ") in targets(), line
        assert block.title or block.language in ("bash", "toml", "mermaid")


def test_every_target_is_in_contributing():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [name for name in targets() - {"clean"} if f"| `make {name}` |" not in text] == []


def own_python(*arguments, cwd, path):
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(path), "HOME": str(cwd), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_example_modifier_is_two_files_and_nothing_else(tmp_path):
    """A copy of the repository with the two files of CONTRIBUTING.md: their test and the conformance tests."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "runs", "build", "dist", "*.egg-info")
    tree = tmp_path / "tree"
    shutil.copytree(ROOT, tree, symlinks=True, ignore=ignored)
    titled = [block for block in blocks_of("CONTRIBUTING.md") if block.title]
    assert len(titled) == 2
    for block in titled:
        assert (tree / block.title).parent.is_dir()
        (tree / block.title).write_text(block.text, encoding="utf-8")
    tests = [titled[1].title, "tests/modifiers/test_modifiers.py"]
    options = ["-q", "-k", "weight_clipping", "-m", "not slow", "-p", "no:cacheprovider"]
    told = own_python("-m", "pytest", *options, *tests, cwd=tree, path=tree / "src")
    assert int(re.search(r"(\d+) passed", told)[1]) > 10
    own_python("-m", "doctest", titled[0].title, cwd=tree, path=tree / "src")
    own_python("-m", "ruff", "check", *(block.title for block in titled), cwd=tree, path=tree / "src")
    own_python("-m", "ruff", "format", "--check", *(block.title for block in titled), cwd=tree, path=tree / "src")


def test_the_example_modifier_as_a_plug_in(tmp_path):
    module = next(block for block in blocks_of("CONTRIBUTING.md") if block.title and "modifiers/" in block.title)
    entry = next(block for block in blocks_of("CONTRIBUTING.md") if block.language == "toml")
    group, line = entry.text.strip().splitlines()
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()
    (tmp_path / "my_package" / "weight_clipping.py").write_text(module.text, encoding="utf-8")
    installed = tmp_path / "my_package-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    points = f"[{group.removeprefix('[project.entry-points.').strip(chr(34) + ']')}]\n{line.replace(chr(34), '')}\n"
    assert points.startswith("[paredown.modifiers]\n")
    (installed / "entry_points.txt").write_text(points)
    recipe = {"recipe": 1, "run": {"epochs": 3}, "modifiers": {"clip": {"type": "weight_clipping", "limit": 0.1}}}
    (tmp_path / "clip.json").write_text(json.dumps(recipe))
    (tmp_path / "clip.yaml").write_text(json.dumps(recipe))
    code = "import sys; from paredown.framework.cli.main import main; sys.argv[0] = 'paredown'; sys.exit(main())"
    path = f"{ROOT / 'src'}:{tmp_path}"
    assert own_python("-c", code, "validate", "clip.yaml", cwd=tmp_path, path=path) == "clip.yaml: holds (clip)\n"


def test_the_reference_is_up_to_date():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert (ROOT / "docs" / "modifiers.md").read_text(encoding="utf-8") == generate.page(), "run `make docs`"


def test_the_schema_is_up_to_date():
    written = json.loads((ROOT / "docs" / "recipe.schema.json").read_text(encoding="utf-8"))
    assert written == Recipe.schema(), "run `make docs`"


def test_pre_commit_hooks_are_the_tools_of_lint():
    import yaml

    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    lint = (ROOT / "Makefile").read_text(encoding="utf-8").split("lint:")[1].split("\n\n")[0]
    for hook in hooks:
        assert hook["entry"].replace(".venv/bin", "$(BIN)").removesuffix(" --force-exclude") in lint


@pytest.mark.skipif(tomllib is None, reason="tomllib came with Python 3.11")
def test_the_picture_of_the_rooms_is_what_the_linter_holds():
    (picture,) = (block.text for block in blocks_of("CONTRIBUTING.md") if block.language == "mermaid")
    drawn = dict(re.findall(r"^    (\w+)\[[^\]]*\] --> (\w+)", picture, re.MULTILINE))
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (one["layers"] for one in contracts if one.get("containers") == ["paredown.framework"])
    framework = ROOT / "framework"
    rooms = {file.parent.name for file in framework.glob("*/__init__.py")} | {
        file.stem for file in framework.glob("[!_]*.py")
    }
    assert [(room, drawn[room]) for room in layers[:-1]] == list(itertools.pairwise(layers))
    assert set(layers) == rooms
