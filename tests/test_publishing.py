"""Publishing and pulling, through the unmodified Hub client, against a Hub on loopback."""

import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import pytest
import torch
from accelerate import cpu_offload
from conftest import HIDDEN_SIZE, ROOT, TOYBOX, build_tiny_pipeline, random_picture
from diffusers import StableDiffusionPipeline
from hub.client import HubWorker, hub_worker, shared_worker
from hub.faults import Fault
from hub.server import READ_TOKEN, WRITE_TOKEN
from huggingface_hub.utils import _http
from safetensors import safe_open

from diffusers_supreme_init import (
    Concept,
    OutputError,
    PublishError,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    push_to_hub,
)
from diffusers_supreme_init.errors import TrainingError
from diffusers_supreme_init.formats.embedding_file import read_embedding
from diffusers_supreme_init.hub_connection import DeadlineError, StillRunningError, within
from diffusers_supreme_init.sharing.card_editing import with_license, with_repository
from diffusers_supreme_init.sharing.saved_folder import publishable_files

SETUP = """
import logging, warnings
from diffusers_supreme_init.sharing import publishing
publishing._PAUSES = (0.01, 0.01, 0.01)
from diffusers_supreme_init import push_to_hub
from diffusers_supreme_init.errors import SupremeInitError
def push(folder, repo_id="user/mug", **options):
    made = push_to_hub(folder, repo_id, **options)
    return [made.commit, made.is_new_commit, made.url, list(made.files)]
"""
CAPTION = "a red mug with white stripes"
MODES = ["regular", "lfs", "xet"]
FILES = ["README.md", "images/0.png", "images/1.png", "learned_embeds.safetensors", "training.json"]
BASE = TOYBOX / "pipeline"
# Longer than any deadline here with the client's first imports, which take seconds on a busy machine; shorter than the
# storage would keep a push waiting.
BY_OUR_DEADLINE = 25
SECRETS = [b"/tmp", b"/home", b"/root", b"hf_write", b"TODO", b"secret place"]


@pytest.fixture(params=MODES)
def any_hub(request: pytest.FixtureRequest) -> HubWorker:
    return fresh(shared_worker(request.param, setup=SETUP))


@pytest.fixture
def hub() -> HubWorker:
    return fresh(shared_worker("xet", setup=SETUP))


def fresh(worker: HubWorker) -> HubWorker:
    worker.reset()
    is_large = () if worker.server.mode == "regular" else (".safetensors",)
    worker.server.set_large(from_bytes=10_000_000, suffixes=is_large)
    return worker


def trained(
    tokens: tuple[str, ...] = ("<mug>",), *, images: Any = None, pipe: Any = None, **settings: Any
) -> SupremeInitTextualInversionTrainer:
    if pipe is None:
        pipe = build_tiny_pipeline()
        pipe.register_to_config(_name_or_path="user/base")
    images = random_picture() if images is None else images
    concepts = [Concept(images=images, placeholder_token=token, initializer=CAPTION) for token in tokens]
    config = SupremeInitConfig(**{"max_train_steps": 2, "validation_samples": 2, **settings})
    trainer = SupremeInitTextualInversionTrainer(pipe, concepts=concepts, config=config)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def run() -> SupremeInitTextualInversionTrainer:
    """A finished run, for tests that only save it."""
    return trained()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secret place") / "mug"
    trained(output_dir=str(folder / "run")).save(folder, sample_prompts=("a photo of a {}", "a {} on the beach"))
    for name in ("checkpoint-2.safetensors", ".cache/x", "logs/events", "images/notes.txt", "secret.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not for others")
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "mug")


def test_push_push_again_and_pull(any_hub: HubWorker, folder: Path) -> None:
    server = any_hub.server
    first = any_hub.run(f"result = push({str(folder)!r})").check().value
    assert first[1:] == [True, f"{server.url}/user/mug", FILES]
    assert set(server.files("user/mug")) - {".gitattributes"} == set(FILES)
    assert len(server.commits("user/mug")) == 2  # the one that makes the repository, and ours
    assert server.statuses("POST", "/validate-yaml") == [200] * server.count("POST", "/validate-yaml")
    second = any_hub.run(f"result = push({str(folder)!r})").check().value
    assert second == [first[0], False, first[2], FILES]
    assert len(server.commits("user/mug")) == 2
    code = """
from conftest import build_tiny_pipeline
import torch
pipe, stock = build_tiny_pipeline(), build_tiny_pipeline()
reports = pipe.load_multitoken_inversion("user/mug")
stock.load_textual_inversion("user/mug")
converted = stock.maybe_convert_prompt("a <mug>", stock.tokenizer)
ids = [pipe.tokenizer("a <mug>").input_ids, stock.tokenizer(converted).input_ids]
rows = [one.text_encoder.get_input_embeddings().weight[i] for one, i in zip((pipe, stock), ids)]
result = [str(reports[0]), torch.equal(*rows), len(ids[0])]
"""
    report, is_equal, _ = any_hub.run(code).check().value
    assert report.startswith("<mug>: ")
    assert is_equal
    # After the first time, everything is there without the Hub.
    offline = any_hub.run(
        "from conftest import build_tiny_pipeline\n"
        "pipe = build_tiny_pipeline()\n"
        'result = str(pipe.load_multitoken_inversion("user/mug", local_files_only=True)[0])'
    )
    assert offline.check().value == report


def test_every_published_byte_may_be_seen(hub: HubWorker, folder: Path) -> None:
    made = hub.run(f"result = push({str(folder)!r}, license='mit')").check()
    for name in made.value[3]:
        data = (folder / name).read_bytes()
        assert not [secret for secret in SECRETS if secret in data], name
    assert "\nlicense: mit\n" in (folder / "README.md").read_text()


