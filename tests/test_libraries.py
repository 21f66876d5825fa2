"""Many concepts in one folder or repository: names, merging, overwriting, loading all or some of them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import HIDDEN_SIZE, build_tiny_pipeline
from hub.client import HubWorker, shared_worker
from hub.faults import Fault
from test_publishing import SETUP, files_of, fresh, trained

from diffusers_supreme_init import (
    ConceptLoadError,
    EmbeddingFileError,
    LearnedEmbedding,
    OutputError,
    SupremeInitTextualInversionTrainer,
    check_can_save,
    folder_name,
    read_embedding,
    write_embedding,
)
from diffusers_supreme_init.formats.library import read_index, read_library
from diffusers_supreme_init.sharing.saved_folder import folders_for

# Names.

TOKENS = [
    *("<mug>", "<mug-3>", "[mug]", "mug", "(mug)", "<Mug>", "<MUG>", "<mug>>", "<mug.>", "<mug >", "<mug-3>>"),
    *(
        "<con>",
        "<nul>",
        "<aux>",
        "<prn>",
        "<com1>",
        "<lpt9>",
        "<com\u00b9>",
        "<..>",
        "<.>",
        "...",
        "< >",
        "<->",
        "<-a>",
    ),
    *("<caf\u00e9>", "<cafe\u0301>", "<CAF\u00c9>", "<stra\u00dfe>", "<strasse>", "<\u212b>", "<\u00e5>", "<\ufb01n>"),
    *("<\u043a\u0440\u0443\u0436\u043a\u0430>", "<\U0001f600>", "<\U0001f601>", "<a/b>", "<a\\b>", "<a|b>", "<ab>"),
    *(f"<{'x' * 300}>", f"<{'x' * 301}>", f"<{chr(0x6F22) * 80}>", "<mug-0123456789ab>", "\ud800"),
]


def test_folder_names_differ_on_every_disk_and_are_allowed_there() -> None:
    names = [folder_name(token) for token in TOKENS]
    assert len({name.casefold() for name in names}) == len(TOKENS)
    for name in names:
        assert re.fullmatch(r"[\w-]+", name)
        assert not name.startswith("-")
        assert name not in ("con", "nul", "aux", "prn", "com1", "lpt9")
        assert len(name.encode()) < 255


@pytest.mark.parametrize(
    ("token", "name"), [("<mug>", "mug"), ("<cat-toy>", "cat-toy"), ("<caf\u00e9>", "caf\u00e9"), ("<a_1>", "a_1")]
)
def test_ordinary_tokens_are_their_folders_name(token: str, name: str) -> None:
    assert folder_name(token) == name
    assert folder_name(token.upper()) != name


def test_no_token_is_named_like_the_digest_of_another() -> None:
    taken = folder_name("[mug]")
    assert folder_name(f"<{taken}>") != taken


def test_a_concept_keeps_its_folder_whatever_is_saved_beside_it(tmp_path: Path) -> None:
    alone = {token: folders_for([token, "<other>"], tmp_path)[0] for token in TOKENS}
    together = folders_for(TOKENS, tmp_path)
    assert together == list(alone.values())
    assert folders_for(TOKENS[::-1], tmp_path) == together[::-1]


def test_tokens_that_look_alike_are_saved_and_load(tmp_path: Path) -> None:
    """`save` did not return for these three."""
    trainer = trained(("<mug>", "<mug-3>", "[mug]"))
    assert len({file.parent for file in trainer.save(tmp_path)}) == 3
    reports = build_tiny_pipeline().load_multitoken_inversion(tmp_path)
    assert [report.placeholder_token for report in reports] == ["<mug>", "<mug-3>", "[mug]"]


def test_a_name_in_other_letters_is_the_same_concept_to_a_library(tmp_path: Path) -> None:
    """The loader reads both spellings as one name, so beside each other they could not be loaded."""
    composed, decomposed = "<caf\u00e9>", "<cafe\u0301>"
    saved = trained((composed, "<other>")).save(tmp_path)
    assert folders_for([decomposed], tmp_path) == [saved[0].parent]
    with pytest.raises(OutputError, match="holds a result of .* already"):
        check_can_save(tmp_path, [decomposed])
    trained((decomposed,), seed=1).save(tmp_path, overwrite=True)
    assert len(build_tiny_pipeline().load_multitoken_inversion(tmp_path)) == 2


# Saving: a library merges, a folder of one refuses.


@pytest.fixture(scope="module")
def runs() -> dict[str, SupremeInitTextualInversionTrainer]:
    return {
        "mug": trained(),
        "other mug": trained(seed=1),
        "cat": trained(("<cat>",)),
        "other cat": trained(("<cat>",), seed=2),
        "mug and cat": trained(("<mug>", "<cat>")),
        "cat and dog": trained(("<cat>", "<dog>")),
        "other cat and dog": trained(("<cat>", "<dog>"), seed=1),
    }


Runs = dict[str, SupremeInitTextualInversionTrainer]


def listed(folder: Path) -> list[str]:
    """Return the tokens of a library, which its index and its card have to agree on."""
    library = read_library(folder)
    assert library is not None
    assert json.loads((folder / "training.json").read_text())["folders"] == sorted(library)
    card = (folder / "README.md").read_text()
    assert f"# {len(library)} concept" in card
    rows = re.findall(r"^\| `(.*?)` \| \[(.*?)\]\((.*?)/README.md\) \|", card, re.MULTILINE)
    assert rows == [(entry.placeholder_token, name, name) for name, entry in library.items()]
    return [entry.placeholder_token for entry in library.values()]


def test_saving_into_a_library_merges(runs: Runs, tmp_path: Path) -> None:
    runs["mug and cat"].save(tmp_path)
    before = files_of(tmp_path / "mug")
    runs["cat and dog"].save(tmp_path, overwrite=True)
    assert listed(tmp_path) == ["<mug>", "<cat>", "<dog>"]
    assert files_of(tmp_path / "mug") == before
    everything = files_of(tmp_path)
    runs["cat and dog"].save(tmp_path)
    assert files_of(tmp_path) == everything


def test_a_single_concept_joins_a_library(runs: Runs, tmp_path: Path) -> None:
    runs["cat and dog"].save(tmp_path)
    (file,) = runs["mug"].save(tmp_path)
    assert file == tmp_path / "mug" / "learned_embeds.safetensors"
    assert listed(tmp_path) == ["<cat>", "<dog>", "<mug>"]
    assert not (tmp_path / "learned_embeds.safetensors").exists()


def test_a_folder_of_one_concept_refuses_another(runs: Runs, tmp_path: Path) -> None:
    runs["mug"].save(tmp_path)
    before = files_of(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(
            OutputError, match=r"expected a folder for <cat>, got .* with <mug>; choose another output"
        ):
            runs["cat"].save(tmp_path, overwrite=overwrite)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(("first", "second"), [("mug", "other mug"), ("cat and dog", "other cat and dog")])
def test_other_rows_of_the_same_token_need_overwrite(runs: Runs, tmp_path: Path, first: str, second: str) -> None:
    runs[first].save(tmp_path)
    before = files_of(tmp_path)
    with pytest.raises(OutputError, match=r"holds <\w+> with other rows; pass overwrite=True to replace them, or cho"):
        runs[second].save(tmp_path)
    assert files_of(tmp_path) == before
    runs[first].save(tmp_path, sample_prompts=("a {}",))  # the same rows, another card
    for file in runs[second].save(tmp_path, overwrite=True):
        name = file.relative_to(tmp_path).as_posix()
        assert file.read_bytes() != before[file], name


def test_a_damaged_embedding_is_only_replaced_with_overwrite(runs: Runs, tmp_path: Path) -> None:
    (file,) = runs["mug"].save(tmp_path)
    file.write_bytes(b"damaged")
    with pytest.raises(OutputError, match=r"cannot replace what is in .* pass overwrite=True"):
        runs["mug"].save(tmp_path)
    runs["mug"].save(tmp_path, overwrite=True)
    assert read_embedding(file).placeholder_token == "<mug>"


def test_a_resumed_run_replaces_what_it_saved_before(tmp_path: Path) -> None:
    def run(steps: int, **settings: Any) -> SupremeInitTextualInversionTrainer:
        return trained(max_train_steps=steps, output_dir=str(tmp_path), checkpointing_steps=1, **settings)

    run(2).save(tmp_path)
    (file,) = run(4, resume_from_checkpoint="latest").save(tmp_path)
    assert read_embedding(file).training["steps"] == 4
    with pytest.raises(OutputError, match="with other rows"):
        run(2).save(tmp_path)  # the same run, but two steps of it would be lost


def test_before_training_it_is_told_what_saving_would_refuse(runs: Runs, tmp_path: Path) -> None:
    runs["mug"].save(tmp_path / "mug")
    runs["cat and dog"].save(tmp_path / "pets")
    check_can_save(tmp_path / "new", ["<mug>"])
    check_can_save(tmp_path / "pets", ["<mug>"])
    check_can_save(tmp_path / "mug", ["<mug>"], overwrite=True)
    check_can_save(tmp_path / "pets", ["<cat>"], overwrite=True)
    for folder, tokens, message in (
        ("mug", ["<cat>"], r"expected a folder for <cat>, got .* with <mug>"),
        ("mug", ["<mug>", "<cat>"], r"expected a folder for several concepts, got .* with one, <mug>"),
        (
            "mug",
            ["<mug>"],
            r"holds a result of <mug> already; pass overwrite to replace it, resume its run, or choose",
        ),
        ("pets", ["<mug>", "<dog>", "<cat>"], r"holds a result of <dog>, <cat> already"),
    ):
        with pytest.raises(OutputError, match=message):
            check_can_save(tmp_path / folder, tokens)


def test_edits_of_a_librarys_card_stay(runs: Runs, tmp_path: Path) -> None:
    runs["cat and dog"].save(tmp_path)
    card = tmp_path / "README.md"
    card.write_text(
        card.read_text()
        .replace("## Citation", "## My words\n\n## Citation")
        .replace("---\n", "---\nlicense: mit\n", 1)
    )
    runs["mug"].save(tmp_path)
    assert listed(tmp_path) == ["<cat>", "<dog>", "<mug>"]
    assert "## My words\n" in card.read_text()
    assert "\nlicense: mit\n" in card.read_text()


def test_a_library_of_different_models_names_none(runs: Runs, tmp_path: Path) -> None:
    runs["cat and dog"].save(tmp_path)
    assert "\nbase_model: user/base\n" in (tmp_path / "README.md").read_text()
    pipe = build_tiny_pipeline()
    pipe.register_to_config(_name_or_path="user/other")
    trained(pipe=pipe).save(tmp_path)
    assert "base_model" not in (tmp_path / "README.md").read_text()
    assert listed(tmp_path) == ["<cat>", "<dog>", "<mug>"]


def test_folders_of_the_first_index_keep_their_names(runs: Runs, tmp_path: Path) -> None:
    """It listed only folders, whose names depended on the other concepts of the run."""
    runs["mug and cat"].save(tmp_path)
    (tmp_path / "mug").rename(tmp_path / "mug-1")
    (tmp_path / "training.json").write_text(json.dumps({"folders": ["cat", "mug-1"], "files": []}))
    runs["mug"].save(tmp_path, overwrite=True)
    runs["cat and dog"].save(tmp_path, overwrite=True)
    assert sorted(listed(tmp_path)) == ["<cat>", "<dog>", "<mug>"]
    assert set(read_library(tmp_path) or ()) == {"cat", "dog", "mug-1"}
    assert [one.placeholder_token for one in build_tiny_pipeline().load_multitoken_inversion(tmp_path)] == listed(
        tmp_path
    )


def test_what_is_gone_is_told_and_leaves_the_index(
    runs: Runs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs["cat and dog"].save(tmp_path)
    shutil.rmtree(tmp_path / "dog")
    runs["mug"].save(tmp_path)
    assert "its index lists concepts that no longer exist: dog" in caplog.text
    assert listed(tmp_path) == ["<cat>", "<mug>"]


def test_concepts_in_folders_side_by_side_do_not_make_a_library(runs: Runs, tmp_path: Path) -> None:
    """``out/mug`` and ``out/cat`` of two runs load together, but a run into ``out`` lists only what it made."""
    runs["cat"].save(tmp_path / "cat")
    runs["mug"].save(tmp_path / "mug")
    assert loaded(tmp_path) == ["<cat>", "<mug>"]
    trained(("<dog>", "<fox>")).save(tmp_path)
    assert listed(tmp_path) == ["<dog>", "<fox>"]


# Loading all or some.


def loaded(source: Any, **options: Any) -> list[str]:
    return [report.placeholder_token for report in build_tiny_pipeline().load_multitoken_inversion(source, **options)]


def test_a_library_loads_all_or_some(runs: Runs, tmp_path: Path) -> None:
    runs["mug and cat"].save(tmp_path / "a")
    trained(("<dog>", "<fox>")).save(tmp_path / "b")
    assert loaded(tmp_path / "a") == ["<mug>", "<cat>"]
    assert loaded(tmp_path, subfolder="a") == ["<mug>", "<cat>"]
    assert loaded(tmp_path / "a", only=["<cat>"]) == loaded(tmp_path / "a", only="<CAT>") == ["<cat>"]
    assert loaded(tmp_path / "a", only=["<cat>"], token="<kitten>", description="a cat") == ["<kitten>"]
    assert loaded([tmp_path / "a", tmp_path / "b"], only=["<fox>", "<mug>"]) == ["<mug>", "<fox>"]
    assert loaded(tmp_path / "a" / "mug", only=["<mug>"]) == ["<mug>"]
    (tmp_path / "a" / "training.json").unlink()
    assert loaded(tmp_path / "a", only=["<cat>"]) == ["<cat>"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["<dog>", "<cat>"]}, r"only: expected some of <mug>, <cat> in .*, got <dog>"),
        ({"only": []}, r"only: expected at least one token, got none"),
        ({"token": "<kitten>"}, r"token: expected one for each of 2 concepts, got 1"),
        ({"description": "a toy"}, r"description: expected True or False for 2 concepts, got one text"),
    ],
)
def test_what_cannot_be_chosen_changes_nothing(
    runs: Runs, tmp_path: Path, unchanged: Any, options: Any, message: str
) -> None:
    runs["mug and cat"].save(tmp_path)
    pipe = build_tiny_pipeline()
    unchanged(pipe)
    with pytest.raises((EmbeddingFileError, ConceptLoadError), match=message):
        pipe.load_multitoken_inversion(tmp_path, **options)


def test_only_of_single_sources_is_checked_too(runs: Runs, tmp_path: Path) -> None:
    runs["mug"].save(tmp_path)
    with pytest.raises(EmbeddingFileError, match=r"only: expected some of <mug> in .*, got <cat>"):
        loaded(tmp_path, only=["<cat>"])
    with pytest.raises(EmbeddingFileError, match=r"only: expected some of <mug> in the given rows, got <cat>"):
        loaded({"<mug>": torch.zeros(1, HIDDEN_SIZE)}, only=["<cat>"])


@pytest.mark.parametrize(
    "index",
    [
        {"folders": ["../x", "a/b", "", "..", 5, None, "mug"], "concepts": []},
        {"folders": ["mug"], "concepts": {"mug": {"placeholder_token": 5}}},
        {
            "folders": ["mug"],
            "concepts": {"mug": {"placeholder_token": "<x>", "num_vectors": 1, "weights": ["/etc/x"]}},
        },
    ],
)
def test_an_index_that_somebody_wrote_leads_nowhere_else(index: Any) -> None:
    assert read_index(json.dumps(index).encode()) == {"mug": None}


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"folders": 5}', b'{"placeholder_token": "<mug>"}', b"[" * 9999]
)
def test_what_is_no_index_is_none(data: bytes) -> None:
    assert read_index(data) is None


# The Hub: the same, in one commit.


@pytest.fixture
def hub() -> HubWorker:
    setup = SETUP + (
        "from conftest import build_tiny_pipeline\n"
        "def load(*source, **options):\n"
        "    reports = build_tiny_pipeline().load_multitoken_inversion(*source, **options)\n"
        "    return [report.placeholder_token for report in reports]\n"
    )
    return fresh(shared_worker("lfs", setup=setup))


@pytest.fixture(scope="module")
def folders(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    for name, run in runs.items():
        run.save(folder / name)
    return folder


@pytest.fixture
def saved(folders: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folders, tmp_path / "saved")


def published(hub: HubWorker, tmp_path: Path, repo_id: str = "user/toys") -> list[str]:
    """Return the tokens of a library on the Hub, as index and card have them."""
    folder = tmp_path / "pulled"
    shutil.rmtree(folder, ignore_errors=True)
    for name, blob in hub.server.files(repo_id).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(blob.data)
    return listed(folder)


def test_pushing_into_a_library_merges(hub: HubWorker, saved: Path, tmp_path: Path) -> None:
    hub.run(f"push({str(saved / 'mug and cat')!r}, 'user/toys')").check()
    before = hub.server.files("user/toys")
    code = f"result = push({str(saved / 'cat and dog')!r}, 'user/toys', overwrite=True)"
    files = hub.run(code).check().value[3]
    assert files[:2] == ["README.md", "cat/README.md"]
    assert published(hub, tmp_path) == ["<mug>", "<cat>", "<dog>"]
    after = hub.server.files("user/toys")
    assert {name: after[name] for name in before if name.startswith("mug/")} == {
        name: blob for name, blob in before.items() if name.startswith("mug/")
    }
    assert len(hub.server.commits("user/toys")) == 3  # one made the repository
    assert listed(saved / "cat and dog") == ["<cat>", "<dog>"]  # the folder lists its own
    assert hub.run(code).check().value[1] is False  # nothing new
    assert '_inversion("user/toys")  # this folder' in after["README.md"].data.decode()


def test_a_single_concept_is_pushed_into_a_library(hub: HubWorker, saved: Path, tmp_path: Path) -> None:
    hub.run(f"push({str(saved / 'cat and dog')!r}, 'user/toys')").check()
    made = hub.run(f"result = push({str(saved / 'mug')!r}, 'user/toys')").check().value
    assert published(hub, tmp_path) == ["<cat>", "<dog>", "<mug>"]
    assert "learned_embeds.safetensors" not in hub.server.files("user/toys")
    assert made[3] == [
        "README.md",
        *(f"mug/{name}" for name in ("README.md", "learned_embeds.safetensors", "training.json")),
        "training.json",
    ]
    assert (saved / "mug" / "README.md").read_text().count('_inversion("user/toys", subfolder="mug")') == 2
    assert hub.run(f"result = push({str(saved / 'mug')!r}, 'user/toys')").check().value[1] is False


def test_a_folder_that_another_concept_has_there_is_not_taken(hub: HubWorker, saved: Path, tmp_path: Path) -> None:
    hub.run(f"push({str(saved / 'mug and cat')!r}, 'user/toys')").check()
    ours = saved / "cat and dog"
    (ours / "dog").rename(ours / "mug")
    (ours / "training.json").write_text(json.dumps({"folders": ["cat", "mug"]}))
    hub.run(f"push({str(ours)!r}, 'user/toys')").check()
    assert published(hub, tmp_path) == ["<mug>", "<cat>", "<dog>"]
    assert read_embedding(tmp_path / "pulled" / "mug" / "learned_embeds.safetensors").placeholder_token == "<mug>"
    assert read_embedding(tmp_path / "pulled" / "dog" / "learned_embeds.safetensors").placeholder_token == "<dog>"


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("mug", "cat", "expected a place for <cat>, got 'user/toys' with <mug>; choose another"),
        ("mug", "cat and dog", "expected a repository for several concepts, got 'user/toys' with one"),
        ("mug", "other mug", "'user/toys' holds <mug> with other rows; pass overwrite=True"),
        ("cat and dog", "other cat and dog", "'user/toys/cat/' holds <cat> with other rows; pass overwrite=True"),
        ("cat and dog", "other cat", "'user/toys/cat/' holds <cat> with other rows; pass overwrite=True"),
    ],
)
def test_a_push_that_would_lose_something_is_refused(
    hub: HubWorker, saved: Path, first: str, second: str, message: str
) -> None:
    hub.run(f"push({str(saved / first)!r}, 'user/toys')").check()
    before, local = hub.server.files("user/toys"), files_of(saved / second)
    made = hub.run(f"push({str(saved / second)!r}, 'user/toys')")
    assert made.error_type == "PublishError"
    assert message in (made.error or "")
    assert hub.server.files("user/toys") == before
    assert files_of(saved / second) == local
    if "overwrite" in message:
        hub.run(f"push({str(saved / second)!r}, 'user/toys', overwrite=True)").check()
        assert hub.server.files("user/toys") != before


@pytest.mark.parametrize("theirs", ["mug", "mug and cat"])
def test_two_people_push_into_one_library_at_the_same_time(
    hub: HubWorker, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: str
) -> None:
    hub.run(f"push({str(saved / 'cat and dog')!r}, 'user/toys')").check()
    ours = tmp_path / "fox"
    trained(("<fox>", "<owl>")).save(ours)
    race(hub, saved / theirs, monkeypatch)
    made = hub.run(f"result = push({str(ours)!r}, 'user/toys')").check().value
    assert made[1] is True
    assert sorted(published(hub, tmp_path)) == ["<cat>", "<dog>", "<fox>", "<mug>", "<owl>"]
    assert len(hub.server.commits("user/toys")) == 4


def test_overwriting_means_what_was_there_when_the_call_began(
    hub: HubWorker, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.run(f"push({str(saved / 'mug and cat')!r}, 'user/toys')").check()
    race(hub, saved / "other cat", monkeypatch)
    made = hub.run(f"push({str(saved / 'other cat and dog')!r}, 'user/toys', overwrite=True)")
    assert made.error_type == "PublishError"
    assert "somebody else has pushed meanwhile; look at what they did" in (made.error or "")
    assert len(hub.server.commits("user/toys")) == 3


def test_those_who_push_at_the_same_time_do_not_wait_equally_long(hub: HubWorker, saved: Path) -> None:
    """Else all of them would meet again at each further attempt, and all but one would fail in the end."""
    code = f"""
