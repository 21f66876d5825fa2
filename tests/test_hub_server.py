"""The Hub of `hub.server`, used by the unmodified client: what goes well, and who may do what."""

import json
from pathlib import Path

import pytest
import torch
from conftest import TOYBOX
from hub.client import HubWorker, Result, shared_worker
from hub.server import OTHER_TOKEN, POWERLESS_TOKEN, READ_TOKEN
from safetensors.torch import save

CARD = (
    "---\nlicense: mit\nlibrary_name: diffusers\ntags:\n- textual_inversion\nbase_model: maker/model\n---\n# A mug\n"
)
FILES = {
    "README.md": CARD.encode(),
    "learned_embeds.safetensors": save({"<mug>": torch.arange(64.0).reshape(2, 32)}),
    "images/0.png": b"\x89PNG" + bytes(100),
    "images/large.png": bytes(range(256)) * 60,
}
SETUP = "from huggingface_hub import HfApi, ModelCard, hf_hub_download\napi = HfApi()"


@pytest.fixture(params=["regular", "lfs", "xet"])
def any_worker(request: pytest.FixtureRequest) -> HubWorker:
    """A client of each mode, and an empty server."""
    return shared_worker(request.param, setup=SETUP)


@pytest.fixture
def worker() -> HubWorker:
    """A client of the default mode, and an empty server."""
    return shared_worker("xet", setup=SETUP)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What is uploaded."""
    for name, data in FILES.items():
        path = tmp_path / "upload" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "upload"


def upload(worker: HubWorker, folder: Path, options: str = "", **how: str) -> Result:
    code = f"made = api.upload_folder(repo_id='user/mug', folder_path={str(folder)!r}, {options})"
    return worker.run(f"{code}\nresult = [made.oid, made.pr_url]", **how)


def test_round_trip(any_worker: HubWorker, folder: Path) -> None:
    server = any_worker.server
    url = any_worker.run("result = str(api.create_repo('user/mug'))").check().value
    assert url == f"{server.url}/user/mug"
    oid, _ = upload(any_worker, folder).check().value
    assert server.commits("user/mug")[0].oid == oid
    assert len(server.commits("user/mug")) == 2

    names = any_worker.run("result = api.list_repo_files('user/mug')").check().value
    assert sorted(names) == sorted([".gitattributes", *FILES])
    for name, data in FILES.items():
        code = f"result = open(hf_hub_download('user/mug', {name!r}), 'rb').read().hex()"
        assert bytes.fromhex(any_worker.run(code).check().value) == data
    large = {name for name, blob in server.files("user/mug").items() if blob.large}
    assert large == (set() if server.mode == "regular" else {"learned_embeds.safetensors", "images/large.png"})
    assert not any(request.authorized for request in server.requests if request.origin == "storage")


def test_each_mode_takes_its_own_way(any_worker: HubWorker, folder: Path) -> None:
    any_worker.server.create_repo("user/mug")
    upload(any_worker, folder).check()
    server = any_worker.server
    assert (server.count("PUT", "/objects/") > 0) == (server.mode == "lfs")
    assert (server.count("GET", "/xet-write-token/") > 0) == (server.mode == "xet")


def test_unchanged_files_make_no_commit(any_worker: HubWorker, folder: Path) -> None:
    any_worker.server.create_repo("user/mug")
    first = upload(any_worker, folder).check().value
    again = upload(any_worker, folder).check()
    assert again.value == first
    assert "No files have been modified" in again.stderr
    assert len(any_worker.server.commits("user/mug")) == 2
    (folder / "images" / "0.png").write_bytes(b"another")
    upload(any_worker, folder).check()
    assert len(any_worker.server.commits("user/mug")) == 3


def test_files_that_did_not_come_through_a_client(any_worker: HubWorker) -> None:
    any_worker.server.create_repo("user/mug", FILES)
    code = "result = open(hf_hub_download('user/mug', 'images/large.png'), 'rb').read().hex()"
    assert bytes.fromhex(any_worker.run(code).check().value) == FILES["images/large.png"]


def test_model_info_and_cards(worker: HubWorker) -> None:
    worker.server.create_repo("user/mug", FILES)
    code = """