def test_a_card_in_the_repository_is_what_is_in_the_folder(hub: HubWorker, folder: Path) -> None:
    hub.run(f"push({str(folder)!r})").check()
    card = hub.run("result = huggingface_hub.ModelCard.load('user/mug').content").check().value
    assert card == (folder / "README.md").read_text()
    assert card.count('_inversion("user/mug")') == 2
    data = hub.run("result = huggingface_hub.model_info('user/mug').card_data.to_dict()").check().value
    assert data["base_model"] == "user/base"
    assert data["base_model_relation"] == "adapter"
    assert data["library_name"] == "diffusers"
    assert "textual_inversion" in data["tags"]
    assert [entry["output"]["url"] for entry in data["widget"]] == ["images/0.png", "images/1.png"]
    assert "license" not in data  # the base model is not known there


def test_the_licence_of_the_base_model_is_inherited(hub: HubWorker, folder: Path) -> None:
    front_matter = b"---\nlicense: openrail++\n---\n# base"
    hub.server.create_repo("user/base", {"README.md": front_matter})
    hub.run(f"push({str(folder)!r})").check()
    assert hub.run("result = huggingface_hub.model_info('user/mug').card_data.license").value == "openrail++"


def test_fewer_pictures_than_before_leave_none_behind(hub: HubWorker, folder: Path) -> None:
    hub.run(f"push({str(folder)!r})").check()
    (folder / "images" / "1.png").unlink()
    hub.run(f"push({str(folder)!r})").check()
    assert "images/1.png" not in hub.server.files("user/mug")
    assert "images/0.png" in hub.server.files("user/mug")


def test_private_repositories_branches_and_pull_requests(hub: HubWorker, folder: Path) -> None:
    hub.run(f"push({str(folder)!r}, private=True)").check()
    assert hub.server.repo("user/mug").private
    hub.run(f"push({str(folder)!r}, private=True)").check()
    hub.server.create_repo("user/seen")
    refused = hub.run(f"push({str(folder)!r}, 'user/seen', private=True)")
    assert refused.error_type == "PublishError"
    assert "expected a private repository, got a public one" in refused.error
    assert list(hub.server.files("user/seen")) == [".gitattributes"]
    denied = hub.run("result = huggingface_hub.list_repo_files('user/mug')", token=None)
    assert denied.error_type == "RepositoryNotFoundError"
    branch = hub.run(f"result = push({str(folder)!r}, revision='v2', commit_message='second')").check()
    assert branch.value[1] is False  # a new branch begins with the same files
    (folder / "training.json").write_text("{}")
    hub.run(f"push({str(folder)!r}, revision='v2', commit_message='second')").check()
    assert hub.server.commits("user/mug", "v2")[0].title == "second"
    assert len(hub.server.commits("user/mug")) == 2
    request = hub.run(f"result = push({str(folder)!r}, create_pr=True)").check()
    assert "/discussions/" in request.value[2]
    assert len(hub.server.commits("user/mug")) == 2


FAULTS = [
    # what happens, on which request; whether the push succeeds all the same
    (Fault("POST", "/api/repos/create", 500), True),
    (Fault("POST", "/api/repos/create", "reset"), True),
    (Fault("POST", "/api/repos/create", "lost_answer"), True),
    (Fault("POST", "/validate-yaml", 500), True),
    (Fault("POST", "/preupload/", 500), True),
    (Fault("POST", "/preupload/", 503), True),
    (Fault("POST", "/preupload/", 429), True),
    (Fault("POST", "/preupload/", "reset"), True),
    (Fault("POST", "/commit/", 500), True),
    (Fault("POST", "/commit/", 503), True),
    (Fault("POST", "/commit/", "reset"), True),
    (Fault("POST", "/commit/", "lost_answer"), True),
    (Fault("POST", "/commit/", 412), True),
    (Fault("POST", "/commit/", 401, times=None), False),
    (Fault("POST", "/commit/", 403, times=None), False),
    (Fault("POST", "/commit/", 409, times=None), False),
    (Fault("POST", "/commit/", 412, times=None), False),
    (Fault("POST", "/commit/", 500, times=None), False),
    (Fault("POST", "/commit/", "reset", times=None), False),
    (Fault("POST", "/preupload/", 403, times=None), False),
    (Fault("POST", "/api/repos/create", 500, times=None), False),
    (Fault("POST", "/api/repos/create", 403, times=None), False),
]


@pytest.mark.parametrize(
    ("fault", "succeeds"),
    FAULTS,
    ids=lambda value: f"{value.path_pattern}-{value.kind}-{value.times}" if isinstance(value, Fault) else "",
)
def test_faults(any_hub: HubWorker, folder: Path, fault: Fault, succeeds: bool) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    any_hub.server.add_fault(fault)
    made = any_hub.run(f"result = push({str(folder)!r})")
    commits = any_hub.server.commits("user/mug")[:-1] if any_hub.server.has_repo("user/mug") else []
    if succeeds:
        made.check()
        assert len(commits) == 1
        assert set(FILES) <= set(any_hub.server.files("user/mug"))
    else:
        assert made.error_type == "PublishError"
        assert re.search(
            r"cannot push to 'user/mug': .* the folder '.*' is complete: push_to_hub\(.*\) tries again",
            made.error or "",
        )
        assert commits == []
        assert before == {path: path.read_bytes() for path in before}
        any_hub.server.clear_faults()
        any_hub.run(f"push({str(folder)!r})").check()  # and it does
        assert len(any_hub.server.commits("user/mug")) == 2
    card = folder / "README.md"
    assert before | {card: card.read_bytes()} == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize("kind", [500, "reset", "reset_body", "lost_answer"])