import types
before, slept = (publishing._PAUSES, publishing.time), []
publishing._PAUSES, publishing.time = (1.0, 2.0, 4.0), types.SimpleNamespace(sleep=slept.append)
try:
    push({str(saved / "mug and cat")!r}, 'user/toys')
finally:
    publishing._PAUSES, publishing.time = before
result = slept
"""
    waits = []
    for repository in ("user/toys", "user/others"):
        hub.server.add_fault(Fault("POST", r".*/commit/.*", 503, times=3))
        waits.append(hub.run(code.replace("user/toys", repository)).check().value)
        assert all(0.5 * pause <= wait <= 1.5 * pause for pause, wait in zip((1, 2, 4), waits[-1], strict=True))
    assert waits[0] != waits[1]


def race(hub: HubWorker, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a colleague's push of a folder come between the last look of the next push and its commit."""
    from hub.store import Repo

    branch, repo = "refs/heads/main", hub.server.repo("user/toys")
    before = repo.refs[branch]
    hub.run(f"push({str(folder)!r}, 'user/toys', overwrite=True)").check()
    theirs, repo.refs[branch] = repo.refs[branch], before
    ref_of = Repo.ref_of
    came: list[str] = []

    def after_a_colleague(self: Repo, revision: str) -> str:
        if not came:  # the first look of a commit at where it goes
            came.append(theirs)
            repo.refs[branch] = theirs
        return ref_of(self, revision)

    monkeypatch.setattr(Repo, "ref_of", after_a_colleague)


