"""Pulling concepts from a Hub on loopback: what stumbles, what is missing, what is said about it."""

from pathlib import Path
from typing import Any

import pytest
from hub.client import HubWorker, shared_worker
from hub.faults import Fault
from tiny.every_family import FAMILY, concept_for
from tiny.families import Family

from diffusers_supreme_init import write_embedding
from diffusers_supreme_init.text.text_pairs import find_text_pairs

SETUP = """
from tiny.every_family import FAMILY
from diffusers_supreme_init import SupremeInitError
def pull(repo_id="user/mug", **options):
    pipe = FAMILY["stable_diffusion_xl"].build()
    size = len(pipe.tokenizer)
    try:
        return str(pipe.load_multitoken_inversion(repo_id, **options)[0])
    except SupremeInitError as error:
        assert len(pipe.tokenizer) == size
        return f"{type(error).__name__}: {error}"
"""


@pytest.fixture
def hub() -> HubWorker:
    return shared_worker("lfs", setup=SETUP)


def files_of(folder: Path, prefix: str = "") -> dict[str, bytes]:
    """Return the two files of a concept for SDXL."""
    family: Family = FAMILY["stable_diffusion_xl"]
    files = {}
    names = ("learned_embeds.safetensors", "learned_embeds_2.safetensors")
    for pair, name in zip(find_text_pairs(family.build()), names, strict=True):
        # Any vocabulary of that width: another process trains its own.
        concept = concept_for(pair, encoder=None)
        files[prefix + name] = write_embedding(folder / name, concept).read_bytes()
    return files


def test_both_files_come_and_stay(hub: HubWorker, tmp_path: Path) -> None:
    hub.server.create_repo("user/mug", files_of(tmp_path))
    report = hub.run("result = pull()").check().value
    assert report.splitlines() == ["<mug>: 3 rows in text_encoder", "<mug>: 3 rows in text_encoder_2"]
    hub.server.add_fault(Fault("HEAD", "/resolve/", 500, times=None))  # the Hub is gone; what is missing is known
    assert hub.run("result = pull()").check().value == report
    assert hub.run("result = pull(local_files_only=True)").check().value == report


@pytest.mark.parametrize("kind", [500, 503, 429, "reset"])
def test_a_second_file_that_stumbles_is_no_half_load(hub: HubWorker, tmp_path: Path, kind: Any) -> None:
    hub.server.create_repo("user/mug", files_of(tmp_path))
    hub.server.add_fault(Fault("HEAD", "learned_embeds_2", kind, times=None))
    message = hub.run("result = pull()").check().value
    assert message.startswith("EmbeddingFileError: cannot load ")
    assert "user/mug" in message


@pytest.mark.parametrize(
    ("files", "advice"),
    [
        (
            ["toys/mug/learned_embeds.safetensors", "toys/cat/learned_embeds.safetensors"],
            "it has toys/cat, toys/mug: pass subfolder='toys/cat'",
        ),
        (["EasyNegative.safetensors"], "it has EasyNegative.safetensors: pass weight_name='EasyNegative.safetensors'"),
        (["learned_embeds.bin"], "pass weight_name='learned_embeds.bin', allow_pickle=True"),
    ],
)
def test_what_a_repository_has_instead_is_told(hub: HubWorker, files: list[str], advice: str) -> None:
    hub.server.create_repo("user/mug", dict.fromkeys(files, b"x"))
    message = hub.run("result = pull()").check().value
    assert message.startswith(
        "EmbeddingFileError: no folder 'user/mug' here; expected learned_embeds.safetensors in the"
    )
    assert message.endswith(advice)
    assert "\n" not in message


def test_a_private_repository_without_a_token(hub: HubWorker, tmp_path: Path) -> None:
    hub.server.create_repo("user/mug", files_of(tmp_path), private=True)
    assert "EmbeddingFileError" in hub.run("result = pull()", token=None).check().value
    assert "3 rows" in hub.run("result = pull(hub_token='hf_write')", token=None).check().value
