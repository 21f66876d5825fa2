"""Random damage: whatever a file or a prompt holds, only our own errors are raised and nothing is half done."""

import json
import os
import random
import re
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from conftest import assert_same, snapshot_of
from tiny.every_family import FAMILY, concept_for, rows_for

from diffusers_supreme_init import (
    EmbeddingFileError,
    SupremeInitError,
    SupremeInitWarning,
    read_embeddings,
    write_embeddings,
)
from diffusers_supreme_init.formats.embedding_file import METADATA_KEY
from diffusers_supreme_init.loading.matching import ConceptRequest, plan_load
from diffusers_supreme_init.multitoken import add_triggers
from diffusers_supreme_init.text.text_pairs import find_text_pairs
from diffusers_supreme_init.triggers import row_table

PIPELINES = ("stable_diffusion", "stable_diffusion_xl", "flux", "qwen_image", "hunyuan_image")
NAMES = [
    "<mug>",
    "mug",
    "*",
    "",
    " ",
    "<mug|0>",
    "emb_params",
    "clip_l",
    "clip_g",
    "t5xxl",
    "<Mug>",
    "ä",
    "\x00",
    "𝕞",
    "a b",
]
DTYPES = ["F32", "F16", "BF16", "F64", "I64", "BOOL", "F8_E4M3", "X1"]

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "10000"))
"""`make fuzz` takes 20,000."""

pytestmark = pytest.mark.slow