def test_edits_of_a_published_librarys_card_stay(hub: HubWorker, saved: Path, tmp_path: Path) -> None:
    hub.run(f"push({str(saved / 'cat and dog')!r}, 'user/toys', license='mit')").check()
    card = hub.server.files("user/toys")["README.md"].data.decode()
    hub.server.add_commit(
        "user/toys", {"README.md": card.replace("## Citation", "## My words\n\n## Citation").encode()}
    )
    hub.run(f"push({str(saved / 'mug')!r}, 'user/toys')").check()
    card = hub.server.files("user/toys")["README.md"].data.decode()
    assert "## My words\n" in card
    assert "\nlicense: mit\n" in card
    assert published(hub, tmp_path) == ["<cat>", "<dog>", "<mug>"]


def test_a_published_library_loads_all_or_some_and_stays(hub: HubWorker, saved: Path) -> None:
    hub.run(f"push({str(saved / 'mug and cat')!r}, 'user/toys')").check()
    assert hub.run("result = load('user/toys', only=['<cat>'])").check().value == ["<cat>"]
    assert hub.server.count("GET", "mug/learned_embeds") == 0
    offline = hub.run("result = load('user/toys', local_files_only=True)")
    assert offline.error_type == "EmbeddingFileError"  # nothing half: the index says what is missing
    assert "user/toys/mug" in (offline.error or "")
    assert hub.run("result = load('user/toys')").check().value == ["<mug>", "<cat>"]
    assert hub.run("result = load('user/toys', local_files_only=True)").check().value == ["<mug>", "<cat>"]
    made = hub.run("result = load('user/toys', only=['<dog>'])")
    assert made.error_type == "EmbeddingFileError"
    assert made.error == "only: expected some of <mug>, <cat> in 'user/toys', got <dog>"