@pytest.mark.parametrize("times", [1, None])
def test_faults_of_large_files(folder: Path, kind: Any, times: int | None) -> None:
    worker = fresh(shared_worker("lfs", setup=SETUP))
    worker.server.add_fault(Fault("PUT", "/", kind, times=times))
    made = worker.run(f"result = push({str(folder)!r})")
    if times == 1 or kind == "lost_answer":  # the file is there: asked again, the Hub does not want it
        made.check()
        assert len(worker.server.commits("user/mug")) == 2
    else:
        assert made.error_type == "PublishError"
        assert len(worker.server.commits("user/mug")) == 1
        worker.server.clear_faults()
        worker.run(f"push({str(folder)!r})").check()
        assert len(worker.server.commits("user/mug")) == 2


def test_a_repository_that_is_for_ever_busy_ends_by_our_deadline(hub: HubWorker, folder: Path) -> None:
    busy = "Cannot create repo: another conflicting operation is in progress"
    hub.server.add_fault(Fault("POST", "/api/repos/create", 409, times=None, message=busy))
    made = hub.run(f"push({str(folder)!r}, timeout=3)", timeout=30)
    assert made.error_type == "PublishError"
    assert "no success within 3 s" in (made.error or "")
    assert made.seconds < BY_OUR_DEADLINE


def test_a_hub_that_does_not_answer_ends_by_our_deadline(hub: HubWorker, folder: Path) -> None:
    hub.server.add_fault(Fault("POST", "/commit/", "slow", times=None, seconds=60))
    made = hub.run(f"push({str(folder)!r}, timeout=4)", timeout=40)
    assert made.error_type == "PublishError"
    assert made.seconds < BY_OUR_DEADLINE


def test_a_hub_that_asks_to_wait_an_hour_ends_by_our_deadline(hub: HubWorker, folder: Path) -> None:
    hub.server.add_fault(Fault("POST", "/preupload/", 429, times=None, retry_after=3600))
    made = hub.run(f"push({str(folder)!r})", timeout=40)
    assert made.error_type == "PublishError"
    assert "the Hub asks to wait 3600 s, longer than the 300 s for everything" in (made.error or "")
    assert made.waits == ()


@pytest.mark.parametrize(("kind", "times"), [(500, 1), (500, None), (401, None), (403, None), ("reset", None)])
def test_faults_of_the_xet_token(hub: HubWorker, folder: Path, kind: Any, times: int | None) -> None:
    hub.server.add_fault(Fault("GET", "/xet-write-token/", kind, times=times))
    made = hub.run(f"push({str(folder)!r})")
    if times is None:
        assert made.error_type == "PublishError"
        assert len(hub.server.commits("user/mug")) == 1
        hub.server.clear_faults()
        hub.run(f"push({str(folder)!r})").check()
    else:
        made.check()
    assert len(hub.server.commits("user/mug")) == 2


@pytest.mark.parametrize("wrong", ["base_model: /home/me/model", "base_model: [1, 2]", "license: 7"])
def test_a_card_that_the_hub_refuses_is_told_before_anything_is_published(
    hub: HubWorker, folder: Path, wrong: str
) -> None:
    card = (folder / "README.md").read_text()
    key = wrong.split(":")[0]
    lines = [line for line in card.splitlines() if not line.startswith(f"{key}:")]
    (folder / "README.md").write_text("\n".join([lines[0], wrong, *lines[1:]]))
    made = hub.run(f"push({str(folder)!r})")
    assert made.error_type == "PublishError"
    assert len(hub.server.commits("user/mug")) == 1
    assert wrong in (folder / "README.md").read_text()


def test_a_card_that_is_no_yaml_is_told(folder: Path) -> None:
    (folder / "README.md").write_text("---\ntags: [\n---\n# mine")
    with pytest.raises(PublishError, match="expected YAML between the --- lines of README.md, got while parsing"):
        push_to_hub(folder, "user/mug")


def test_names_of_nothing_are_refused(hub: HubWorker, folder: Path) -> None:
    for repo_id in ("a/b/c", "user/", "user/mug mug"):
        made = hub.run(f"push({str(folder)!r}, {repo_id!r})")
        assert made.error_type == "PublishError", repo_id
    missing = hub.run(f"push({str(folder)!r}, 'nobody/mug')")
    assert missing.error_type == "PublishError"
    assert "pass a token= that may write there" in (missing.error or "")


def test_without_a_login_the_way_to_log_in_is_told(hub: HubWorker, folder: Path) -> None:
    made = hub.run(f"push({str(folder)!r})", token=None)
    assert made.error_type == "PublishError"
    assert "log in with `hf auth login`, or pass token=" in (made.error or "")


def test_a_read_only_token_is_told(hub: HubWorker, folder: Path) -> None:
    hub.server.create_repo("user/mug", {"README.md": b"# mine"})
    made = hub.run(f"push({str(folder)!r})", token=READ_TOKEN)
    assert made.error_type == "PublishError"
    assert "pass a token= that may write there" in (made.error or "")
    assert "The repository is as it was" in (made.error or "")
    assert len(hub.server.commits("user/mug")) == 2


def test_somebody_elses_push_in_between_is_not_lost(hub: HubWorker, folder: Path) -> None:
    hub.run(f"push({str(folder)!r})").check()
    hub.server.add_commit("user/mug", {"notes.md": b"by a colleague"})
    (folder / "training.json").write_text("{}")
    hub.run(f"push({str(folder)!r})").check()
    assert "notes.md" in hub.server.files("user/mug")


