"""`supreme-init`: what is typed, what is said, what is left behind."""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import commands_page
import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, TOYBOX
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from PIL import Image
from tiny.describers import build_sam3
from tiny.every_family import FAMILY
from transformers.utils import logging

from diffusers_supreme_init import SupremeInitTextualInversionTrainer, read_embedding
from diffusers_supreme_init.commands import main as supreme_init
from diffusers_supreme_init.commands import terminal, toybox
from diffusers_supreme_init.commands.main import COMMANDS
from diffusers_supreme_init.commands.parser import parse
from diffusers_supreme_init.training.loop import TrainingLoop

MUG = str(TOYBOX / "concepts" / "mug.png")
SCENE = TOYBOX / "scenes" / "scene_1.png"
CLICKED = json.loads((TOYBOX / "scenes" / "metadata.jsonl").read_text().splitlines()[0])["toys"][0]
CLICK = ",".join(map(str, CLICKED["click"]))
QUICK = ("--max_train_steps", "2", "--validation_samples", "2", "--num_inference_steps", "2", "--score_samples", "4")


@dataclass
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Ended:
        status = supreme_init(words)
        said = capsys.readouterr()
        return Ended(status, said.out, said.err)

    return run


def train(run: Run, *more: str, words: str = "a red mug") -> Ended:
    return run("train", MUG, "--model", "toybox", "--token", "<mug>", "--initializer", words, *QUICK, *more)