def test_a_concept_without_all_files_that_the_index_lists_is_not_half_loaded(hub: HubWorker, saved: Path) -> None:
    hub.run(f"push({str(saved / 'mug and cat')!r}, 'user/toys')").check()
    index = json.loads(hub.server.files("user/toys")["training.json"].data)
    index["concepts"]["cat"]["weights"].append("learned_embeds_2.safetensors")
    hub.server.add_commit("user/toys", {"training.json": json.dumps(index).encode()})
    made = hub.run("load('user/toys')")
    assert made.error_type == "EmbeddingFileError"
    assert "user/toys/cat" in (made.error or "")


def test_all_files_are_of_the_commit_of_the_index(hub: HubWorker, saved: Path) -> None:
    hub.run(f"push({str(saved / 'mug and cat')!r}, 'user/toys')").check()
    code = """
from diffusers_supreme_init.loading import hub_sources
download = hub_sources.hf_hub_download
def a_colleague_deletes_meanwhile(repo_id, name, **options):
    path = download(repo_id, name, **options)
    if name == "training.json":
        huggingface_hub.HfApi().delete_file("cat/learned_embeds.safetensors", repo_id)
    return path
hub_sources.hf_hub_download = a_colleague_deletes_meanwhile
try:
    result = load("user/toys")
finally:
    hub_sources.hf_hub_download = download
"""
    assert hub.run(code).check().value == ["<mug>", "<cat>"]