@pytest.mark.parametrize("kind", [500, "reset", "reset_body", 403])
def test_pulling_faults_are_one_error_and_change_nothing(hub: HubWorker, folder: Path, kind: Any) -> None:
    hub.run(f"push({str(folder)!r})").check()
    hub.server.add_fault(Fault("GET", "learned_embeds", kind, times=None))
    hub.server.add_fault(Fault("HEAD", "learned_embeds", kind if kind != "reset_body" else "reset", times=None))
    code = (
        "from conftest import build_tiny_pipeline\n"
        "pipe = build_tiny_pipeline()\n"
        "size = len(pipe.tokenizer)\n"
        "try:\n"
        "    pipe.load_multitoken_inversion('user/mug')\n"
        "except SupremeInitError as error:\n"
        "    result = [type(error).__name__, str(error), len(pipe.tokenizer) == size]\n"
    )
    name, message, is_unchanged = hub.run(code).check().value
    assert name == "EmbeddingFileError"
    assert "user/mug" in message
    assert is_unchanged


def test_a_full_disk_while_pulling_is_one_error(hub: HubWorker, folder: Path) -> None:
    hub.run(f"push({str(folder)!r})").check()
    code = (
        "from conftest import build_tiny_pipeline\n"
        "import huggingface_hub.file_download as download\n"
        "def full(*_, **__): raise OSError(28, 'No space left on device')\n"
        "move, download._chmod_and_move = download._chmod_and_move, full\n"
        "try:\n"
        "    build_tiny_pipeline().load_multitoken_inversion('user/mug')\n"
        "except SupremeInitError as error:\n"
        "    result = [type(error).__name__, str(error)]\n"
        "finally:\n"
        "    download._chmod_and_move = move\n"
    )
    name, message = hub.run(code).check().value
    assert name == "EmbeddingFileError"
    assert "No space left on device" in message


@pytest.mark.long
def test_the_snippets_of_the_card_run(hub: HubWorker, tmp_path: Path) -> None:
    """Every Python block of a published card, as it stands there, on the toybox, which plays the base model."""
    files = {path.relative_to(BASE).as_posix(): path.read_bytes() for path in BASE.rglob("*") if path.is_file()}
    hub.server.create_repo("user/toybox", files)
    code = f"""
from diffusers import DiffusionPipeline
from diffusers_supreme_init import SupremeInitConfig, SupremeInitTextualInversionTrainer
import re
pipe = DiffusionPipeline.from_pretrained("user/toybox")
trainer = SupremeInitTextualInversionTrainer(
    pipe, {str(BASE.parent / "concepts" / "mug.png")!r}, "<mug>", "a red mug",
    config=SupremeInitConfig(max_train_steps=2, validation_samples=2),
)
trainer.train()
trainer.push_to_hub(
    "user/mug",
    output_dir={str(tmp_path / "mug")!r},
    sample_prompts=["a photo of a {{}}"],
    private=True,
    allow_toybox=True,
)
card = huggingface_hub.ModelCard.load("user/mug").content
blocks = re.findall(r"```python\\n(.*?)```", card, re.DOTALL)
result = []
for block in blocks:
    names = {{}}
    exec(block, names)
    result.append([names["image"].size, len(names["pipe"].tokenizer)])
"""
    (first, num_tokens), (second, num_tokens_of_stock) = hub.run(code, timeout=200).check().value
    assert first == second == [64, 64]
    assert num_tokens == num_tokens_of_stock


def test_several_concepts_in_one_repository(hub: HubWorker, tmp_path: Path) -> None:
    trainer = trained(("<mug>", "<cat>"))
    trainer.save(tmp_path / "toys")
    published = hub.run(f"result = push({str(tmp_path / 'toys')!r}, 'user/toys')").check().value[3]
    assert published == sorted(
        [
            "README.md",
            "training.json",
            *(f"{name}/{file}" for name in ("cat", "mug") for file in ("README.md", *FILES[3:])),
        ]
    )
    code = (
        "from conftest import build_tiny_pipeline\n"
        "pipe = build_tiny_pipeline()\n"
        "result = [str(pipe.load_multitoken_inversion('user/toys', subfolder=name)[0]) for name in ('mug', 'cat')]\n"
    )
    reports = hub.run(code).check().value
    assert [report.split(":")[0] for report in reports] == ["<mug>", "<cat>"]
    card = (tmp_path / "toys" / "README.md").read_text()
    assert 'pipe.load_multitoken_inversion("user/toys")' in card


def test_the_trainer_saves_and_pushes(hub: HubWorker, tmp_path: Path) -> None:
    code = f"""
from test_publishing import trained
trainer = trained(output_dir={str(tmp_path / "run")!r})
made = trainer.push_to_hub("user/mug", sample_prompts=["a {{}}"])
again = trainer.push_to_hub("user/mug")
result = [made.is_new_commit, again.is_new_commit, list(made.files)]
"""
    assert hub.run(code).check().value == [True, False, [name for name in FILES if name != "images/1.png"]]


def test_training_pictures_are_published_only_if_asked(
    run: SupremeInitTextualInversionTrainer, tmp_path: Path
) -> None:
    run.save(tmp_path / "without")
    run.save(tmp_path / "with", with_pictures=True)
    assert not [name for name in publishable_files(tmp_path / "without") if name.endswith(".png")]
    assert "pictures/0.png" in publishable_files(tmp_path / "with")
    run.save(tmp_path / "with")
    assert "pictures/0.png" not in publishable_files(tmp_path / "with")


def test_saving_without_samples_leaves_an_offloaded_pipeline_alone(tmp_path: Path) -> None:
    trainer = trained()
    for part in (trainer.pipe.text_encoder, trainer.pipe.unet, trainer.pipe.vae):
        cpu_offload(part, torch.device("cpu"))
    trainer.save(tmp_path / "mug")
    assert next(trainer.pipe.unet.parameters()).is_meta
    assert json.loads((tmp_path / "mug" / "training.json").read_text())["device"] == str(trainer.accelerator.device)
    assert (tmp_path / "mug" / "learned_embeds.safetensors").is_file()


