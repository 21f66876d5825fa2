"""The shape of the package: imports go one way, the public face is exact, the template is found."""

import ast
import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

import diffusers_supreme_init
from diffusers_supreme_init.model_card import TEMPLATE_NAME, model_card_template

PACKAGE = ROOT / "src" / "diffusers_supreme_init"

# The data flow of the design, left to right: a module imports only from lines above its own.
LAYERS = [
    ["errors", "version"],
    [
        "config",
        "files",
        "hub_connection",
        "offloading",
        "randomness",
        "safetensors_file",
        "templates",
        "pictures",
        "prompt_cleaning",
    ],
    ["describers", "multitoken"],
    ["concepts", "text_pairs", "placeholders"],
    ["encoder_record"],
    ["vocabulary"],
    ["backbones", "embedding_file"],
    ["initialization"],
    ["formats", "latents", "model_card"],
    ["card_text", "format_writers", "matching", "saved_folder"],
    ["sharing"],
    ["conversion", "frozen", "publishing", "rows", "sampling", "selection"],
    ["remembered_prompts"],
    ["objective"],
    ["candidates", "metrics", "progress"],
    ["added_concepts", "evaluation", "samples"],
    ["loop", "checkpoint", "choice", "results", "training", "preparation", "sources"],
    ["proposals", "saving"],
    ["beginning"],
    ["loader", "trainer"],
]


def imported_modules(path: Path) -> set[str]:
    """Return the top-level modules of the package that a file imports; ``""`` is the package root."""
    found = set()
    folder = path.parent.name if path.parent != PACKAGE else ""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            is_own_folder = bool(folder) and node.level == 1
            found.add(folder if is_own_folder else (node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diffusers_supreme_init"):
            found.add((node.module or "").partition(".")[2].split(".")[0])
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("diffusers_supreme_init")]
            found.update(name.partition(".")[2].split(".")[0] for name in names)
    return found


def source_files() -> list[tuple[str, Path]]:
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]
    return [(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path) for path in files]


def test_every_module_has_a_layer() -> None:
    assert sorted({name for name, _ in source_files()}) == sorted(name for layer in LAYERS for name in layer)


@pytest.mark.parametrize(("module", "path"), source_files(), ids=lambda value: getattr(value, "stem", value))
def test_imports_go_one_way(module: str, path: Path) -> None:
    layer_of = {name: index for index, layer in enumerate(LAYERS) for name in layer}
    for imported in imported_modules(path) - ({module} if path.parent != PACKAGE else set()):
        assert imported, f"{path.name} imports the package root"
        assert layer_of[imported] < layer_of[module], f"{module} imports {imported}, which is not to its left"


def test_loader_and_trainer_do_not_know_each_other() -> None:
    assert "trainer" not in imported_modules(PACKAGE / "loader.py")
    assert "loader" not in imported_modules(PACKAGE / "trainer.py")


def test_public_names_are_exact() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    imported = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    internal = {"attach_to_diffusers"}
    assert set(diffusers_supreme_init.__all__) == imported - internal
    assert len(diffusers_supreme_init.__all__) == len(set(diffusers_supreme_init.__all__))
    for name in diffusers_supreme_init.__all__:
        assert hasattr(diffusers_supreme_init, name)


def test_importing_attaches_the_loader_once_and_never_overrides() -> None:
    code = """
import diffusers
own = lambda self: "own"
diffusers.ModularPipeline.load_multitoken_inversion = own
import diffusers_supreme_init as package
attached = diffusers.DiffusionPipeline.load_multitoken_inversion
package.attach_to_diffusers()
assert diffusers.DiffusionPipeline.load_multitoken_inversion is attached
assert diffusers.ModularPipeline.load_multitoken_inversion is own
assert diffusers.StableDiffusionPipeline.unload_multitoken_inversion
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_template_at_the_root_is_a_relative_link_to_the_packaged_one() -> None:
    link = ROOT / TEMPLATE_NAME
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.read_text() == model_card_template()


def test_wheel_holds_template_and_type_marker(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    code = f"""
import json, sys
sys.path.insert(0, {str(tmp_path / "installed")!r})
import diffusers_supreme_init.model_card as module
print(json.dumps([module.__file__, module.model_card_template()]))
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300)
    file, template = json.loads(run.stdout.splitlines()[-1])
    assert file.startswith(str(tmp_path))
    assert template == model_card_template()
    assert (tmp_path / "installed" / "diffusers_supreme_init" / "py.typed").is_file()


def test_constraints_pin_every_dependency_exactly() -> None:
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: extra for name, extra in project["optional-dependencies"].items() if name != "vlm"}
    wanted = project["dependencies"] + [d for extra in extras.values() for d in extra]
    names = {d.split(">=")[0].split("[")[0].strip().lower().replace("_", "-") for d in wanted}
    assert names - {"diffusers-supreme-init"} <= pinned
    assert "torchvision" not in pinned
