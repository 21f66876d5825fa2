"""The shape of the package: imports go down, the public face is exact, the templates are found."""

import ast
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest
from conftest import ROOT

import diffusers_supreme_init
from diffusers_supreme_init.sharing.model_card import LIBRARY_TEMPLATE_NAME, TEMPLATE_NAME, model_card_template

PACKAGE = ROOT / "src" / "diffusers_supreme_init"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()

# The rooms of the design, from the ground up: a room imports only from lower floors.
FLOORS = [
    ["errors", "randomness", "version"],
    ["file_names", "hub_connection", "inputs", "templates", "triggers"],
    ["config", "files", "multitoken", "pictures"],
    ["text"],
    ["backbones", "describers", "formats"],
    ["concepts", "loading", "objective"],
    ["loader", "metrics", "training"],
    ["evaluation"],
    ["sharing"],
    ["trainer"],
    ["catalogue"],
    ["__init__"],
    ["studio"],
    ["commands"],
    ["__main__"],
]

# Names of the first public interface, which never go nor change their meaning, and those that came later.
FIRST_NAMES = [
    "CheckpointError",
    "Concept",
    "ConceptLoadError",
    "ConceptProgress",
    "ConfigError",
    "DescriberConfig",
    "DescriberError",
    "Describers",
    "EmbeddingFileError",
    "EmbeddingFormat",
    "EndpointRefiner",
    "Evaluation",
    "InitializerError",
    "InitializerProposal",
    "LearnedEmbedding",
    "LoadedConcept",
    "LocalRefiner",
    "MetricError",
    "MultiTokenInversionLoaderMixin",
    "OutputError",
    "PictureError",
    "PlaceholderTokenError",
    "Publication",
    "PublishError",
    "RefinementStyle",
    "Region",
    "RegionError",
    "Score",
    "SupremeInitConfig",
    "SupremeInitError",
    "SupremeInitTextualInversionTrainer",
    "SupremeInitWarning",
    "TrainingError",
    "UnsupportedPipelineError",
    "__version__",
    "convert_embedding",
    "evaluate",
    "load_concepts",
    "propose_initializer",
    "push_to_hub",
    "read_embedding",
    "read_embeddings",
    "write_embedding",
    "write_embeddings",
]
LATER_NAMES = [
    "CatalogueResult",
    "DescriberLoadError",
    "EDITING_PROMPTS",
    "PAPER_SETTINGS",
    "EmbeddingProgram",
    "SAMPLE_PROMPTS",
    "SheetRow",
    "VALIDATION_TEMPLATE",
    "as_written",
    "backbones",
    "check_can_push",
    "check_can_save",
    "check_writable",
    "describers",
    "draw_sheet",
    "fill_template",
    "find_checkpoint",
    "fit_to_square",
    "folder_name",
    "load_picture",
    "merge_libraries",
    "metrics",
    "remove_concepts",
    "train_catalogue",
    "verify_library",
    "versions",
    "write_atomically",
]
PUBLIC_ROOMS = ("backbones", "commands", "describers", "metrics", "studio")