def test_saving_again_gives_the_same_bytes(run: SupremeInitTextualInversionTrainer, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run.save(tmp_path / name, sample_prompts=("a photo of a {}",))
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path.name


def test_train_py_publishes(hub: HubWorker, tmp_path: Path) -> None:
    script = str(ROOT / "examples" / "train.py")
    options = ["--push_to_hub", "--hub_model_id", "user/mug", "--max_train_steps", "2", "--validation_samples", "2"]
    options += ["--initializer", "a mug", "--placeholder_token", "<mug>"]
    options += ["--images", str(ROOT / "examples/toybox/concepts/mug.png"), "--output_dir", str(tmp_path / "mug")]
    options += ["--sample_prompts", "a photo of a {}", "--no_report"]
    options += ["--model", "toybox", "--allow_toybox", "--hub_private_repo"]
    code = f"""
import runpy, sys
sys.argv = {[script, *options]!r}
sys.path.insert(0, {str(ROOT / "examples")!r})
try:
    runpy.run_path({script!r}, run_name="__main__")
except SystemExit as ended:
    assert ended.code == 0
"""
    done = hub.run(code, timeout=200).check()
    assert f"published: {hub.server.url}/user/mug" in done.stdout
    assert "images/0.png" in hub.server.files("user/mug")


def test_train_py_asks_before_training_whether_it_may_publish(hub: HubWorker, tmp_path: Path) -> None:
    def train(token: str | None, repo_id: str = "user/mug", *more: str) -> Any:
        options = ["--push_to_hub", "--hub_model_id", repo_id, "--output_dir", str(tmp_path / "out"), *more]
        options += [
            "--images",
            str(ROOT / "examples/toybox/concepts/mug.png"),
            "--token",
            "<mug>",
            "--model",
            "toybox",
        ]
        options += ["--allow_toybox", "--hub_private_repo"]
        code = f"from diffusers_supreme_init.commands import main; result = main({['train', *options]!r})"
        return hub.run(code, token=token)

    for made, message in (
        (train(None), "log in with `hf auth login`, or pass token="),
        (train(READ_TOKEN), "expected a token that may write, got one that may only read"),
        (train(WRITE_TOKEN, "other/mug"), "expected a repository of user; choose one"),
        (train(WRITE_TOKEN, "mug"), "expected a repository 'user/name', got 'mug'"),
    ):
        assert made.value == 1
        assert message in made.stderr
    assert not (tmp_path / "out").exists()
    assert not hub.server.count("POST", "/api/repos/create")


def test_whether_one_may_push_is_no_matter_of_a_hub_that_is_down(hub: HubWorker) -> None:
    code = "from diffusers_supreme_init.sharing.publishing import check_can_push\ncheck_can_push('{}', create_pr={})"
    hub.run(code.format("user/mug", False)).check()
    hub.run(code.format("other/mug", True)).check()
    hub.server.add_fault(Fault("GET", "/api/whoami-v2", 503, times=None))
    hub.run(code.format("user/mug", False)).check()


def test_rows_of_an_encoder_that_is_no_longer_trained_go_from_the_repository(hub: HubWorker, folder: Path) -> None:
    shutil.copy(folder / "learned_embeds.safetensors", folder / "learned_embeds_2.safetensors")
    record = json.loads((folder / "training.json").read_text())
    (folder / "training.json").write_text(
        json.dumps(record | {"files": [*record["files"], "learned_embeds_2.safetensors"]})
    )
    hub.run(f"push({str(folder)!r})").check()
    assert "learned_embeds_2.safetensors" in hub.server.files("user/mug")
    (folder / "training.json").write_text(json.dumps(record))
    made = hub.run(f"push({str(folder)!r})")
    assert "holds <mug> with other rows; pass overwrite=True" in (made.error or "")
    hub.run(f"push({str(folder)!r}, overwrite=True)").check()
    assert "learned_embeds_2.safetensors" not in hub.server.files("user/mug")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"create_pr": True, "revision": "v2"}, "expected create_pr or revision, got both"),
    ],
)
def test_contradictions_are_refused_before_anything_is_sent(folder: Path, options: Any, message: str) -> None:
    before = (folder / "README.md").read_bytes()
    with pytest.raises(PublishError, match=message):
        push_to_hub(folder, "user/mug", **options)
    assert (folder / "README.md").read_bytes() == before


def test_folders_that_are_no_concept_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(PublishError, match="which holds no learned_embeds.safetensors"):
        push_to_hub(tmp_path / "nowhere", "user/mug")
    (folder / "README.md").unlink()
    with pytest.raises(PublishError, match=r"expected README.md in .*save the concept again"):
        push_to_hub(folder, "user/mug")


def test_a_card_that_somebody_edited_keeps_the_edits(folder: Path) -> None:
    text = (folder / "README.md").read_text().replace("## Limits", "## My own words\n\nHello.\n\n## Limits")
    made = with_license(with_repository(text, "user/mug"), {"license": "mit"})
    assert "## My own words\n\nHello." in made
    assert made.count('"user/mug"') == 2
    again = with_license(with_repository(made, "other/cup"), {"license": "apache-2.0"})
    assert again.count('"other/cup"') == 2
    assert again.replace("other/cup", "user/mug").replace("apache-2.0", "mit") == made


def test_the_card_tells_the_run(saved: Path) -> None:
    card = (saved / "README.md").read_text()
    assert "# `<mug>`" in card
    assert "<Gallery />" in card
    assert "| seed | 0 |" in card
    assert re.search(r"\| max_train_steps \| 2 \|.*\| learning_rate", card, re.DOTALL)
    assert "Trained with python" in card
    assert json.loads((saved / "training.json").read_text())["versions"]["diffusers"]


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What is the user's stays the user's.