def whole_files(folder: Path, chance: random.Random) -> list[bytes]:
    """Return one file of every safetensors format, for encoders of the pipelines here."""
    files = []
    for name in PIPELINES:
        for number, pair in enumerate(find_text_pairs(FAMILY[name].build())):
            for form in ("diffusers", "kohya", "onetrainer", "per-token"):
                path = folder / f"{name}-{number}-{form}.safetensors"
                try:
                    write_embeddings(path, [concept_for(pair)], form)
                except EmbeddingFileError:
                    assert form == "onetrainer"  # which does not train every text encoder
                    continue
                files.append(path.read_bytes())
            files.append(safetensors.torch.save({chance.choice(NAMES): rows_for(pair)}))
            files.append(safetensors.torch.save({"clip_l": rows_for(pair), "clip_g": rows_for(pair)}))
    return files


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return a file with one to three kinds of damage."""
    for _ in range(chance.randint(1, 3)):
        kind = chance.choice(["flip", "cut", "insert", "header", "header", "header", "swap"])
        if kind == "header":
            data = with_other_header(data, chance)
            continue
        at = chance.randrange(len(data) + 1) if chance.random() < 0.5 else chance.randrange(min(len(data), 400) + 1)
        if kind == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + chance.randbytes(chance.randint(1, 9)) + data[at:]
        else:
            data = data[at:] + data[:at]
    return data


def with_other_header(data: bytes, chance: random.Random) -> bytes:
    """Change what the header says: names, shapes, dtypes, offsets, metadata."""
    try:
        (size,) = struct.unpack("<Q", data[:8])
        header: dict[str, Any] = json.loads(data[8 : 8 + size])
    except (struct.error, ValueError, OverflowError):
        return data
    key = chance.choice(list(header) or ["<mug>"])
    what = chance.choice(["rename", "shape", "dtype", "offsets", "drop", "metadata", "own", "junk"])
    entry = header.get(key)
    if what == "rename" and key in header:
        header[chance.choice(NAMES)] = header.pop(key)
    elif what in ("shape", "dtype", "offsets") and isinstance(entry, dict):
        values = {
            "shape": [[1], [], [1, 3, 32], [3, 0], [2**40, 2], [-1, 3], "3", [3.5, 2]],
            "dtype": DTYPES,
            "offsets": [[0, 1], [5, 2], [0, 2**62], [-1, 4], None],
        }[what]
        entry["data_offsets" if what == "offsets" else what] = chance.choice(values)
    elif what == "drop":
        header.pop(key, None)
    elif what == "metadata":
        header["__metadata__"] = chance.choice([{}, {"a": 1}, [], "x", {METADATA_KEY: "[]"}, {METADATA_KEY: "{"}])
    elif what == "own":
        name = chance.choice(["description", "initializer_tokens", "encoder", "dtype", "training", "base_model"])
        junk = [None, 3, [], {}, "float16", "int8", "<mug>", ["a"], {"class_name": 1}, {"hidden_size": 8}, "x" * 5000]
        own = {name: chance.choice(junk)}
        header["__metadata__"] = {METADATA_KEY: json.dumps(own)}
    else:
        header[chance.choice(NAMES)] = chance.choice([None, 1, [], {}, "x"])
    new = json.dumps(header).encode()
    return struct.pack("<Q", len(new)) + new + data[8 + size :]


def test_mutated_files_against_the_planning_half(tmp_path: Path) -> None:
    chance = random.Random(0)
    pipes = [FAMILY[name].build() for name in PIPELINES]
    before = [snapshot_of(pipe) for pipe in pipes]
    pairs = [find_text_pairs(pipe) for pipe in pipes]
    files = whole_files(tmp_path, chance)
    path = tmp_path / "mutated.safetensors"
    outcomes: dict[str, int] = {}
    for _ in range(ROUNDS):
        data = chance.choice(files)  # whole in half of the rounds: few damaged ones come as far as to be planned
        path.write_bytes(mutated(data, chance) if chance.random() < 0.5 else data)
        try:
            parts = read_embeddings(path)
            request = ConceptRequest(
                embeddings=parts,
                token=chance.choice([None, None, "<mug>", "mug", "", "%mug%"]),
                description=chance.choice([True, False, "a mug", ""]),
                text_encoder=chance.choice([None, None, "text_encoder", "text_encoder_2", "x"]),
            )
            outcome = "planned" if plan_load(chance.choice(pairs), [request]).reports else "nothing"
        except SupremeInitError as error:
            outcome = type(error).__name__
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    for pipe, state in zip(pipes, before, strict=True):
        assert_same(state, snapshot_of(pipe))
    for kind in ("planned", "EmbeddingFileError", "ConceptLoadError", "PlaceholderTokenError"):
        assert outcomes.get(kind, 0) > ROUNDS // 200, outcomes  # no kind of outcome is a fluke


@pytest.mark.filterwarnings("ignore::diffusers_supreme_init.SupremeInitWarning")  # of words that look like triggers
def test_random_prompts_with_triggers() -> None:
    chance = random.Random(0)
    triggers = ["<mug>", "zmg", "zmg2", "%mug%", "[a|b]", "(<x", "my-cat", "émü", "|x|", "7q7"]
    described = {"<cup>": "a red cup", "zq-cup": "an old tin", "<b>": "cup", "__": "the thing"}
    other = ["<mug|0>", "<mug", "a", "the", "an ", "zq-", " ", "\n", "ſ", "K", "𝕞", "x", "1", "_", ">", "|0>", "."]
    pieces = [*triggers, *described, *other]
    tokenizers, fresh = [], []
    for name in ("stable_diffusion", "flux", "qwen_image", "sana", "hunyuan_dit", "hunyuan_image", "kolors"):
        pipe = FAMILY[name].build()
        fresh += [slot.tokenizer for pair in find_text_pairs(FAMILY[name].build()) for slot in pair.slots]
        for pair in find_text_pairs(pipe):
            for number, trigger in enumerate(triggers):
                load_quietly(pipe, {trigger: rows_for(pair, 1 + number)}, pair.encoder_name)
            for slot in pair.slots:
                for trigger, words in described.items():
                    add_triggers(slot.tokenizer, {trigger: words}, slot.processor)
                tokenizers.append(slot.tokenizer)
    num_with_rows = 0
    for _ in range(ROUNDS):
        prompt = "".join(chance.choice(pieces) for _ in range(chance.randint(0, 12)))
        number = chance.randrange(len(tokenizers))
        tokenizer = tokenizers[number]
        expanded = tokenizer._expand(prompt)
        assert tokenizer._expand(expanded) == expanded, prompt
        ids = tokenizer(prompt).input_ids
        assert tokenizer(expanded).input_ids == ids, prompt
        if expanded == prompt and not re.search(r"<\S+\|0>", prompt):  # a row name that is typed is that row
            assert fresh[number](prompt).input_ids == ids, prompt
        for names in row_table(tokenizer).values():
            if "".join(names) in expanded:
                num_with_rows += 1
                wanted = tokenizer.convert_tokens_to_ids(names)
                assert any(ids[start : start + len(wanted)] == wanted for start in range(len(ids))), prompt
    assert num_with_rows > ROUNDS // 2


def test_whole_loads_that_fail_leave_no_trace(tmp_path: Path) -> None:
    chance = random.Random(0)
    files = whole_files(tmp_path, chance)
    pipes = {name: FAMILY[name].build() for name in PIPELINES}
    at_first = {name: snapshot_of(pipe) for name, pipe in pipes.items()}
    path = tmp_path / "mutated.safetensors"
    num_loaded = num_failed = 0
    for number in range(300):
        name = chance.choice(PIPELINES)
        pipe = pipes[name]
        data = chance.choice(files)
        path.write_bytes(data if chance.random() < 0.6 else mutated(data, chance))
        token = chance.choice([None, f"<c{number % 40}>"])
        before = snapshot_of(pipe)
        try:
            load_quietly(pipe, [path, path] if chance.random() < 0.1 else path, None, token)
            num_loaded += 1
        except SupremeInitError:
            num_failed += 1
            assert_same(before, snapshot_of(pipe))
        if chance.random() < 0.1:
            loaded = [t for pair in find_text_pairs(pipe) for t in row_table(pair.tokenizer)]
            pipe.unload_multitoken_inversion(chance.choice(loaded) if loaded else None)
    assert num_loaded > 30
    assert num_failed > 30
    for name, pipe in pipes.items():
        pipe.unload_multitoken_inversion()
        assert_same(at_first[name], snapshot_of(pipe))


def load_quietly(pipe: Any, source: Any, text_encoder: str | None, token: str | None = None) -> None:
    load: Callable[..., Any] = pipe.load_multitoken_inversion
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SupremeInitWarning)
        load(source, token=token, text_encoder=text_encoder, description=text_encoder is None)