def name_of(path: Path) -> str:
    """Return ``"text.tokenization"`` for a module; a room's ``__init__`` is ``"text.__init__"``."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def module_named(parts: list[str]) -> str:
    """Return the module that `parts` lead to; the last one may be a name inside it."""
    for known in (parts, [*parts, "__init__"], parts[:-1], [*parts[:-1], "__init__"]):
        if ".".join(known) in MODULES:
            return ".".join(known)
    raise AssertionError(f"no module {'.'.join(parts)}")


def imported_modules(module: str) -> set[str]:
    """Return the modules of the package that one of them imports, wherever in its text."""
    found, package = set(), module.split(".")[:-1]
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        names = [alias.name for alias in getattr(node, "names", ())]
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module or "").split(".") * bool(node.module)
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == PACKAGE.name:
            base = node.module.split(".")[1:]
        else:
            if isinstance(node, ast.Import):
                assert all(name.split(".")[0] != PACKAGE.name for name in names), f"{module} imports absolutely"
            continue
        found |= {module_named([*base, name]) for name in names}
    return found


def room_of(module: str) -> str:
    return module.split(".")[0]


def test_every_room_has_a_floor() -> None:
    assert sorted({room_of(module) for module in MODULES}) == sorted(room for floor in FLOORS for room in floor)


def test_the_root_stays_readable() -> None:
    assert len([path for path in PACKAGE.glob("*.py") if path.name != "__main__.py"]) <= 16


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    floor_of = {room: number for number, floor in enumerate(FLOORS, start=1) for room in floor}
    own = room_of(module)
    for imported in imported_modules(module):
        room = room_of(imported)
        assert room == own or floor_of[room] < floor_of[own], f"{module} imports {imported}, which is not below it"


@pytest.mark.parametrize("room", sorted({room_of(module) for module in MODULES if "." in module}))
def test_no_room_has_an_import_cycle(room: str) -> None:
    inside = [module for module in MODULES if room_of(module) == room]
    graph = {module: {one for one in imported_modules(module) if room_of(one) == room} for module in inside}
    assert len(list(TopologicalSorter(graph).static_order())) == len(inside)


def test_the_docs_show_the_same_floors() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", ARCHITECTURE, re.MULTILINE)
    told = [(int(floor), room) for floor, rooms in rows for room in re.findall(r"`(\w+)/?`", rooms)]
    built = [(number, room) for number, floor in enumerate(FLOORS, start=1) for room in floor if room != "__init__"]
    assert sorted(told) == sorted(built)


def test_the_docs_name_files_that_exist() -> None:
    for path in re.findall(r"`([\w/]+\.py)`", ARCHITECTURE):
        assert (PACKAGE / path).is_file() or (ROOT / path).is_file(), path


@pytest.mark.parametrize("row", re.findall(r"^\| (.*\? \| .*) \|$", ARCHITECTURE, re.MULTILINE))
def test_where_is_what_the_docs_look_for(row: str) -> None:
    texts = [(PACKAGE / path).read_text() for path in re.findall(r"`([\w/]+\.py)`", row)]
    assert texts
    for name in re.findall(r"`(?:\w+\.)?(\w+)`", re.sub(r"`[\w/]+\.py`", "", row)):
        assert any(re.search(rf"\b{name}\b", text) for text in texts), name


def test_public_names_are_exact() -> None:
    names = diffusers_supreme_init.__all__
    assert sorted(names) == sorted([*FIRST_NAMES, *LATER_NAMES])
    imported: dict[str, object] = {}
    exec("from diffusers_supreme_init import *", imported)
    assert imported.keys() - {"__builtins__"} == set(names)
    assert set(names) <= set(dir(diffusers_supreme_init))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").rglob("*.py")), ids=lambda path: path.relative_to(ROOT / "examples").as_posix()
)
def test_examples_use_public_names_only(path: Path) -> None:
    homes = {f"{PACKAGE.name}.{room}": import_module(f"{PACKAGE.name}.{room}").__all__ for room in PUBLIC_ROOMS}
    homes[PACKAGE.name] = diffusers_supreme_init.__all__
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith(f"{PACKAGE.name}.") for alias in node.names)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            assert {alias.name for alias in node.names} <= set(homes.get(node.module, ())), node.module


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
import diffusers_supreme_init.sharing.model_card as module
print(json.dumps([module.__file__, module.model_card_template()]))
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300)
    file, template = json.loads(run.stdout.splitlines()[-1])
    assert file.startswith(str(tmp_path))
    assert template == model_card_template()
    package = tmp_path / "installed" / PACKAGE.name
    assert (package / "py.typed").is_file()
    assert (package / "__init__.pyi").is_file()
    assert (package / "sharing" / LIBRARY_TEMPLATE_NAME).is_file()
    assert (package / "catalogue" / "page_template.html").is_file()


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
    assert names - {"diffusers-supreme-init", "diffusers-supreme-init-toybox"} <= pinned
    assert "torchvision" not in pinned


def test_float64_is_asked_for_on_the_cpu_alone() -> None:
    """Apple's GPUs have none."""
    asked = {name: re.findall(r"(.{6})\.double\(\)", path.read_text()) for name, path in MODULES.items()}
    assert {before for found in asked.values() for before in found} == {".cpu()"}