@pytest.mark.parametrize("place", ["pictures", "images"])
@pytest.mark.parametrize("with_pictures", [False, True])
def test_saving_into_the_folder_of_the_training_pictures_destroys_none(
    tmp_path: Path, place: str, with_pictures: bool
) -> None:
    (tmp_path / "mug" / place).mkdir(parents=True)
    for index in range(3):
        random_picture(seed=index).save(tmp_path / "mug" / place / f"{index}.png")
    trainer = trained(images=tmp_path / "mug" / place)
    before = files_of(tmp_path)
    options: Any = {"with_pictures": with_pictures, "sample_prompts": ("a {}",)}
    if place == "images" or with_pictures:
        with pytest.raises(OutputError, match="a picture that was trained on; choose another output_dir"):
            trainer.save(tmp_path / "mug", **options)
        assert files_of(tmp_path) == before
    else:
        trainer.save(tmp_path / "mug", **options)
        assert before.items() <= files_of(tmp_path).items()
        assert not [name for name in publishable_files(tmp_path / "mug") if name.startswith("pictures")]


def test_training_on_the_published_pictures_of_an_earlier_save_keeps_them(
    run: SupremeInitTextualInversionTrainer, tmp_path: Path
) -> None:
    run.save(tmp_path, with_pictures=True)
    before = files_of(tmp_path)
    with pytest.raises(OutputError, match="a picture that was trained on"):
        trained(images=tmp_path / "pictures").save(tmp_path)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("name", ["README.md", "images/0.png", "learned_embeds.safetensors", "training.json"])
def test_saving_overwrites_nothing_that_no_save_wrote(
    run: SupremeInitTextualInversionTrainer, tmp_path: Path, name: str
) -> None:
    (tmp_path / "mug" / name).parent.mkdir(parents=True)
    (tmp_path / "mug" / name).write_bytes(b"{}")
    with pytest.raises(OutputError, match=f"{name}': no earlier save wrote it; choose another output_dir"):
        run.save(tmp_path / "mug", sample_prompts=("a {}",))
    assert list(files_of(tmp_path)) == [tmp_path / "mug" / name]


def test_saving_again_replaces_what_the_earlier_save_wrote_and_no_more(
    run: SupremeInitTextualInversionTrainer, tmp_path: Path
) -> None:
    run.save(tmp_path, sample_prompts=("a {}", "one {}"), with_pictures=True)
    (tmp_path / "images" / "7.png").write_bytes(b"mine")
    run.save(tmp_path, sample_prompts=("a {}",))
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["0.png", "7.png"]
    assert not list((tmp_path / "pictures").iterdir())
    assert publishable_files(tmp_path) == [name for name in FILES if name != "images/1.png"]


def test_an_interrupted_save_can_be_repeated(
    run: SupremeInitTextualInversionTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def full(source: str, target: Path) -> None:
        if Path(target).name == "README.md":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OutputError, match="No space left"):
        run.save(tmp_path, sample_prompts=("a {}",))
    monkeypatch.undo()
    run.save(tmp_path, sample_prompts=("a {}",))
    assert (tmp_path / "README.md").is_file()


def test_an_invented_folder_is_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mug").mkdir()
    (tmp_path / "mug" / "README.md").write_text("# my project")
    with pytest.raises(OutputError, match="expected a new folder for the result, got 'mug', which exists; pass outp"):
        trained().push_to_hub("user/mug")
    assert list(files_of(tmp_path).values()) == [b"# my project"]