@pytest.fixture(scope="module")
def mug(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a trained mug."""
    folder = tmp_path_factory.mktemp("mug") / "mug"
    words = ["train", MUG, "--model", "toybox", "--token", "<mug>", "--initializer", "a red mug", *QUICK]
    assert supreme_init([*words, "--no_report", "--output_dir", str(folder)]) == 0
    return folder


# what is typed


def test_the_overview_lists_every_command(run: Run) -> None:
    for words in ((), ("--help",), ("help",)):
        ended = run(*words)
        assert ended.status == 0
        assert all(re.search(rf"^  {name} +\w", ended.out, re.MULTILINE) for name in COMMANDS)
        assert len(ended.out.splitlines()) <= 40


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_a_screen_and_help_all_is_everything(name: str, run: Run) -> None:
    short, long = run(name, "--help"), run(name, "--help_all")
    assert (short.status, long.status) == (0, 0)
    assert len(short.out.splitlines()) <= 40
    assert max(map(len, short.out.splitlines())) <= 120
    for kind in COMMANDS[name].arguments:
        for one in fields(kind):
            assert f"--{one.name}" in long.out
    for option in COMMANDS[name].usual:
        assert f"--{option}" in short.out


def test_help_shows_defaults_that_are_numbers(run: Run) -> None:
    text = re.sub(r"\s+", " ", run("train", "--help_all").out)
    for option, default in (("--gradient_accumulation_steps", "1"), ("--seed", "0"), ("--num_inference_steps", "30")):
        assert re.search(rf"{option} [NX] [^()]*\(default: {re.escape(default)}\)", text), option


def test_help_imports_neither_torch_nor_diffusers() -> None:
    code = (
        "import sys\nfrom diffusers_supreme_init.commands import main\n"
        "assert main(['train', '--help']) == 0 and main(['train', '--bogus']) == 2 and main([]) == 0\n"
        "print(sorted({'torch', 'diffusers', 'accelerate', 'peft'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "expected a command (train, describe, "),
        (["train", "a.png", "--token", "<a>"], "images: expected a picture or a folder, got 'a.png', which does not"),
        (["train", "--token", "<a>"], "expected a picture, got none; pictures come before the options"),
        (["train", MUG], "expected --token, the new word, got none"),
        (
            ["train", MUG, "--token", "<mug>", "--num_shards", "2"],
            "expected --concepts with the options of many concepts",
        ),
        (["library"], "expected list, verify, merge or remove, got ''"),
        (["library", "merge", "a"], "expected supreme-init library merge FOLDER ... INTO, got a"),
        (["library", "verify", "nowhere"], "expected a library, got 'nowhere', which has no index"),
        (["train", MUG, "--concepts", "b.jsonl"], "expected either --concepts or pictures and a --token, got both"),
        (["train", MUG, "--images", MUG], "expected PICTURE either first or after --images, got both"),
        (
            ["train", MUG, "--token", "<a>", "--learning_rate", "-1"],
            "learning_rate: expected above 0, or None, got -1",
        ),
        (
            ["train", MUG, "--token", "<a>", "--points", "40"],
            "expected 2 numbers in pixels (--points 40,22), with commas and without spaces, got '40'",
        ),
        (["train", "--token", "<a>", "--points", "4,2", MUG], "pictures come before the options"),
        (["train", MUG, "--points", "1,2", "--points", "3,4"], "--points was given more than once; write all its"),
        (
            ["train", MUG, "--token", "<a>", "--placeholder_token", "<b>"],
            "--placeholder_token was given more than once",
        ),
        (["train", MUG, "--max_train_steps", "many"], "--max_train_steps: invalid int value: 'many'"),
        (["train", MUG, "--poinst", "40,22"], "unknown option '--poinst'; did you mean --points?"),
        (
            ["train", MUG, "--max_train_step", "5"],
            "unknown option '--max_train_step'; did you mean --max_train_steps?",
        ),
        (
            ["train", MUG, "--token", "<a>", "--model", str(ROOT)],
            "model: expected a folder or Hub id of a pipeline",
        ),
        (
            ["train", MUG, "--token", "<a>", "--model", "nobody/nothing"],
            "model: expected a folder or Hub id of a pipeline, got 'nobody/nothing': it is not downloaded",
        ),
        (
            ["train", MUG, "--token", "<a>", "--refiner_base_url", "http://127.0.0.1:9"],
            "expected --refiner_model with",
        ),
        (
            ["train", MUG, "--token", "<a>", "--model", "toybox", "--push_to_hub"],
            "expected --push_to_hub and --hub_mo",
        ),
        (["describe"], "expected a picture, got none"),
        (["describe", "a.png"], "images: expected a picture or a folder, got 'a.png', which does not exist"),
        (["generate"], "expected a prompt, got none"),
        (["generate", "a mug"], "expected --model, or --concepts that name theirs, got neither"),
        (["compare", MUG, "--model", "toybox", "--steps", "-1"], "steps: expected numbers of at least 0, got [-1]"),
        (["compare", MUG, "--model", "toybox", "--seeds", "1", "1"], "seeds: expected at least one and all different"),
        (["compare", MUG, "--model", "toybox", "--prompt", "a mug"], "prompt: expected '{}' where the concept stands"),
        (["evaluate", MUG], "expected --concept, a file, a folder or a Hub id, got none"),
        (["convert", "a.safetensors"], "expected a file or folder to read and one to write"),
        (["convert", "a.safetensors", "b.pt"], "format: expected one of diffusers, comfyui, "),
        (["push", "nothing", "user/mug"], "expected a folder that save() wrote, got 'nothing'"),
        (["env", "--bogus"], "unknown option '--bogus'"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(words: list[str], message: str, run: Run, tmp_path: Path) -> None:
    ended = run(*words)
    assert ended.status in (1, 2)
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert message in ended.err
    assert not ended.out
    assert not list(tmp_path.glob("**/*.safetensors"))


def test_usage_and_failure_have_their_own_statuses(run: Run) -> None:
    assert run("train", MUG, "--bogus").status == run("nothing").status == 2
    assert run("train", "missing.png", "--token", "<a>").status == 1


def test_without_a_model_nothing_is_trained_and_models_are_listed(run: Run) -> None:
    ended = run("train", MUG, "--token", "<mug>")
    assert ended.status == 1
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5, " in ended.err
    assert "toybox, " in ended.err


def test_a_picture_and_a_name_are_checked_before_any_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("text.png").write_text("no picture")
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    for picture, token in (("text.png", "<mug>"), (MUG, "two words"), ("missing.jpg", "<mug>")):
        assert run("train", picture, "--token", token, "--model", "toybox").status == 1


@pytest.mark.parametrize("kind", ["captioner", "classifier", "segmenter"])
def test_a_describer_that_is_not_there_is_told_before_the_pipeline_is_loaded(
    kind: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    for command in ("train", "describe", "compare"):
        if (command, kind) == ("compare", "segmenter"):
            continue  # it compares no words
        token = ("--token", "<mug>") if command == "train" else ()
        ended = run(command, MUG, "--model", "toybox", *token, f"--{kind}", "nobody/nothing")
        assert ended.status == 1
        assert f"error: {kind}: expected a folder with a model or an id on the Hub, got 'nobody/nothing'" in ended.err


def test_a_family_that_cannot_be_trained_is_refused_before_it_is_loaded(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model_index.json").write_text(
        '{"_class_name": "WanPipeline", "_diffusers_version": "0.42"}'
    )
    ended = run("train", MUG, "--token", "<mug>", "--model", str(tmp_path / "other"))
    assert "WanPipeline cannot be trained on" in ended.err


# a YAML file


def test_a_file_gives_options_and_the_command_line_wins(run: Run, tmp_path: Path) -> None:
    Path("run.yaml").write_text(
        "token: <mug>\nmodel: toybox\nmax_train_steps: 7\nlearning_rate: 1e-3\nvalidation_steps: [0, every:5]\n"
        "points:\n  - 4,2\n  - 1,2\nmasked_loss: yes\nsnr_gamma: null\n"
    )
    parsed = parse(COMMANDS["train"], [MUG, "--config", "run.yaml", "--max_train_steps", "9"])
    values = parsed.values
    assert values["placeholder_token"] == "<mug>"
    assert (values["max_train_steps"], values["learning_rate"], values["masked_loss"]) == (9, 1e-3, True)
    assert (values["validation_steps"], values["points"]) == (["0", "every:5"], ["4,2", "1,2"])
    assert values["snr_gamma"] is None  # the file wins over what the toybox likes
    assert values["flip_probability"] == 0.0
    assert values["output_dir"] == os.path.join("out", "mug")


def test_texts_in_a_file_stay_as_they_are_written(tmp_path: Path) -> None:
    """YAML itself would read 750, false, 8 and a date."""
    for text in ("12:30", "no", "010", "2026-11-27", "1_000", "0x1F"):
        (tmp_path / "run.yaml").write_text(f"initializer: {text}\npoints: [{text}]\n")
        values = parse(COMMANDS["train"], ["--config", str(tmp_path / "run.yaml")]).values
        assert (values["initializer"], values["points"]) == (text, [text])


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    parsed = parse(COMMANDS["train"], [MUG, "--token", "<mug>", "--model", "toybox", "--points", "4,2", "--seed", "3"])
    (tmp_path / "run.yaml").write_text(parsed.as_yaml())
    again = parse(COMMANDS["train"], ["--config", str(tmp_path / "run.yaml")])
    assert again == parsed
    other = parse(COMMANDS["train"], ["--config", str(tmp_path / "run.yaml"), "--seed", "4"])
    assert other.values == {**parsed.values, "seed": 4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model: toybox\nlearning_rat: 1",
            "run.yaml, line 2: unknown option 'learning_rat'; did you mean learning_rate?",
        ),
        ("max_train_steps: ten", "run.yaml, line 1: max_train_steps: expected a value of type int, got 'ten'"),
        ("\nmasked_loss: perhaps", "run.yaml, line 2: masked_loss: expected true or false, got 'perhaps'"),
        ("dtype: float8", "run.yaml, line 1: dtype: expected one of auto, float32, bfloat16, float16, got 'float8'"),
        ("seed: [1, 2]", "run.yaml, line 1: seed: expected one value, got a list"),
        ("points: {x: 1}", "run.yaml, line 1: points: expected a plain value, got a list or a mapping; put it in"),
        ("seed: 1\nseed: 2", "run.yaml, line 2: seed was given before, in line 1"),
        ("seed: 1\n  model: [", "run.yaml, line 2: expected YAML"),
        ("- seed", "run.yaml, line 1: expected options, 'name: value'"),
        ("\n\nlearning_rate: -1", "run.yaml, line 3: learning_rate: expected above 0, or None, got -1.0"),
        ("no_report: true", "run.yaml, line 1: no_report: expected the option without 'no_'"),
    ],
)
def test_mistakes_in_a_file_name_line_and_key(text: str, message: str, run: Run) -> None:
    Path("run.yaml").write_text(text)
    ended = run("train", MUG, "--config", "run.yaml")
    assert ended.status == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1


def test_a_missing_file_is_said(run: Run) -> None:
    assert "config: expected a YAML file, got 'gone.yaml'" in run("train", MUG, "--config", "gone.yaml").err


# training


def test_train_says_three_things_and_leaves_what_it_says(run: Run, tmp_path: Path) -> None:
    ended = train(run)
    assert ended.status == 0
    came_out, look, following = ended.out.strip().splitlines()
    assert re.match(
        r'<mug> finished after 2 steps from "a red mug": 3 rows, \d+ kB, loss 0\.\d+ -> 0\.\d+\.', came_out
    )
    assert look == f"Look at {Path('out/mug/report.html')}."
    assert following == f"Draw it: supreme-init generate 'a photo of <mug>' --concepts {Path('out/mug')}"
    assert {path.name for path in (tmp_path / "out" / "mug").iterdir()} >= {
        *("learned_embeds.safetensors", "training.json", "README.md", "report.html", "sheet.png", "run.yaml")
    }
    assert len((ended.err + ended.out).splitlines()) < 10
    assert "torchvision" not in ended.err
    settings = yaml.safe_load((tmp_path / "out" / "mug" / "run.yaml").read_text())
    assert (settings["placeholder_token"], settings["max_train_steps"]) == ("<mug>", 2)


def test_words_are_found_without_being_asked_for(run: Run) -> None:
    ended = run("train", MUG, "--model", "toybox", "--token", "<mug>", *QUICK, "--no_report")
    assert ended.status == 0
    assert re.search(r"^<mug> starts from the caption '.*', the best of \d+$", ended.err, re.MULTILINE)
    assert len((ended.err + ended.out).splitlines()) < 10
    learned = read_embedding("out/mug/learned_embeds.safetensors")
    assert "mug" in (learned.description or "")
    assert learned.training["initializer"]["method"] == "auto"
    assert not Path("out/mug/report.html").exists()


@pytest.mark.parametrize(("options", "numbers"), [([], (1, 2)), (["--train_text_encoders", "text_encoder_2"], (2,))])
def test_train_on_a_pipeline_with_two_text_encoders(
    options: list[str], numbers: tuple[int, ...], tmp_path: Path, run: Run
) -> None:
    FAMILY["stable_diffusion_xl"].build().save_pretrained(tmp_path / "sdxl")
    words = ["train", MUG, "--model", str(tmp_path / "sdxl"), "--token", "<mug>", "--initializer", "a red mug"]
    assert run(*words, *QUICK, "--resolution", "16", "--no_report", *options).status == 0
    names = {1: "learned_embeds.safetensors", 2: "learned_embeds_2.safetensors"}
    written = {path.name for path in (tmp_path / "out" / "mug").glob("*.safetensors")} - {"checkpoint.safetensors"}
    assert written == {names[number] for number in numbers}


@pytest.mark.filterwarnings("ignore:.*(Quanto|torch_dtype).* is deprecated:FutureWarning")
def test_train_on_a_quantised_denoiser_without_t5(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    FAMILY["stable_diffusion_3"].build().save_pretrained(tmp_path / "sd3")
    words = ["train", MUG, "--model", str(tmp_path / "sd3"), "--token", "<mug>", "--initializer", "a red mug"]
    words += [
        *QUICK,
        "--resolution",
        "16",
        "--no_report",
        "--components_to_leave_out",
        "text_encoder_3",
        "tokenizer_3",
    ]
    loaded = []
    original = DiffusionPipeline.from_pretrained.__func__

    def from_pretrained(cls: Any, *args: Any, **options: Any) -> Any:
        loaded.append(original(cls, *args, **options))
        return loaded[-1]

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", classmethod(from_pretrained))
    assert run(*words, "--quant_backend", "quanto", "--quant_kwargs", '{"weights_dtype": "int8"}').status == 0
    (pipe,) = loaded
    assert pipe.text_encoder_3 is None
    assert any("QBytes" in type(weight).__name__ for weight in pipe.transformer.parameters())
    for mistake, message in (
        (["--quant_kwargs", "int8", "--quant_backend", "quanto"], "quant_kwargs: expected JSON, got 'int8'"),
        (["--quant_backend", "bitsandbytes_4bit"], "quant_backend 'bitsandbytes_4bit': "),
        (["--quant_backend", "abacus"], "quant_backend: expected one of auto-round, bitsandbytes_4bit"),
        (
            ["--quant_backend", "quanto", "--quant_kwargs", '{"weights_dtype": "int3"}'],
            "error: quant_kwargs: Only support",
        ),
        (
            ["--quant_backend", "quanto", "--components_to_quantize", "tokenizer_9"],
            "components_to_quantize: expected some of scheduler, ",
        ),
        (["--components_to_quantize", "unet"], "quant_backend: expected one with components_to_quantize"),
    ):
        assert message in run(*words, "--overwrite", *mistake).err
    ended = run(*words[:-3], "--overwrite", "--components_to_leave_out", "text_encoder_4")
    assert re.search(r"components_to_leave_out: expected some of scheduler, .*, got text_encoder_4", ended.err)


def test_train_takes_a_list_of_concepts(run: Run, tmp_path: Path) -> None:
    words = ["--concepts", str(TOYBOX / "concepts" / "metadata.jsonl"), "--initializer_column", "class"]
    settings = ["--max_train_steps", "1", "--validation_samples", "0", "--train_batch_size", "1", "--masked_loss"]
    ended = run("train", "--model", "toybox", *words, *settings)
    assert ended.status == 0
    assert "12 trained." in ended.out
    assert "12 there already." in run("train", "--model", "toybox", *words, *settings).out
    library = str(Path("out") / "concepts")
    assert run("library", "verify", library).out == "12 concepts, all as they were saved\n"
    assert run("library", "remove", library, "<mug>").out == "removed <mug>; 11 concepts left\n"
    assert "1 to train; about" in run("train", "--model", "toybox", *words, *settings, "--dry_run").out
    assert "11 concepts copied, 11 in other" in run("library", "merge", library, "other").out
    assert run("library", "list", "other").out.endswith("11 concepts\n")
    (tmp_path / "other" / "bear" / "learned_embeds.safetensors").write_bytes(b"")
    damaged = run("library", "verify", "other")
    assert damaged.status == 1
    assert "bear/learned_embeds.safetensors: its bytes are not those that were saved" in damaged.out
    clock = tmp_path / "out" / "concepts" / "clock" / "learned_embeds.safetensors"
    assert read_embedding(clock).description == "clock"


@pytest.mark.parametrize("train_on", ["crop", "image"])
def test_train_on_what_was_clicked(train_on: str, run: Run, tmp_path: Path) -> None:
    ended = run(
        *("train", str(SCENE), "--model", "toybox", "--token", "<toy>", "--points", CLICK, "--train_on", train_on),
        *("--max_train_steps", "1", "--validation_samples", "2", "--score_samples", "8", "--num_inference_steps", "2"),
    )
    assert ended.status == 0
    assert CLICKED["class"] in (read_embedding(tmp_path / "out/toy/learned_embeds.safetensors").description or "")
    sheet = Image.open(tmp_path / "out" / "toy" / "sheet.png")
    assert sheet.width <= 2000


# nothing is lost


def test_a_folder_with_a_file_of_ones_own_is_refused_before_training(run: Run, tmp_path: Path) -> None:
    for name in ("README.md", "report.html", "sheet.png", "run.yaml"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("mine")
        ended = train(run, "--output_dir", str(folder))
        assert ended.status == 1
        assert re.search(rf"cannot replace .*{name}': no earlier (save|run) wrote it; choose another", ended.err)
        assert [path.name for path in folder.iterdir()] == [name]


def test_another_result_is_refused_before_training_and_overwritten_if_asked(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out" / "mug" / "learned_embeds.safetensors"
    assert train(run, "--no_report").status == 0
    before = file.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(SupremeInitTextualInversionTrainer, "train", lambda *_: pytest.fail("it trained"))
        for more in ((), ("--resume_from_checkpoint", "gone.safetensors")):
            assert train(run, "--seed", "1", *more).status == 1
    assert file.read_bytes() == before
    assert train(run, "--seed", "1", "--overwrite", "--no_report").status == 0
    assert file.read_bytes() != before


def test_the_first_interrupt_saves_what_was_learned_and_the_run_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, before = TrainingLoop.train_step, signal.getsignal(signal.SIGINT)
    file = tmp_path / "out" / "mug" / "learned_embeds.safetensors"

    def interrupted(self: Any, number: int) -> Any:
        if number == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self, number)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingLoop, "train_step", interrupted)
        ended = run(*_four_steps("out/mug"))
    stopped = read_embedding(file)
    assert ended.status == 130
    assert (stopped.training["status"], stopped.training["steps"]) == ("stopped", 2)
    assert "stopping after this step, then saving" in ended.err
    assert signal.getsignal(signal.SIGINT) is before
    following = ended.out.strip().splitlines()[-1]
    assert following.startswith("To go on: supreme-init ")
    assert run(*following.removeprefix("To go on: supreme-init ").split()).status == 0
    resumed = file.read_bytes()
    assert json.loads((file.parent / "training.json").read_text())["seconds"] > 0  # of both parts
    assert yaml.safe_load((file.parent / "run.yaml").read_text())["resume_from_checkpoint"] is None
    assert run(*_four_steps("plain")).status == 0
    assert resumed == (tmp_path / "plain" / "learned_embeds.safetensors").read_bytes()


def _four_steps(output_dir: str) -> list[str]:
    words = ["train", MUG, "--model", "toybox", "--token", "<mug>", "--initializer", "a red mug", "--no_report"]
    return [*words, "--max_train_steps", "4", "--validation_samples", "2", "--output_dir", output_dir]


@pytest.mark.parametrize("ignored", [False, True])
def test_a_second_interrupt_ends_at_once(
    ignored: bool, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TrainingLoop.train_step

    def interrupted(self: Any, number: int) -> Any:
        if number == 1:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return step(self, number)

    monkeypatch.setattr(TrainingLoop, "train_step", interrupted)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        ended = run(*_four_steps("out/mug"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.status == 130
    assert ended.err.splitlines()[-1] == "error: interrupted"
    assert not (tmp_path / "out" / "mug" / "learned_embeds.safetensors").exists()


def test_an_interrupt_while_words_are_found_ends_at_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def interrupted(*_: Any, **__: Any) -> Any:
        asked.append(1)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("diffusers_supreme_init.training.word_finding.fixed_noise_losses", interrupted)
    ended = run("train", MUG, "--model", "toybox", "--token", "<mug>", "--output_dir", "out/mug")
    assert (ended.status, ended.err.splitlines()[-1], asked) == (130, "error: interrupted", [1])
    assert not (tmp_path / "out" / "mug" / "learned_embeds.safetensors").exists()


def test_what_was_made_with_the_toybox_is_not_published(run: Run, mug: Path) -> None:
    ended = train(run, "--push_to_hub", "--hub_model_id", "user/mug")
    assert "what is made with the toybox is not published" in ended.err
    assert "made with the toybox" in run("push", str(mug), "user/mug").err
    assert "made with the toybox" in run("push", str(mug), "user/mug", "--allow_toybox").err


# drawing


def test_generate_draws_with_the_model_of_the_concept(run: Run, mug: Path, tmp_path: Path) -> None:
    prompts = ["a photo of <mug>", "a photo of <mug> on a sky background"]
    ended = run(
        "generate", *prompts, "--concepts", str(mug), "--num_images_per_prompt", "2", "--num_inference_steps", "2"
    )
    assert ended.status == 0
    folder = tmp_path / "out" / "pictures"
    assert {path.name for path in folder.iterdir()} == {
        *("0-0.png", "0-1.png", "1-0.png", "1-1.png", "prompts.txt", "sheet.png")
    }
    first, second = (np.asarray(Image.open(folder / name)) for name in ("0-0.png", "0-1.png"))
    assert first.shape == (64, 64, 3)
    assert not np.array_equal(first, second)


def test_a_misspelt_concept_is_refused_before_drawing(run: Run, mug: Path, tmp_path: Path) -> None:
    ended = run("generate", "a photo of <mugg>", "--concepts", str(mug))
    assert ended.status == 1
    assert (
        "'a photo of <mugg>': <mugg> is not a word that was loaded (loaded: <mug>); did you mean <mug>?" in ended.err
    )
    assert "expected a prompt with <mug>, got 'a photo'" in run("generate", "a photo", "--concepts", str(mug)).err
    assert not (tmp_path / "out").exists()


def test_advice_names_only_options_that_the_command_has(run: Run, tmp_path: Path) -> None:
    torch.save({"<mug>": torch.ones(1, 128)}, tmp_path / "mug.pt")
    said = run("generate", "a photo of <mug>", "--concepts", "mug.pt", "--model", "toybox").err
    assert "pass allow_pickle=True, or convert it once with `supreme-init convert --allow_pickle`" in said
    assert "pass --allow_pickle" in run("convert", "mug.pt", "out", "--format", "kohya").err


def test_what_was_drawn_is_written_beside_it(run: Run, mug: Path, tmp_path: Path) -> None:
    words = ["generate", "a <mug>", "--concepts", str(mug), "--num_inference_steps", "1"]
    assert run(*words, "--num_images_per_prompt", "16").status == 0
    assert (tmp_path / "out" / "pictures" / "prompts.txt").read_text().startswith("0: a <mug>\n")
    assert 1500 < Image.open(tmp_path / "out" / "pictures" / "sheet.png").width <= 2000


# describing


def test_describe_compares_words_for_the_mug(run: Run) -> None:
    ended = run("describe", MUG, "--model", "toybox", "--score_samples", "8")
    assert ended.status == 0
    assert re.search(r"^words:   .*mug.* \(caption\)$", ended.out, re.MULTILINE)


def test_describe_finds_what_was_clicked(run: Run, tmp_path: Path) -> None:
    ended = run(
        "describe",
        str(SCENE),
        "--model",
        "toybox",
        "--points",
        CLICK,
        "--initializer",
        "caption",
        "--output_dir",
        "click",
    )
    assert re.search(rf"^words:   .*{CLICKED['class']}", ended.out, re.MULTILINE)
    assert "region:" in ended.out
    truth = np.asarray(Image.open(SCENE.parent / CLICKED["mask_file_name"]).convert("L")) > 127
    found = np.asarray(Image.open(tmp_path / "click" / "mask.png").convert("L")) > 127
    assert (truth & found).sum() / (truth | found).sum() > 0.85
    assert Image.open(tmp_path / "click" / "region.png").width >= 3 * 256


def test_describe_finds_what_words_name(run: Run, tmp_path: Path) -> None:
    words = ("describe", str(SCENE), "--model", "toybox", "--region_words", "cat", "--initializer", "caption")
    assert re.match(r"error: segmenter: expected a model that takes words \(SAM 3\), got ", run(*words).err)
    ended = run(*words, "--segmenter", str(build_sam3(tmp_path / "sam3")), "--output_dir", "said")
    assert re.search(
        r"^region:  \d+ pixels, .*, score 0\.\d\d(, the likeliest of \d found)?$", ended.out, re.MULTILINE
    )
    assert Image.open(tmp_path / "said" / "region.png").width >= 3 * 256


def test_the_toybox_brings_its_describers_unless_others_are_named() -> None:
    def captioner_and_classifier(*words: str) -> tuple[Any, Any]:
        values = parse(COMMANDS["describe"], ["a.png", *words]).values
        return values["captioner"], values["classifier"]

    own = str(TOYBOX / "captioner"), str(TOYBOX / "classifier")
    assert captioner_and_classifier("--model", "toybox") == own
    assert captioner_and_classifier("--pretrained_model_name_or_path", f"{TOYBOX}/pipeline/") == own
    assert captioner_and_classifier("--model", "toybox", "--captioner", "user/c") == ("user/c", own[1])
    assert captioner_and_classifier("--model", "toybox", "--candidate_labels", "mug", "cup") == (own[0], None)
    assert captioner_and_classifier("--model", "user/model")[0] == "Salesforce/blip-image-captioning-base"


def test_what_was_clicked_counts_and_its_surroundings_a_little() -> None:
    def masked(*words: str) -> tuple[Any, Any]:
        values = parse(COMMANDS["train"], [MUG, "--token", "<mug>", *words]).values
        return values["masked_loss"], values["unmasked_weight"]

    assert masked() == (False, 0.0)
    assert masked("--points", "4,2") == masked("--box", "1,2,3,4") == masked("--region_mask", "m.png") == (True, 0.25)
    assert masked("--region_words", "the mug") == (True, 0.25)
    assert masked("--points", "4,2", "--unmasked_weight", "0") == (True, 0.0)
    assert masked("--points", "4,2", "--masked_loss", "false") == (False, 0.0)
    assert masked("--points", "4,2", "--paper") == (False, 0.0)


def test_folders_that_cannot_be_written_are_found_before_the_work(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert re.match("error: cannot write .*file", run("describe", MUG, "--output_dir", str(tmp_path / "file")).err)


# comparing, measuring, converting


@pytest.mark.long
def test_compare_leaves_sheets_numbers_and_a_table(run: Run, tmp_path: Path) -> None:
    pictures = [MUG, str(TOYBOX / "concepts" / "car.png")]
    ended = run(
        *("compare", *pictures, "--model", "toybox", "--initializers", "a red mug", "*", "--steps", "2", "0"),
        *("--seeds", "3", "4", "--num_inference_steps", "2"),
    )
    assert ended.status == 0
    folder = tmp_path / "out" / "compare"
    for name in ("mug", "car"):
        assert 400 < Image.open(folder / name / "compare.png").width <= 2000
        assert {path.name for path in (folder / name).iterdir() if path.is_dir()} == {
            *("a-red-mug-3", "a-red-mug-4", "star-3", "star-4")
        }
    lines = (folder / "losses.csv").read_text().splitlines()
    assert lines[0] == "picture,start,words,seed,step,loss"
    assert len(lines) == 1 + 2 * 2 * 2 * 2
    table = (folder / "table.md").read_text()
    assert table in ended.out
    assert re.search(r"^\| \* \| 0\.\d+ \| 0\.\d+ \| \S+ \[\S+, \S+\] \|$", table, re.MULTILINE)
    assert "2 pictures and 2 seeds" in table


def test_evaluate_measures_a_concept(run: Run, mug: Path) -> None:
    ended = run("evaluate", MUG, "--concept", str(mug), "--num_inference_steps", "2", "--seeds", "0")
    assert ended.status == 0
    assert "denoising error: 0." in ended.out
    assert "On the toybox only the denoising error is measured" in ended.out
    assert json.loads((mug / "evaluation.json").read_text())["placeholder_token"] == "<mug>"


def test_evaluate_reads_the_pictures_before_the_model(run: Run, mug: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("text.png").write_text("no picture")
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    assert "expected a picture file" in run("evaluate", "text.png", "--concept", str(mug)).err


def test_convert_says_what_it_wrote(run: Run, mug: Path) -> None:
    words = ("convert", str(mug), "mug.safetensors", "--format", "comfyui", "--encoder_keys", "clip_l")
    assert run(*words).out == "mug.safetensors: <mug> clip_l (3, 128) float32\n"
    assert "--overwrite" in run(*words).err


# what is installed


def test_env_names_versions_and_devices(run: Run) -> None:
    ended = run("env")
    for name in ("python", "diffusers_supreme_init", "torch", "devices", "Hub", "toybox"):
        assert re.search(rf"^{name} +\S", ended.out, re.MULTILINE), name
    assert os.path.expanduser("~") not in ended.out or os.path.expanduser("~") == "/"


def test_the_toybox_says_what_to_type(run: Run) -> None:
    ended = run("toybox", "--output_dir", "toys")
    commands = re.findall(r"^  supreme-init (.*)$", ended.out, re.MULTILINE)
    assert [words.split()[0] for words in commands] == ["train", "generate", "train", "compare"]
    assert len(list(Path("toys").glob("*.png"))) == 16
    for words in commands:
        parse(COMMANDS[words.split()[0]], shlex.split(words)[1:])
        assert all(Path(word).is_file() for word in words.split() if word.endswith(".png"))
    assert "expected a folder without" in run("toybox", "--output_dir", "toys").err


def test_a_missing_toybox_is_said(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(toybox, "_IN_A_CLONE", tmp_path)
    monkeypatch.setattr(toybox, "find_spec", lambda name: None)
    for words in (("toybox",), ("train", MUG, "--token", "<mug>", "--model", "toybox")):
        assert "the toybox is not installed; pip install diffusers-supreme-init-toybox" in run(*words).err


def test_python_m_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "diffusers_supreme_init", "--version"], capture_output=True, text=True, timeout=120
    )
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", done.stdout)


# the terminal


def test_bars_become_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    stream = io.StringIO()
    lines = terminal._Lines(stream)
    lines.write("begin\n")
    lines.write("\rquick: 0/9 [00:00]")
    lines.write("\r                 \r")  # taken away within seconds
    for second in range(13):
        now = 100.0 + second
        lines.write(f"\rtraining: {second}/12 [00:{second:02}]")
    lines.write("\rtraining: 12/12 [00:13]\n")
    lines.write("done\n")
    steps = ["training: 5/12 [00:05]", "training: 10/12 [00:10]", "training: 12/12 [00:13]"]
    assert stream.getvalue().splitlines() == ["begin", *steps, "done"]


@pytest.mark.parametrize("words", [["toybox"], ["completion", "bash"], ["push", "nothing", "user/mug"]])
def test_commands_without_models_do_not_wait_for_diffusers(words: list[str]) -> None:
    code = f"from diffusers_supreme_init.commands import main; main({words!r})"
    code += "; import sys; assert 'diffusers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_other_libraries_get_their_voice_back(run: Run) -> None:
    before = logging.get_verbosity()
    run("env")
    assert logging.get_verbosity() == before


def test_the_page_of_all_options_is_current() -> None:
    assert commands_page.PAGE.read_text(encoding="utf-8") == commands_page.page(), "run tests/commands_page.py"


def test_the_toybox_is_drawn_with_the_guidance_that_suits_it(
    run: Run, mug: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    call = StableDiffusionPipeline.__call__

    def calling(self: Any, *args: Any, **options: Any) -> Any:
        asked.append(options["guidance_scale"])
        return call(self, *args, **options)

    monkeypatch.setattr(StableDiffusionPipeline, "__call__", calling)
    words = ["generate", "a photo of <mug>", "--concepts", str(mug), "--num_inference_steps", "1"]
    for more in ((), ("--model", "toybox"), ("--guidance_scale", "3")):
        assert run(*words, "--num_images_per_prompt", "1", *more).status == 0
    assert asked == [2.0, 2.0, 3.0]


@pytest.mark.skipif(os.name == "nt", reason="bash")
def test_bash_completes_commands_and_options(run: Run, tmp_path: Path) -> None:
    (tmp_path / "completion.sh").write_text(run("completion", "bash").out)
    for words, expected in (("tr", "train"), ("train --max_tr", "--max_train_steps"), ("compare --see", "--seeds")):
        given = ["supreme-init", *words.split()]
        script = f"source completion.sh; COMP_WORDS=({' '.join(given)}); COMP_CWORD={len(given) - 1}; "
        script += f"_shtab_supreme_init supreme-init {given[-1]} {given[-2]}; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=60)
        assert expected in done.stdout.split(), done.stderr
    assert "expected one shell of bash, zsh" in run("completion", "dos").err
