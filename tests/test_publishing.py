"""Publishing and pulling, through the unmodified Hub client, against a Hub on loopback."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TOYBOX, build_tiny_pipeline, random_picture
from hub.client import HubWorker, hub_worker, run_client
from hub.faults import Fault
from hub.server import READ_TOKEN

from diffusers_supreme_init import (
    Concept,
    PublishError,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    push_to_hub,
)
from diffusers_supreme_init.publishing import card_for, publishable_files

SETUP = """
import logging, warnings
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
SECRETS = [b"/tmp", b"/home", b"/root", b"hf_write", b"TODO", b"secret place"]


@pytest.fixture(scope="module", params=MODES)
def each_worker(request: pytest.FixtureRequest) -> Iterator[HubWorker]:
    with hub_worker(request.param, setup=SETUP) as worker:
        worker.server.set_large(from_bytes=10_000, suffixes=() if request.param == "regular" else (".safetensors",))
        yield worker


@pytest.fixture(scope="module")
def one_worker() -> Iterator[HubWorker]:
    with hub_worker("xet", setup=SETUP) as worker:
        yield worker


@pytest.fixture
def any_hub(each_worker: HubWorker) -> HubWorker:
    return fresh(each_worker)


@pytest.fixture
def hub(one_worker: HubWorker) -> HubWorker:
    return fresh(one_worker)


def fresh(worker: HubWorker) -> HubWorker:
    worker.reset()
    is_large = () if worker.server.mode == "regular" else (".safetensors",)
    worker.server.set_large(from_bytes=10_000_000, suffixes=is_large)
    return worker


def trained(tokens: tuple[str, ...] = ("<mug>",), **settings: Any) -> SupremeInitTextualInversionTrainer:
    pipe = build_tiny_pipeline()
    pipe.register_to_config(_name_or_path="user/base")
    concepts = [Concept(images=random_picture(), placeholder_token=token, initializer=CAPTION) for token in tokens]
    config = SupremeInitConfig(max_train_steps=2, validation_samples=2, **settings)
    trainer = SupremeInitTextualInversionTrainer(pipe, concepts=concepts, config=config)
    trainer.train()
    return trainer


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
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "README.md"}
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
            r"cannot push to 'user/mug': .* the folder '.*' is whole: push_to_hub\(.*\) tries again", made.error or ""
        )
        assert commits == []
        any_hub.server.clear_faults()
        any_hub.run(f"push({str(folder)!r})").check()  # and it does
        assert len(any_hub.server.commits("user/mug")) == 2
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize("kind", [500, "reset", "reset_body", "lost_answer"])
@pytest.mark.parametrize("times", [1, None])
def test_faults_of_large_files(folder: Path, kind: Any, times: int | None) -> None:
    with hub_worker("lfs", setup=SETUP) as worker:
        fresh(worker).server.add_fault(Fault("PUT", "/", kind, times=times))
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
    assert made.seconds < 10


def test_a_hub_that_does_not_answer_ends_by_our_deadline(hub: HubWorker, folder: Path) -> None:
    hub.server.add_fault(Fault("POST", "/commit/", "slow", times=None, seconds=60))
    made = hub.run(f"push({str(folder)!r}, timeout=4)", timeout=40)
    assert made.error_type == "PublishError"
    assert made.seconds < 15


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
trainer.push_to_hub("user/mug", output_dir={str(tmp_path / "mug")!r}, sample_prompts=["a photo of a {{}}"])
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
        ["README.md", *(f"{name}/{file}" for name in ("cat", "mug") for file in ("README.md", *FILES[3:]))]
    )
    code = (
        "from conftest import build_tiny_pipeline\n"
        "pipe = build_tiny_pipeline()\n"
        "result = [str(pipe.load_multitoken_inversion('user/toys', subfolder=name)[0]) for name in ('mug', 'cat')]\n"
    )
    reports = hub.run(code).check().value
    assert [report.split(":")[0] for report in reports] == ["<mug>", "<cat>"]
    card = (tmp_path / "toys" / "README.md").read_text()
    assert 'pipe.load_multitoken_inversion("user/toys", subfolder="mug")' in card


def test_the_trainer_saves_and_pushes(hub: HubWorker, tmp_path: Path) -> None:
    code = f"""
from test_publishing import trained
trainer = trained(output_dir={str(tmp_path / "run")!r})
made = trainer.push_to_hub("user/mug", sample_prompts=["a {{}}"])
again = trainer.push_to_hub("user/mug")
result = [made.is_new_commit, again.is_new_commit, list(made.files)]
"""
    assert hub.run(code).check().value == [True, False, [name for name in FILES if name != "images/1.png"]]


def test_training_pictures_are_published_only_if_asked(tmp_path: Path) -> None:
    trainer = trained()
    trainer.save(tmp_path / "without")
    trainer.save(tmp_path / "with", with_pictures=True)
    assert not [name for name in publishable_files(tmp_path / "without") if name.endswith(".png")]
    assert "pictures/0.png" in publishable_files(tmp_path / "with")
    trainer.save(tmp_path / "with")
    assert "pictures/0.png" not in publishable_files(tmp_path / "with")


def test_saving_again_gives_the_same_bytes(tmp_path: Path) -> None:
    trainer = trained()
    for name in ("a", "b"):
        trainer.save(tmp_path / name, sample_prompts=("a photo of a {}",))
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path.name


def test_train_py_publishes(tmp_path: Path) -> None:
    from conftest import ROOT
    from hub.server import HubServer

    options = ["--push_to_hub", "--hub_model_id", "user/mug", "--max_train_steps", "2", "--validation_samples", "2"]
    with HubServer("xet") as server:
        done = run_client(
            server,
            ROOT / "examples" / "train.py",
            mode="xet",
            arguments=[
                *options,
                "--initializer",
                "a mug",
                "--placeholder_token",
                "<mug>",
                "--images",
                str(ROOT / "examples/toybox/concepts/mug.png"),
                "--output_dir",
                str(tmp_path / "mug"),
                "--sample_prompts",
                "a photo of a {}",
            ],
            timeout=200,
        ).check()
        assert f"published: {server.url}/user/mug" in done.stdout
        assert "images/0.png" in server.files("user/mug")


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
    made = card_for(text, "user/mug", {"license": "mit"})
    assert "## My own words\n\nHello." in made
    assert made.count('"user/mug"') == 2
    assert card_for(made, "other/cup", {"license": "apache-2.0"}).count('"other/cup"') == 2
    assert "license: mit" in card_for(made, "other/cup", {"license": "apache-2.0"})


def test_the_card_tells_the_run(saved: Path) -> None:
    card = (saved / "README.md").read_text()
    assert "# `<mug>`" in card
    assert "<Gallery />" in card
    assert "| seed | 0 |" in card
    assert re.search(r"\| max_train_steps \| 2 \|.*\| learning_rate", card, re.DOTALL)
    assert "Trained with python" in card
    assert json.loads((saved / "training.json").read_text())["versions"]["diffusers"]
