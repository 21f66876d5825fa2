"""What a newcomer runs: the README's Python, `examples/train.py`, `examples/generate.py`, the demo's parts."""

import copy
import json
import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, TOYBOX, draw_in_two_steps
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from tiny.describers import build_clip
from tiny.every_family import FAMILY
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from diffusers_supreme_init import (
    DescriberConfig,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    evaluation,
    read_embedding,
)
from diffusers_supreme_init.metrics import CLIPEmbedder, CLIPImageSimilarity, CLIPTextSimilarity
from diffusers_supreme_init.training.loop import TrainingLoop

EXAMPLES = ROOT / "examples"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the namespace of an example, imported as the interpreter would run it."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return lambda name: runpy.run_path(str(EXAMPLES / name), run_name="example")


def test_first_python_of_the_readme_comes_early() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert lines.index("```python") < 40


def test_every_python_block_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toybox stands in for Hub ids, its mug and a scene for photos, 2 steps for 100 and for 20, the CPU for CUDA.

    SDXL is stood for by the toybox with a second text encoder, the default metrics by those of a tiny CLIP.
    """
    shutil.copy(TOYBOX / "concepts" / "mug.png", tmp_path / "mug.png")
    Image.open(tmp_path / "mug.png").convert("RGB").save(tmp_path / "mug.jpg")
    Image.open(TOYBOX / "scenes" / "scene_1.png").save(tmp_path / "desk.jpg")
    monkeypatch.chdir(tmp_path)
    from_pretrained = DiffusionPipeline.from_pretrained.__func__

    def from_toybox(cls: Any, name: str, **options: Any) -> Any:
        if cls is StableDiffusionXLPipeline:
            assert name == "stabilityai/stable-diffusion-xl-base-1.0"
            parts = from_pretrained(DiffusionPipeline, TOYBOX / "pipeline").components
            shared = {part: parts[part] for part in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
            second = CLIPTextModelWithProjection(
                CLIPTextConfig(**parts["text_encoder"].config.to_dict() | {"hidden_size": 32})
            )
            return cls(**shared, text_encoder_2=second, tokenizer_2=copy.deepcopy(parts["tokenizer"]))
        assert name == "stable-diffusion-v1-5/stable-diffusion-v1-5"
        return from_pretrained(cls, TOYBOX / "pipeline", **options)

    original_init = SupremeInitConfig.__post_init__

    def two_steps(self: SupremeInitConfig) -> None:
        self.max_train_steps, self.validation_samples = 2, 2
        original_init(self)

    original_describers_init = DescriberConfig.__post_init__

    def of_the_toybox(self: DescriberConfig) -> None:
        for name in ("captioner", "classifier", "segmenter"):
            setattr(self, name, str(TOYBOX / name))
        original_describers_init(self)

    draw_in_two_steps(monkeypatch, StableDiffusionPipeline, StableDiffusionXLPipeline)
    monkeypatch.setattr(DescriberConfig, "__post_init__", of_the_toybox)
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", classmethod(from_toybox))
    monkeypatch.setattr(SupremeInitConfig, "__post_init__", two_steps)
    clip = CLIPEmbedder(build_clip(tmp_path / "clip"))
    monkeypatch.setattr(evaluation, "default_metrics", lambda: [CLIPImageSimilarity(clip), CLIPTextSimilarity(clip)])
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 6
    for block in blocks:
        for usual, here in (('.to("cuda")', '.to("cpu")'), ("num_inference_steps=20", "num_inference_steps=2")):
            block = block.replace(usual, here)
        exec(compile(block, "README.md", "exec"), {})
    assert Image.open("beach.png").size == (64, 64)
    assert Path("out/mug/learned_embeds.safetensors").is_file()
    assert Image.open("crop.png").width > 64
    assert Path("out/two/star/learned_embeds.safetensors").is_file()
    assert Path("out/mug/evaluation.json").is_file()


def test_paths_and_targets_that_the_readme_names_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    assert not re.search(r"^[A-Z_]{5,}$", readme, re.MULTILINE), "a stand-in for text"
    for path in re.findall(r"\]\((?!http)([^)]+)\)|(?:python|launch) (examples/[^\s`]+)", readme):
        assert (ROOT / (path[0] or path[1])).exists(), path
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)`", readme + (ROOT / "CONTRIBUTING.md").read_text())) <= targets


def test_train_without_options_trains_on_the_mug_of_the_toybox_and_generate_draws_it(
    tmp_path: Path, script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "mug")
    (file,) = script("train.py")["main"](["--output_dir", out, "--max_train_steps", "2", "--validation_samples", "2"])
    learned = read_embedding(file)
    concept = json.loads((TOYBOX / "concepts" / "metadata.jsonl").read_text().splitlines()[0])
    assert learned.placeholder_token == concept["placeholder_token"] == "<mug>"
    assert "mug" in (learned.description or "")  # nobody typed it
    assert learned.training["initializer"]["method"] == "auto"
    assert "<mug>: finished after 2 steps, fixed-noise loss" in capsys.readouterr().out
    arguments = ["--concepts", out, "--output_dir", str(tmp_path / "pictures"), "--num_images_per_prompt", "2"]
    prompts = ["a photo of <mug>", "a photo of <mug> on a sky background"]
    paths = script("generate.py")["main"]([*arguments, "--num_inference_steps", "2", "--prompts", *prompts])
    assert [path.name for path in paths] == ["0-0.png", "0-1.png", "1-0.png", "1-1.png"]
    pictures = [np.asarray(Image.open(path)) for path in paths]
    assert pictures[0].shape == (64, 64, 3)
    assert not np.array_equal(pictures[0], pictures[1])


@pytest.mark.parametrize(("options", "numbers"), [([], (1, 2)), (["--train_text_encoders", "text_encoder_2"], (2,))])
def test_train_on_a_pipeline_with_two_text_encoders(
    options: list[str], numbers: tuple[int, ...], tmp_path: Path, script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    FAMILY["stable_diffusion_xl"].build().save_pretrained(tmp_path / "sdxl")
    out = tmp_path / "mug"
    arguments = ["--pretrained_model_name_or_path", str(tmp_path / "sdxl"), "--output_dir", str(out)]
    arguments += ["--images", str(TOYBOX / "concepts" / "mug.png"), "--placeholder_token", "<mug>"]
    arguments += [
        "--initializer",
        "a red mug",
        "--max_train_steps",
        "2",
        "--validation_samples",
        "2",
        "--resolution",
        "16",
    ]
    files = script("train.py")["main"]([*arguments, *options])
    names = {1: "learned_embeds.safetensors", 2: "learned_embeds_2.safetensors"}
    assert files == [out / names[number] for number in numbers]
    told = capsys.readouterr().out
    assert "<mug>: finished after 2 steps, fixed-noise loss" in told
    assert all(str(file) in told for file in files)


@pytest.mark.filterwarnings("ignore:.*(Quanto|torch_dtype).* is deprecated:FutureWarning")
def test_train_on_a_quantised_denoiser_without_t5(
    tmp_path: Path, script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FAMILY["stable_diffusion_3"].build().save_pretrained(tmp_path / "sd3")
    arguments = ["--pretrained_model_name_or_path", str(tmp_path / "sd3"), "--output_dir", str(tmp_path / "mug")]
    arguments += ["--images", str(TOYBOX / "concepts" / "mug.png"), "--placeholder_token", "<mug>"]
    arguments += [
        "--initializer",
        "a red mug",
        "--resolution",
        "16",
        "--max_train_steps",
        "2",
        "--validation_samples",
        "2",
    ]
    arguments += ["--components_to_leave_out", "text_encoder_3", "tokenizer_3"]
    loaded = []
    original = DiffusionPipeline.from_pretrained.__func__

    def from_pretrained(cls: Any, *args: Any, **options: Any) -> Any:
        loaded.append(original(cls, *args, **options))
        return loaded[-1]

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", classmethod(from_pretrained))
    script("train.py")["main"](
        [*arguments, "--quant_backend", "quanto", "--quant_kwargs", '{"weights_dtype": "int8"}']
    )
    (pipe,) = loaded
    assert pipe.text_encoder_3 is None
    assert any("QBytes" in type(weight).__name__ for weight in pipe.transformer.parameters())
    assert "<mug>: finished after 2 steps" in capsys.readouterr().out
    for mistake, message in (
        (
            ["--quant_kwargs", "int8", "--quant_backend", "quanto"],
            "error: quant_kwargs: expected JSON, got 'int8'",
        ),
        (["--quant_backend", "bitsandbytes_4bit"], "error: quant_backend 'bitsandbytes_4bit': "),
        (["--quant_backend", "abacus"], "error: quant_backend: expected one of auto-round, bitsandbytes_4bit"),
        (
            ["--quant_backend", "quanto", "--quant_kwargs", '{"weights_dtype": "int3"}'],
            "error: quant_kwargs: Only support",
        ),
        (
            ["--quant_backend", "quanto", "--components_to_quantize", "tokenizer_9"],
            "components_to_quantize: expected some of scheduler, ",
        ),
        (["--components_to_quantize", "unet"], "error: quant_backend: expected one with components_to_quantize"),
    ):
        with pytest.raises(SystemExit, match=re.escape(message)):
            script("train.py")["main"]([*arguments, "--overwrite", *mistake])
    with pytest.raises(
        SystemExit, match=r"components_to_leave_out: expected some of scheduler, .*, got text_encoder_4"
    ):
        script("train.py")["main"]([*arguments[:-3], "--overwrite", "--components_to_leave_out", "text_encoder_4"])


def test_a_folder_with_a_card_of_ones_own_is_refused_before_training(tmp_path: Path, script: Any) -> None:
    (tmp_path / "README.md").write_text("# my project")
    with pytest.raises(
        SystemExit, match=r"error: cannot replace .*README.md': no earlier save wrote it; choose another"
    ):
        script("train.py")["main"](["--output_dir", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_compare_draws_every_start_after_every_step(tmp_path: Path, script: Any) -> None:
    options = ["--initializers", "a red mug", "*", "--steps", "2", "0", "--num_inference_steps", "2"]
    path = script("compare.py")["main"]([*options, "--output_dir", str(tmp_path)])
    sheet = Image.open(path)
    assert sheet.width > 3 * 160  # the picture given and two steps
    assert sheet.height > 2 * 160
    for start in ("start-0", "start-1"):
        names = {file.name for file in (tmp_path / start).iterdir()}
        assert names == {"learned_embeds-steps-0.safetensors", "learned_embeds-steps-2.safetensors"}


SCENE = TOYBOX / "scenes" / "scene_1.png"
CLICKED = json.loads((TOYBOX / "scenes" / "metadata.jsonl").read_text().splitlines()[0])["toys"][0]
CLICK = ",".join(map(str, CLICKED["click"]))


def test_describe_without_options_compares_words_for_the_mug(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    proposal = script("describe.py")["main"]([])
    assert "mug" in proposal.text
    assert {candidate.source for candidate in proposal.candidates} == {"class", "caption"}
    out = capsys.readouterr().out
    assert f"words:   {proposal.text} (caption)" in out
    assert proposal.table() in out


def test_describe_finds_what_was_clicked(tmp_path: Path, script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(SCENE), "--points", CLICK, "--initializer", "caption", "--output_dir", str(tmp_path)]
    proposal = script("describe.py")["main"](arguments)
    assert CLICKED["class"] in proposal.text
    assert "bear" not in proposal.text
    assert "region:" in capsys.readouterr().out
    truth = np.asarray(Image.open(SCENE.parent / CLICKED["mask_file_name"]).convert("L")) > 127
    found = np.asarray(Image.open(tmp_path / "mask.png").convert("L")) > 127
    assert (truth & found).sum() / (truth | found).sum() > 0.85
    assert Image.open(tmp_path / "crop.png").size == proposal.crop.size
    assert Image.open(tmp_path / "region.png").height == 256


def test_the_toybox_brings_its_describers_unless_others_are_named(script: Any) -> None:
    describe = script("describe.py")
    types = (describe["DescribeArguments"], DescriberConfig)

    def config(*given: str) -> DescriberConfig:
        return describe["parse"](types, given, description=None)[1]

    assert config().captioner == str(TOYBOX / "captioner")
    assert config("--pretrained_model_name_or_path", f"{TOYBOX}/pipeline/").segmenter == str(TOYBOX / "segmenter")
    usual = DescriberConfig()
    assert config("--captioner", usual.captioner).captioner == usual.captioner
    assert config("--pretrained_model_name_or_path", "user/model") == usual
    assert config("--candidate_labels", "mug", "cup").classifier is None


def test_folders_that_cannot_be_written_are_found_before_the_work(tmp_path: Path, script: Any) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SystemExit, match="error: cannot write .*file"):
        script("describe.py")["main"](["--output_dir", str(tmp_path / "file")])


def train_the_mug(script: Any, output_dir: Path, *more: str, steps: int = 2) -> Path:
    settings = ["--max_train_steps", str(steps), "--validation_samples", "0", "--initializer", "a red mug"]
    settings += ["--images", str(TOYBOX / "concepts" / "mug.png"), "--placeholder_token", "<mug>"]
    (file,) = script("train.py")["main"]([*settings, "--output_dir", str(output_dir), *more])
    return file


def test_another_result_is_refused_before_training_and_overwritten_if_asked(
    tmp_path: Path, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = train_the_mug(script, tmp_path).read_bytes()
    train = SupremeInitTextualInversionTrainer.train
    with monkeypatch.context() as patched:
        patched.setattr(SupremeInitTextualInversionTrainer, "train", lambda *_: pytest.fail("it trained"))
        with pytest.raises(SystemExit, match=r"error: .* holds a result of <mug> already; pass overwrite to replace"):
            train_the_mug(script, tmp_path, "--seed", "1")
        with pytest.raises(SystemExit, match=r"error: .* holds a result of <mug> already"):
            train_the_mug(script, tmp_path, "--seed", "1", "--resume_from_checkpoint", "latest")  # there is none
    assert SupremeInitTextualInversionTrainer.train is train
    assert train_the_mug(script, tmp_path, "--seed", "1", "--overwrite").read_bytes() != before


def test_the_first_interrupt_saves_what_was_learned_and_the_run_goes_on(
    tmp_path: Path, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, before = TrainingLoop.train_step, signal.getsignal(signal.SIGINT)

    def interrupted(self: Any, number: int) -> Any:
        if number == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self, number)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingLoop, "train_step", interrupted)
        stopped = read_embedding(train_the_mug(script, tmp_path / "stopped", steps=4))
    assert (stopped.training["status"], stopped.training["steps"]) == ("stopped", 2)
    assert signal.getsignal(signal.SIGINT) is before
    resumed = train_the_mug(script, tmp_path / "stopped", "--resume_from_checkpoint", "latest", steps=4)
    assert resumed.read_bytes() == train_the_mug(script, tmp_path / "plain", steps=4).read_bytes()


@pytest.mark.parametrize("train_on", ["crop", "image"])
def test_train_on_what_was_clicked(train_on: str, tmp_path: Path, script: Any) -> None:
    arguments = ["--images", str(SCENE), "--placeholder_token", "<toy>", "--initializer", "auto", "--points", CLICK]
    settings = ["--max_train_steps", "1", "--validation_samples", "2", "--score_samples", "8", "--train_on", train_on]
    settings += ["--snr_gamma", "5"]  # as examples/toybox/README.md advises
    (file,) = script("train.py")["main"]([*arguments, *settings, "--output_dir", str(tmp_path)])
    assert CLICKED["class"] in (read_embedding(file).description or "")


def test_train_takes_a_list_of_concepts(tmp_path: Path, script: Any) -> None:
    arguments = ["--concepts", str(TOYBOX / "concepts" / "metadata.jsonl"), "--initializer_column", "class"]
    settings = ["--max_train_steps", "1", "--validation_samples", "0", "--train_batch_size", "1", "--masked_loss"]
    files = script("train.py")["main"]([*arguments, *settings, "--output_dir", str(tmp_path)])
    assert len(files) == 12
    assert read_embedding(tmp_path / "clock" / "learned_embeds.safetensors").description == "clock"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "a.png"], "error: expected --images, --placeholder_token and --initializer together"),
        (["--images", "a.png", "--concepts", "b.jsonl"], "error: expected either --concepts or --images, got both"),
        (["--learning_rate", "-1"], "error: learning_rate: expected above 0, or None, got -1.0"),
        (["--points", "40"], "error: expected 2 numbers with commas, as in --points 40,22, got '40'"),
        (["--points", "40,22"], "error: expected --images with a region or with --candidates, got none"),
        (["--points", "1,2", "--points", "3,4"], "error: --points was given more than once; write all its values"),
        (["--max_train_steps", "many"], "error: argument --max_train_steps.*: invalid int value: 'many'"),
        (["--poinst", "40,22"], "error: unknown option '--poinst'; did you mean --points?"),
        (["--max_train_step", "5"], "error: unknown option '--max_train_step'; did you mean --max_train_steps?"),
        (["--pretrained_model_name_or_path", str(ROOT)], "error: pretrained_model_name_or_path: expected a folder or"),
        (["--refiner_base_url", "http://127.0.0.1:9"], "error: expected --refiner_model with --refiner_base_url"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(arguments: list[str], message: str, script: Any) -> None:
    with pytest.raises(SystemExit, match=message):
        script("train.py")["main"](arguments)


def test_train_lists_every_option(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script("train.py")["main"](["--help"])
    text = capsys.readouterr().out
    for name in ("--images", "--initializer", "--max_train_steps", "--masked_loss", "--points", "--captioner"):
        assert name in text


def test_paired_differences_of_the_demo(script: Any) -> None:
    """Opposite noises are one measurement."""
    difference = script("demo.py")["paired_difference"]([1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 5.0, 5.0])
    assert difference["mean"] == -1.0
    assert difference["standard_error"] == pytest.approx(np.std([0.5, 1.5], ddof=1) / 2**0.5)
    assert difference["in_standard_errors"] == pytest.approx(difference["mean"] / difference["standard_error"])


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(EXAMPLES / "demo.py"), "--output_dir", str(tmp_path)], check=True, timeout=1200
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["steps"] == 100
    assert metrics["validation_loss"]["100"] < metrics["validation_loss"]["0"]
    for name in ("last step minus step 0", "words minus * at step 0"):
        assert metrics["paired_differences"][name]["in_standard_errors"] < -3
    untold, told = metrics["details"]["untold_kept"], metrics["details"]["told_kept"]
    assert untold["learned"] - untold["words_alone"] > 0.3
    assert told["learned"] > told["words_alone"] - 0.05
    assert metrics["num_judged_pictures"] >= 8
    assert (tmp_path / metrics["file"]).is_file()
    assert Image.open(tmp_path / "before_after.png").width > 500
    assert Image.open(tmp_path / "loss.png").width > 500


def test_the_toybox_loads_in_full_precision_without_options() -> None:
    pipe = StableDiffusionPipeline.from_pretrained(TOYBOX / "pipeline")
    assert {module.dtype for module in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}
    assert pipe.tokenizer.tokenize("*") == ["*</w>"]
    assert pipe.tokenizer.model_max_length == 77