info = api.model_info("user/mug", files_metadata=True)
card = ModelCard.load("user/mug")
card.validate()
sizes = {file.rfilename: file.size for file in info.siblings}
result = [info.card_data.to_dict(), info.tags, info.sha, sizes, card.data.license, info.private]
"""
    data, tags, sha, sizes, card_license, private = worker.run(code).check().value
    assert data["base_model"] == "maker/model"
    assert tags == ["diffusers", "textual_inversion", "base_model:maker/model", "license:mit"]
    assert sha == worker.server.commits("user/mug")[0].oid
    assert {name: sizes[name] for name in FILES} == {name: len(data) for name, data in FILES.items()}
    assert card_license == "mit"
    assert private is False


def test_refused_card_stops_the_upload(any_worker: HubWorker, folder: Path) -> None:
    any_worker.server.create_repo("user/mug")
    (folder / "README.md").write_text("---\nbase_model: /home/user/model\n---\n")
    result = upload(any_worker, folder)
    assert result.error_type == "ValueError"
    assert "Invalid metadata in README.md" in (result.error or "")
    assert any_worker.server.count("POST", "/preupload/") == 0


def test_private_repository(worker: HubWorker) -> None:
    worker.run("api.create_repo('user/mug', private=True)").check()
    look = "result = api.model_info('user/mug').private"
    assert worker.run(look).check().value is True
    assert worker.run(look, token=READ_TOKEN).check().value is True
    for token in (None, OTHER_TOKEN, POWERLESS_TOKEN):
        assert worker.run(look, token=token).error_type == "RepositoryNotFoundError"
    assert worker.run(look, token="hf_unknown").error_type == "HfHubHTTPError"


def test_gated_repository(worker: HubWorker) -> None:
    worker.server.create_repo("user/mug", FILES, gated=True)
    look, take = "result = api.model_info('user/mug').gated", "hf_hub_download('user/mug', 'README.md')"
    assert worker.run(look, token=None).check().value == "manual"
    for token in (None, OTHER_TOKEN):
        assert worker.run(take, token=token).error_type == "GatedRepoError"
    worker.run(take).check()


def test_whoami_and_roles(worker: HubWorker, folder: Path) -> None:
    me = worker.run("result = api.whoami()", token=READ_TOKEN).check().value
    assert me["name"] == "user"
    assert me["auth"]["accessToken"]["role"] == "read"
    create = "result = str(api.create_repo('user/mug', exist_ok=True))"
    assert "403" in (worker.run(create, token=READ_TOKEN).error or "")
    worker.server.create_repo("user/mug")
    worker.run(create, token=READ_TOKEN).check()  # it exists, which is all that was asked
    for token, message in ((READ_TOKEN, "must use a write token"), (OTHER_TOKEN, "create_pr=1")):
        result = upload(worker, folder, token=token)
        assert result.error_type == "HfHubHTTPError"
        assert message in (result.error or "")
    assert worker.run("api.create_repo('user/mug')").error_type == "HfHubHTTPError"


def test_missing_things(worker: HubWorker) -> None:
    worker.server.create_repo("user/mug", FILES)
    for arguments, error in {
        "'user/cup', 'README.md'": "RepositoryNotFoundError",
        "'user/mug', 'cup.png'": "RemoteEntryNotFoundError",
        "'user/mug', 'README.md', revision='cup'": "RevisionNotFoundError",
    }.items():
        assert worker.run(f"hf_hub_download({arguments})").error_type == error


def test_stale_parent_commit(any_worker: HubWorker, folder: Path) -> None:
    stale = any_worker.server.create_repo("user/mug")
    any_worker.server.add_commit("user/mug", {"notes.txt": b"first"})
    result = upload(any_worker, folder, f"parent_commit={stale.oid!r}")
    assert result.error_type == "HfHubHTTPError"
    assert "412" in (result.error or "")
    fresh = any_worker.server.commits("user/mug")[0].oid
    upload(any_worker, folder, f"parent_commit={fresh[:7]!r}").check()


@pytest.mark.parametrize("token", ["hf_write", OTHER_TOKEN])
def test_pull_request(any_worker: HubWorker, folder: Path, token: str) -> None:
    server = any_worker.server
    server.create_repo("user/mug")
    oid, pr_url = upload(any_worker, folder, "create_pr=True", token=token).check().value
    assert pr_url == f"{server.url}/user/mug/discussions/1"
    assert list(server.files("user/mug")) == [".gitattributes"]
    assert set(FILES) < set(server.files("user/mug", "refs/pr/1"))
    code = "result = open(hf_hub_download('user/mug', 'README.md', revision='refs/pr/1')).read()"
    assert any_worker.run(code).check().value == CARD
    any_worker.run("api.merge_pull_request('user/mug', 1)").check()
    assert server.files("user/mug") == server.repo("user/mug").commits[oid].files


def test_branches(worker: HubWorker, folder: Path) -> None:
    worker.server.create_repo("user/mug")
    assert upload(worker, folder, "revision='next'").error_type == "RevisionNotFoundError"
    worker.run("api.create_branch('user/mug', branch='next')").check()
    upload(worker, folder, "revision='next'").check()
    assert "README.md" not in worker.server.files("user/mug")
    code = """
refs = api.list_repo_refs("user/mug")
api.create_tag("user/mug", tag="v1", revision="next")
titles = [commit.title for commit in api.list_repo_commits("user/mug", revision="v1")]
folders = [entry.path for entry in api.list_repo_tree("user/mug", revision="next")]
result = [[ref.name for ref in refs.branches], titles, folders]
"""
    branches, titles, entries = worker.run(code).check().value
    assert branches == ["main", "next"]
    assert titles == ["Upload folder using huggingface_hub", "initial commit"]
    assert sorted(entries) == [".gitattributes", "README.md", "images", "learned_embeds.safetensors"]


def test_deleting(worker: HubWorker, folder: Path) -> None:
    worker.server.create_repo("user/mug", FILES | {"old.txt": b"old"})
    upload(worker, folder, "delete_patterns='*.txt'").check()
    assert "old.txt" not in worker.server.files("user/mug")
    worker.run("api.delete_folder('images', 'user/mug')").check()
    assert not any(name.startswith("images/") for name in worker.server.files("user/mug"))
    worker.run("api.delete_repo('user/mug')").check()
    assert not worker.server.has_repo("user/mug")


def test_stock_diffusers_loads_from_it() -> None:
    config = json.loads((TOYBOX / "pipeline" / "text_encoder" / "config.json").read_text())
    rows = torch.randn(1, config["hidden_size"], generator=torch.Generator().manual_seed(0))
    code = f"""
import torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained({str(TOYBOX / "pipeline")!r})
pipe.load_textual_inversion("user/mug")
index = pipe.tokenizer.convert_tokens_to_ids("<mug>")
result = pipe.text_encoder.get_input_embeddings().weight[index].tolist()
"""
    worker = shared_worker("lfs")
    worker.server.create_repo("user/mug", {"learned_embeds.safetensors": save({"<mug>": rows})}, private=True)
    loaded = worker.run(code, token=READ_TOKEN).check()
    assert torch.equal(torch.tensor(loaded.value), rows[0])
    assert worker.server.count("GET", "^/objects/") == 1