def test_only_pictures_that_save_wrote_are_published(folder: Path) -> None:
    for name in ("images/2.png", "images/mine.png", "pictures/0.png", "pictures/secret.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"private")
    assert publishable_files(folder) == FILES
    record = json.loads((folder / "training.json").read_text())
    (folder / "training.json").write_text(json.dumps(record | {"files": [*record["files"], "secret.png", "../x"]}))
    assert publishable_files(folder) == FILES
    record.pop("files")  # as saved before there was a list: what the card shows
    (folder / "training.json").write_text(json.dumps(record))
    assert publishable_files(folder) == FILES


def test_one_concept_and_several_do_not_share_a_folder(tmp_path: Path) -> None:
    one, several = trained(), trained(("<mug>", "<cat>"))
    one.save(tmp_path / "one")
    several.save(tmp_path / "several")
    before = files_of(tmp_path)
    with pytest.raises(OutputError, match="expected a folder for several concepts, got .* with one, <mug>; choose"):
        several.save(tmp_path / "one")
    assert files_of(tmp_path) == before
    shutil.copy(tmp_path / "one" / "learned_embeds.safetensors", tmp_path / "several")
    for remember in (True, False):
        if not remember:
            (tmp_path / "several" / "training.json").unlink()
        with pytest.raises(PublishError, match="card of several beside the embedding of one; move learned_embeds.saf"):
            publishable_files(tmp_path / "several")


def test_the_cards_of_several_concepts_load_from_their_folders(hub: HubWorker, tmp_path: Path) -> None:
    trained(("<mug>", "<cat>")).save(tmp_path / "toys")
    hub.run(f"push({str(tmp_path / 'toys')!r}, 'user/toys')").check()
    card = hub.server.files("user/toys")["mug/README.md"].data.decode()
    assert card.count('_inversion("user/toys", subfolder="mug")  # this folder') == 2
    hub.run(f"push({str(tmp_path / 'toys' / 'mug')!r}, 'user/mug')").check()
    card = hub.server.files("user/mug")["README.md"].data.decode()
    assert card.count('_inversion("user/mug")  # this folder') == 2


def test_files_of_others_in_the_repository_stay(hub: HubWorker, folder: Path) -> None:
    hub.run(f"push({str(folder)!r})").check()
    theirs = {"other/images/0.png": b"a", "images/plot.png": b"b", "pictures/0.jpg": b"c", "runs/pictures/1.png": b"d"}
    hub.server.add_commit("user/mug", theirs | {"pictures/3.png": b"of an earlier push"})
    hub.run(f"push({str(folder)!r})").check()
    there = hub.server.files("user/mug")
    assert theirs.keys() <= there.keys()
    assert "pictures/3.png" not in there


def test_edits_of_a_saved_folder_are_published_as_they_are(hub: HubWorker, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from test_publishing import trained
trainer, folder = trained(), Path({str(tmp_path / "mug")!r})
trainer.save(folder)
card = folder / "README.md"
card.write_text(card.read_text().replace("## Limits", "## My words\\n\\n## Limits"))
trainer.push_to_hub("user/mug", output_dir=str(folder), timeout=60)
"""
    hub.run(code).check()
    assert b"## My words" in hub.server.files("user/mug")["README.md"].data


def test_samples_of_an_unloaded_concept_are_refused(tmp_path: Path) -> None:
    trainer = trained()
    trainer.pipe.unload_multitoken_inversion("<mug>")
    with pytest.raises(TrainingError, match="<mug> has been unloaded or changed since it was trained"):
        trainer.save(tmp_path / "mug", sample_prompts=("a {}",))
    assert not (tmp_path / "mug").exists()
    (file,) = trainer.save(tmp_path / "mug")
    trainer.pipe.load_multitoken_inversion({"<mug>": torch.zeros(1, HIDDEN_SIZE)})
    with pytest.raises(TrainingError, match="unloaded or changed"):
        trainer.save(tmp_path / "mug", sample_prompts=("a {}",))
    trainer.pipe.unload_multitoken_inversion("<mug>")
    trainer.pipe.load_multitoken_inversion(file)
    trainer.save(tmp_path / "mug", sample_prompts=("a {}",))


def test_losses_that_are_no_number_are_no_json(tmp_path: Path) -> None:
    trainer = trained()
    trainer.results[0].validation_losses.update({1: [float("nan"), 1.0], 2: [float("inf")]})
    (file,) = trainer.save(tmp_path)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    record = json.loads((tmp_path / "training.json").read_text(), parse_constant=refuse)
    assert record["validation_losses"]["1"] == [None, 1.0]
    assert list(record["validation_loss"]) == ["0"]
    assert "| nan |" not in (tmp_path / "README.md").read_text()
    json.loads(read_metadata(file), parse_constant=refuse)


def read_metadata(file: Path) -> str:
    with safe_open(file, "pt") as opened:
        return opened.metadata()["diffusers_supreme_init"]


def test_a_folder_that_has_gone_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    build_tiny_pipeline().save_pretrained("runs/client-acme")
    pipe = StableDiffusionPipeline.from_pretrained("runs/client-acme")
    trainer = trained(pipe=pipe)
    Path("runs").rename("elsewhere")
    (file,) = trainer.save("mug")
    assert read_embedding(file).base_model is None
    assert not [name for name, data in files_of(Path("mug")).items() if b"acme" in data]


# Failures leave everything as it is.


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xef\xbb\xbf---\nlicense: mit\n---\n", "byte order mark; save it without"),
        (b"---\nlicense: mit\n---\n# Caf\xe9", "expected README.md in UTF-8, got .*; save it in UTF-8"),
        (b"---\ntags: [\n---\n", "expected YAML between the --- lines of README.md"),
        (b"---\njust text\n---\n", "expected names and values between the --- lines of README.md"),
    ],
)
def test_cards_that_cannot_be_read_are_told_before_anything_is_sent(
    hub: HubWorker, folder: Path, data: bytes, message: str
) -> None:
    (folder / "README.md").write_bytes(data)
    made = hub.run(f"push({str(folder)!r}, license='mit')")
    assert made.error_type == "PublishError"
    assert re.search(message, made.error or "")
    assert not hub.server.has_repo("user/mug")
    assert (folder / "README.md").read_bytes() == data


@pytest.mark.parametrize("repo_id", ["mug", "user/mug.git", "a/b/c", "user/", "user/mug mug", "user/a--b", ""])
def test_names_of_no_repository_are_refused_first(
    run: SupremeInitTextualInversionTrainer, folder: Path, repo_id: str
) -> None:
    with pytest.raises(PublishError, match="expected a repository 'user/name', got "):
        push_to_hub(folder, repo_id)
    with pytest.raises(PublishError, match="expected a repository 'user/name', got "):
        run.push_to_hub(repo_id)


def test_a_given_licence_wins(hub: HubWorker, folder: Path) -> None:
    card = folder / "README.md"
    other = "license: other\nlicense_name: mine\nlicense_link: LICENSE.md\n"
    card.write_text(card.read_text().replace("---\n", f"---\n{other}", 1))
    hub.run(f"push({str(folder)!r}, license='mit')").check()
    data = hub.run("result = huggingface_hub.model_info('user/mug').card_data.to_dict()").check().value
    assert data["license"] == "mit"
    assert not {"license_name", "license_link"} & set(data)
    assert "license_name" not in card.read_text()


def test_a_licence_file_of_the_base_model_is_linked_there(hub: HubWorker, folder: Path) -> None:
    front = b"---\nlicense: other\nlicense_name: theirs\nlicense_link: ./LICENSE.md\n---\n"
    hub.server.create_repo("user/base", {"README.md": front})
    hub.run(f"push({str(folder)!r})").check()
    data = hub.run("result = huggingface_hub.model_info('user/mug').card_data.to_dict()").check().value
    assert data["license_link"] == f"{hub.server.url}/user/base/blob/main/LICENSE.md"


def test_a_commit_of_somebody_else_in_the_middle_is_not_overwritten(
    hub: HubWorker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.server.create_repo("user/mug")
    race_on_commit(hub, monkeypatch)
    made = hub.run(f"push({str(folder)!r})")
    assert made.error_type == "PublishError"
    assert "somebody else has pushed meanwhile; look at what they did" in (made.error or "")
    assert hub.server.files("user/mug")["training.json"].data == b"theirs"


def race_on_commit(hub: HubWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    from hub.store import Repo

    has_raced: list[bool] = []
    ref_of = Repo.ref_of

    def after_a_colleague(self: Repo, revision: str) -> str:
        if not has_raced:  # the first look of a commit at where it goes
            has_raced.append(True)
            hub.server.add_commit("user/mug", {"training.json": b"theirs"})
        return ref_of(self, revision)

    monkeypatch.setattr(Repo, "ref_of", after_a_colleague)


def test_a_commit_whose_answer_was_lost_is_new(hub: HubWorker, folder: Path) -> None:
    hub.server.add_fault(Fault("POST", "/commit/", "lost_answer"))
    assert hub.run(f"result = push({str(folder)!r})").check().value[1] is True
    assert len(hub.server.commits("user/mug")) == 2


def test_a_creation_whose_answer_was_lost_is_not_called_nothing(hub: HubWorker, folder: Path) -> None:
    hub.server.add_fault(Fault("POST", "/api/repos/create", "lost_answer"))
    hub.server.add_fault(Fault("GET", "/api/models/user/mug$", 500, times=None, skip=1))
    made = hub.run(f"push({str(folder)!r})")
    assert made.error_type == "PublishError"
    assert hub.server.has_repo("user/mug")
    assert "The repository does not exist, or was made and is empty if only the answer was lost" in (made.error or "")


# The deadline is ours alone.


def test_storage_that_never_answers_ends_by_our_deadline(
    hub: HubWorker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hub import file_routes

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        build = file_routes.Answer.of_json

        def elsewhere(body: Any, *rest: Any, headers: Any = None, **options: Any) -> Any:
            if isinstance(body, dict) and "casUrl" in body:
                body, headers = body | {"casUrl": address}, headers | {"X-Xet-Cas-Url": address}
            return build(body, *rest, **options, **({} if headers is None else {"headers": headers}))

        monkeypatch.setattr(file_routes.Answer, "of_json", elsewhere)
        before = files_of(folder)
        made = hub.run(f"push({str(folder)!r}, timeout=3)", timeout=40)
    assert made.error_type == "PublishError"
    assert made.seconds < BY_OUR_DEADLINE
    assert re.search(
        r"no success within 3 s.*a request may still be on its way.*/user/mug/commits/main", made.error or ""
    )
    assert files_of(folder) == before
    assert len(hub.server.commits("user/mug")) == 1


def test_storage_of_several_large_files_that_is_slow_ends_by_our_deadline(folder: Path) -> None:
    with hub_worker("lfs", setup=SETUP) as worker:
        fresh(worker).server.set_large(from_bytes=1, suffixes=())
        worker.server.add_fault(Fault("PUT", "/", "slow", times=None, seconds=30))
        made = worker.run(f"push({str(folder)!r}, timeout=3)", timeout=40)
        assert made.error_type == "PublishError"
        assert made.seconds < BY_OUR_DEADLINE
        code = "import threading; result = [n for one in threading.enumerate() if 'Pool' in (n := one.name)]"
        end = time.monotonic() + 10
        while worker.run(code).value and time.monotonic() < end:
            time.sleep(0.2)
        assert worker.run(code).value == []  # else the program could not end


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """The client that all threads share, which answers without a network, slowly on ``/slow``."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        time.sleep(0.5 if request.url.path == "/slow" else 0)
        return httpx2.Response(200, json={"timeout": request.extensions["timeout"]["read"]})

    def build() -> httpx2.Client:
        return httpx2.Client(transport=httpx2.MockTransport(answer), timeout=None)

    huggingface_hub.set_client_factory(build)
    yield huggingface_hub.get_session
    huggingface_hub.set_client_factory(_http.default_client_factory)


def read_timeout(path: str = "/") -> Any:
    return huggingface_hub.get_session().get(f"http://hub.test{path}").json()["timeout"]


def test_a_deadline_is_that_of_its_own_thread(client: Callable[[], Any]) -> None:
    hooks = client().event_hooks
    inside, go_on = threading.Event(), threading.Event()

    def wait_inside() -> float:
        inside.set()
        go_on.wait()
        return read_timeout()

    with ThreadPoolExecutor() as pool:
        first = pool.submit(within, 30, wait_inside)
        inside.wait()
        second = pool.submit(within, 20, read_timeout)
        assert 19 < second.result() <= 20
        assert read_timeout() is None  # another thread's
        go_on.set()
        assert 29 < first.result() <= 30
    assert client().event_hooks == hooks


def test_a_deadline_outlives_the_client_and_leaves_nothing_behind(client: Callable[[], Any]) -> None:
    old = client()

    def renew() -> float:
        huggingface_hub.close_session()
        time.sleep(0.6)
        return read_timeout()

    assert within(30, renew) < 30
    assert client() is not old
    assert old.event_hooks == client().event_hooks == {"request": [], "response": []}


def test_work_that_does_not_end_is_left_and_sends_nothing_more(
    client: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusers_supreme_init.hub_connection._GRACE", 0.1)
    go_on, outcome = threading.Event(), []

    def hang() -> None:
        go_on.wait()
        try:
            read_timeout()
        except DeadlineError as error:
            outcome.append(str(error))

    with pytest.raises(StillRunningError, match=r"no success within 0.1 s, and a request may still be on its way"):
        within(0.1, hang)
    go_on.set()
    (thread,) = [one for one in threading.enumerate() if one.name == "supreme-init-hub"]
    thread.join(10)
    assert outcome == ["no success within 0.1 s"]
    assert client().event_hooks == {"request": [], "response": []}


def test_errors_of_the_work_are_raised_where_it_is_waited_for() -> None:
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 / 0)
