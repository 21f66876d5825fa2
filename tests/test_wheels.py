"""What `pip install` gives: both packages in an empty environment, the notebook, several processes."""

import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT, TOYBOX
from nbclient import NotebookClient

from diffusers_supreme_init import read_embedding
from diffusers_supreme_init.commands import main as supreme_init

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
QUICK = ("--max_train_steps", "2", "--validation_samples", "2", "--num_inference_steps", "2", "--score_samples", "4")


def build(source: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_the_readme_can_be_shown_by_the_package_index(tmp_path: Path) -> None:
    wheel = build(ROOT, tmp_path)
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", str(wheel)], check=True, timeout=120)
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        text = archive.read(name).decode()
    assert "![" in text
    assert "](docs/" not in text
    assert "(https://raw.githubusercontent.com/" in text


def test_the_toybox_is_a_package_of_its_own(tmp_path: Path) -> None:
    with zipfile.ZipFile(build(TOYBOX, tmp_path)) as archive:
        names = {
            name.split("/")[1] for name in archive.namelist() if name.startswith("diffusers_supreme_init_toybox/")
        }
    assert names == {"pipeline", "captioner", "classifier", "segmenter", "concepts", "scenes"}


@pytest.mark.slow
def test_two_wheels_in_an_empty_environment_are_enough(tmp_path: Path) -> None:
    wheels = [build(ROOT, tmp_path / "code"), build(TOYBOX, tmp_path / "toybox")]
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    bin_dir = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    install = [
        str(bin_dir / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--constraint",
        str(ROOT / "constraints.txt"),
    ]
    subprocess.run([*install, *map(str, wheels)], check=True, timeout=1200)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    pictures = "import diffusers_supreme_init.commands as c; print(c.toybox_folder())"

    def run(*words: str) -> str:
        done = subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        assert len((done.stdout + done.stderr).splitlines()) < 25
        return done.stdout

    folder = Path(run(str(bin_dir / "python"), "-c", pictures).strip())
    assert tmp_path in folder.parents
    mug, command = str(folder / "concepts" / "mug.png"), str(bin_dir / "supreme-init")
    run(command, "train", mug, "--model", "toybox", "--token", "<mug>", *QUICK)
    run(command, "generate", "a photo of <mug>", "--concepts", "out/mug", "--num_inference_steps", "2")
    run(command, "describe", mug, "--model", "toybox", "--score_samples", "4")
    run(command, "convert", "out/mug", "mug.safetensors", "--format", "comfyui", "--encoder_keys", "clip_l")
    run(command, "compare", mug, "--model", "toybox", "--steps", "0", "1", "--num_inference_steps", "2")
    assert str(folder) in run(command, "env")


@pytest.mark.slow
def test_every_command_of_the_tour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In few steps; what it says in words is what the page shows."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "tour.md").read_text()
    commands = re.findall(r"^\$ supreme-init (.*)$", page, re.MULTILINE)
    assert [words.split()[0] for words in commands] == [
        *("toybox", "train", "generate", "describe", "compare", "evaluate", "convert")
    ]
    for words in map(shlex.split, commands):
        few = ("--max_train_steps", "2") if words[0] == "train" else ()
        draws = words[0] in ("train", "generate", "compare", "evaluate")
        few += ("--num_inference_steps", "2") if draws and "--num_inference_steps" not in words else ()
        assert supreme_init([*words, *few]) == 0, words
    for path in (
        "toys/mug.png",
        "out/mug/report.html",
        "out/pictures/sheet.png",
        "look/region.png",
        "mug.safetensors",
    ):
        assert (tmp_path / path).is_file()


@pytest.mark.slow
def test_two_processes_train_by_accelerate_launch(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1"}
    words = [str(TOYBOX / "concepts" / "mug.png"), "--model", "toybox", "--token", "<mug>", "--initializer", "a mug"]
    for name, how in (("module", ["-m", "diffusers_supreme_init", "train"]), ("file", ["examples/train.py"])):
        command = [*launch, *how, *words, *QUICK, "--output_dir", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Look at ") == 1
        assert (tmp_path / name / "report.html").is_file()
    one, other = (read_embedding(tmp_path / name / "learned_embeds.safetensors") for name in ("module", "file"))
    assert one.rows.equal(other.rows)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.source.startswith("%pip"):
            cell.source = ""  # it is installed
        if "supreme-init train" in cell.source:
            cell.source += " --max_train_steps 2 --num_inference_steps 2"
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "out" / "mug" / "sheet.png").is_file()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
    assert sum("image/png" in output["data"] for output in shown) == 2


def test_the_notebook_is_committed_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
