"""Recipes by name: folders of the environment, packages, the Hub."""

import http.server
import subprocess
import sys
import threading
from codecs import BOM_UTF8
from pathlib import Path

import pytest
import yaml
from sample_models import pruning, recipe_of

from paredown import Recipe, RecipeError
from paredown.framework.recipe.reading.collections import VARIABLE, named_file, recipe_names


def written(path, **fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**recipe_of(4, prune=pruning(0.5)), **fields}))
    return path


@pytest.fixture
def folders(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setenv(VARIABLE, f"{first}:{second}")
    return first, second


def test_a_folder_of_the_environment(folders):
    written(folders[0] / "team" / "vision" / "half.yaml", name="own")
    written(folders[1] / "other.yml", description="from the second")
    written(folders[1] / "prune90.yaml", description="in front of the bundled one")
    (folders[1] / "card.md").write_text(f"---\n{yaml.safe_dump(recipe_of(4, prune=pruning(0.5)))}---\n# Card\n")
    (folders[1] / "README.md").write_text("# No recipe\n")
    (folders[1] / "marked.md").write_bytes(BOM_UTF8 + (folders[1] / "card.md").read_bytes())
    assert Recipe.load("team/vision/half").name == "own"
    assert Recipe.load("other").description == "from the second"
    assert Recipe.load("prune90").description == "in front of the bundled one"
    assert Recipe.load("card").modifiers["prune"].final_sparsity == 0.5
    names = recipe_names()
    assert {"team/vision/half", "other", "card", "marked", "int8"} <= set(names)
    assert "README" not in names
    assert names["other"].startswith(VARIABLE)
    assert names["int8"] == "bundled"


def test_a_recipe_extends_one_by_name(folders):
    written(folders[0] / "base.yaml")
    (folders[1] / "more.yaml").parent.mkdir()
    (folders[1] / "more.yaml").write_text("extends: base\nmodifiers: {prune: {final_sparsity: 0.75}}\n")
    assert Recipe.load("more").modifiers["prune"].final_sparsity == 0.75


def test_a_misspelt_name_is_told_the_nearest(folders):
    written(folders[0] / "team" / "half.yaml")
    with pytest.raises(RecipeError, match="no recipe of that name; did you mean 'team/half'"):
        Recipe.load("team/hlaf")


def test_a_missing_folder_holds_nothing(folders):
    assert named_file("prune90") is not None


PACKAGE = """
import sys
sys.path.insert(0, {folder!r})
from paredown import Recipe
from paredown.framework.recipe.reading.collections import recipe_names
print(Recipe.load("team/vision/half").name, recipe_names()["team/vision/half"])
print(Recipe.load("other/tiny").name)
print("team_recipes" in sys.modules)
"""


def test_an_installed_package_announces_its_recipes(tmp_path):
    written(tmp_path / "team_recipes" / "vision" / "half.yaml", name="theirs")
    (tmp_path / "team_recipes" / "__init__.py").write_text("raise SystemExit('recipes are data: nothing is run')")
    written(tmp_path / "team_recipes" / "audio" / "tiny.yaml", name="inner")
    information = tmp_path / "team_recipes-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Name: team-recipes\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[paredown.recipes]\nteam = team_recipes\nother = team_recipes.audio\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", PACKAGE.format(folder=str(tmp_path))], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["theirs team_recipes", "inner", "False"], done.stderr


class Hub(http.server.BaseHTTPRequestHandler):
    """Stands in for the Hub: files of one repository, a file of another, at two revisions."""

    files: dict[str, bytes] = {}  # noqa: RUF012

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        content = self.files.get(self.path)
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if "/resolve/main/" in self.path else "RevisionNotFound")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", f'"{abs(hash(content)):x}"')
        self.send_header("X-Repo-Commit", "c" * 40 if "/main/" in self.path else "d" * 40)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub():
    pytest.importorskip("huggingface_hub")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    Hub.files = {}


def loaded(hub, folder, address):
    code = (
        f"from paredown import Recipe; r = Recipe.load({address!r}); print(r.name, r.modifiers['prune'].final_sparsity)"
    )
    environment = {"HF_ENDPOINT": hub, "HF_HOME": str(folder), "PATH": "", "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def text(**fields):
    return yaml.safe_dump({**recipe_of(4, prune=pruning(0.5)), **fields}).encode()


@pytest.mark.slow
def test_the_hub(hub, tmp_path):
    Hub.files = {
        "/team/one/resolve/main/recipe.yaml": text(name="newest"),
        "/team/one/resolve/v1/recipe.yaml": text(name="tagged"),
        "/team/one/resolve/main/deep/other.yaml": text(name="other"),
        "/team/card/resolve/main/README.md": b"---\n" + text(name="card") + b"---\n# Card\n",
    }
    assert loaded(hub, tmp_path, "hub:team/one").stdout == "newest 0.5\n"
    assert loaded(hub, tmp_path, "hub:team/one@v1").stdout == "tagged 0.5\n"
    assert loaded(hub, tmp_path, "hub:team/one/deep/other.yaml").stdout == "other 0.5\n"
    assert loaded(hub, tmp_path, "hub:team/card").stdout == "card 0.5\n"
    missing = loaded(hub, tmp_path, "hub:team/nothing").stderr
    assert (
        "RecipeError: hub:team/nothing: the repository has no recipe.yaml and no recipe.yml and no README.md" in missing
    )
    assert "RecipeError" in loaded(hub, tmp_path, "hub:team/one@v2").stderr
    assert "write hub:team/name" in loaded(hub, tmp_path, "hub:nonsense").stderr


def test_a_recipe_opens_no_network(tmp_path):
    (tmp_path / "r.yaml").write_text("extends: hub:team/one\nmodifiers: {}\n")
    with pytest.raises(RecipeError, match="no such file"):
        Recipe.load(tmp_path / "r.yaml")


@pytest.fixture(autouse=True)
def _no_folder_of_the_developer(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def test_bundled_names_are_the_files():
    root = Path(__file__).parents[4] / "recipes"
    own = {path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml")}
    assert set(recipe_names()) == own
