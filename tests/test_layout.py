"""The folders at the root are the package: links, bare names, pyproject, the wheel, and who imports whom."""

import ast
import functools
import os
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

ROOT = Path(__file__).parent.parent
FOLDERS = ("framework", "integrations", "modifiers", "recipes")
SKIPPED = {"__pycache__"}
#: Hydra finds plugins in a package of this name, which many distributions share: it has no __init__.py
HYDRA = PurePosixPath("integrations", "hydra_plugins")


def git_files(*paths):
    listed = subprocess.run(["git", "ls-files", "-z", *paths], cwd=ROOT, capture_output=True, text=True, check=True)
    return {PurePosixPath(name) for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}


def packages():
    """The packages that the folders hold, by their import names."""
    found = {"paredown": Path("src/paredown"), "hydra_plugins": Path(HYDRA)}
    for folder in FOLDERS:
        for init in sorted((ROOT / folder).rglob("__init__.py")):
            place = init.parent.relative_to(ROOT)
            found[".".join(packed_at(place).parts)] = place
    return found


def packed_at(place):
    """Where a file or folder of the repository lies in the wheel."""
    place = PurePosixPath(place.as_posix())
    return place.relative_to(HYDRA.parent) if HYDRA in (place, *place.parents) else "paredown" / place


def python_folders():
    """Folders with Python files in them: each needs an __init__.py, or it would be left out of the wheel."""
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    return {file.parent.relative_to(ROOT) for file in files if not SKIPPED & set(file.parts)}


def test_the_namespace_of_hydra_is_shared():
    assert not (ROOT / HYDRA / "__init__.py").exists()


@pytest.fixture(scope="module")
def project():
    if tomllib is None:
        pytest.skip("tomllib came with Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_links(folder):
    link = ROOT / "src" / "paredown" / folder
    assert link.is_symlink()
    assert os.readlink(link) == f"../../{folder}"
    assert link.resolve() == (ROOT / folder).resolve()


def test_src_holds_nothing_else():
    names = {entry.name for entry in (ROOT / "src" / "paredown").iterdir()} - SKIPPED
    assert names == {"__init__.py", "py.typed", *FOLDERS}


@pytest.mark.parametrize("folder", FOLDERS)
def test_bare_names_are_refused(folder):
    done = subprocess.run(
        [sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"ImportError: import this package as 'paredown.{folder}', not as '{folder}'" in done.stderr


def test_pyproject_lists_every_package(project):
    setuptools = project["tool"]["setuptools"]
    assert len(setuptools["packages"]) == len(set(setuptools["packages"]))
    assert set(setuptools["packages"]) == set(packages())
    assert {name: Path(place) for name, place in setuptools["package-dir"].items()} == packages()
    assert python_folders() <= set(packages().values())


def test_versions_agree(project):
    import paredown

    assert project["project"]["version"] == paredown.__version__


@pytest.mark.slow
def test_the_wheel_holds_what_git_holds(tmp_path):
    tree = tmp_path / "tree"
    for name in git_files():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            (tree / name).symlink_to(os.readlink(ROOT / name))
        else:
            (tree / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {PurePosixPath(name) for name in archive.namelist() if ".dist-info/" not in name}
        metadata = next(name for name in archive.namelist() if name.endswith("dist-info/licenses/LICENSE"))
        assert archive.read(metadata) == (ROOT / "LICENSE").read_bytes()
    own = {packed_at(name) for name in git_files(*FOLDERS)}
    assert packed == own | {PurePosixPath("paredown/__init__.py"), PurePosixPath("paredown/py.typed")}


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def annotations_aside(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            node.body = [ast.Pass()]
    return tree


def defines_a_modifier(tree):
    """A module with a class that has `type: Literal[...]`, which is what makes a modifier of it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "type":
            return ast.unparse(node.annotation).startswith("Literal[")
    return False


@functools.cache
def tree_of(file):
    return annotations_aside(ast.parse(file.read_text(encoding="utf-8")))


def modules_of(folder):
    for file in sorted((ROOT / folder).rglob("*.py")):
        name = "paredown." + ".".join(file.relative_to(ROOT).with_suffix("").parts)
        yield name.removesuffix(".__init__"), tree_of(file)


def test_modifiers_do_not_import_each_other():
    trees = dict(modules_of("modifiers"))
    modifiers = {name for name, tree in trees.items() if defines_a_modifier(tree)}
    assert len(modifiers) >= 7
    both = {name: sorted(set(imported(trees[name])) & modifiers) for name in modifiers}
    assert not {name: others for name, others in both.items() if others}


def test_shared_helpers_import_no_modifier():
    trees = dict(modules_of("modifiers"))
    modifiers = {name for name, tree in trees.items() if defines_a_modifier(tree)}
    helpers = {name: sorted(set(imported(tree)) & modifiers) for name, tree in trees.items() if name not in modifiers}
    assert not {name: others for name, others in helpers.items() if others}


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_are_absolute_and_by_the_package_name(folder):
    for name, tree in modules_of(folder):
        for node in ast.walk(tree):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{name} imports relatively"
        assert not [module for module in imported(tree) if module.split(".")[0] in FOLDERS], name


@pytest.mark.parametrize("family", ["pruning", "quantization", "decomposition", "distillation"])
def test_the_rooms_of_a_family_know_no_file_of_its_folder(family):
    folder = ROOT / "modifiers" / family
    above = {f"paredown.modifiers.{family}.{file.stem}" for file in folder.glob("*.py") if file.stem != "__init__"}
    rooms = {name: tree for name, tree in modules_of(f"modifiers/{family}") if name.count(".") > 3}
    assert rooms
    assert not {
        name: sorted(set(imported(tree)) & above) for name, tree in rooms.items() if set(imported(tree)) & above
    }