def test_a_repository_of_many_without_an_index_loads_all(hub: HubWorker, tmp_path: Path) -> None:
    files = {}
    for name in ("cat", "mug"):
        one = LearnedEmbedding(placeholder_token=f"<{name}>", rows=torch.zeros(1, HIDDEN_SIZE))
        files[f"{name}/learned_embeds.safetensors"] = write_embedding(tmp_path / "one.safetensors", one).read_bytes()
    hub.server.create_repo("user/toys", files | {"runs/x/learned_embeds.safetensors": b"deeper"})
    assert hub.run("result = load('user/toys', description=False)").check().value == ["<cat>", "<mug>"]
    assert hub.run("result = load('user/toys', only='<mug>', description=False)").check().value == ["<mug>"]
    hub.server.create_repo("user/all", {f"toys/{name}": data for name, data in files.items()})
    code = "result = load('user/all', subfolder='toys', description=False)"
    assert hub.run(code).check().value == ["<cat>", "<mug>"]


@pytest.mark.parametrize("kind", [500, 503, "reset"])
def test_a_library_of_which_one_file_stumbles_is_not_half_loaded(hub: HubWorker, saved: Path, kind: Any) -> None:
    from hub.faults import Fault

    hub.run(f"push({str(saved / 'mug and cat')!r}, 'user/toys')").check()
    hub.server.add_fault(Fault("HEAD", "cat/learned_embeds", kind, times=None))
    made = hub.run("load('user/toys')")
    assert made.error_type == "EmbeddingFileError"
    assert "user/toys" in (made.error or "")
