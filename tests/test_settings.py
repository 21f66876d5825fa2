"""Settings as YAML, JSON, command lines and notebooks give them: plain ones are taken, others refused in one line."""

import contextlib
import dataclasses
import math
import random
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import HfArgumentParser

from diffusers_supreme_init import ConfigError, DescriberConfig, SupremeInitConfig
from diffusers_supreme_init.errors import shown


class SchedulerType(Enum):
    """Like diffusers' own."""

    COSINE = "cosine"


@pytest.mark.parametrize(
    ("setting", "given", "taken"),
    [
        ("learning_rate", "1e-4", 1e-4),
        ("learning_rate", " 5E-3 ", 5e-3),
        ("learning_rate", 1, 1),
        ("learning_rate", np.float64(0.5), 0.5),
        ("learning_rate", torch.tensor(0.5), 0.5),
        ("learning_rate", "None", None),
        ("adam_epsilon", "1e-8", 1e-8),
        ("flip_probability", "0", 0.0),
        ("snr_gamma", "5", 5.0),
        ("max_train_steps", 2.0, 2),
        ("max_train_steps", "1e3", 1000),
        ("max_train_steps", np.int32(7), 7),
        ("seed", torch.tensor(4), 4),
        ("resolution", "512", 512),
        ("resolution", "null", None),
        ("center_crop", "false", False),
        ("center_crop", "No", False),
        ("center_crop", "on", True),
        ("center_crop", 0, False),
        ("masked_loss", np.True_, True),
        ("lr_scheduler", "Cosine", "cosine"),
        ("lr_scheduler", SchedulerType.COSINE, "cosine"),
        ("mixed_precision", False, "no"),
        ("mixed_precision", torch.bfloat16, "bf16"),
        ("mixed_precision", "float16", "fp16"),
        ("report_to", "none", None),
        ("logging_dir", Path("events"), "events"),
        ("validation_steps", [0, 10], ["0", "10"]),
        ("validation_steps", (0, "every:25", 7.0), ["0", "every:25", "7"]),
        ("validation_steps", 10, ["10"]),
        ("validation_steps", "0, every:25", ["0", "every:25"]),
        ("validation_steps", range(0, 30, 10), ["0", "10", "20"]),
        ("validation_steps", np.array([1, 2]), ["1", "2"]),
        ("validation_steps", None, []),
        ("snapshot_steps", "none", []),
        ("train_text_encoders", "text_encoder", ["text_encoder"]),
        ("train_text_encoders", ("text_encoder", "text_encoder_2"), ["text_encoder", "text_encoder_2"]),
        ("train_text_encoders", None, []),
    ],
)
def test_settings_whose_meaning_is_plain(setting: str, given: Any, taken: Any) -> None:
    value = getattr(SupremeInitConfig(**{setting: given}), setting)
    assert value == taken
    assert type(value) is type(taken)


WRONG = [None, True, 3, -1.5, math.nan, math.inf, 10**400, "", "maybe", "\0", "\ud800", b"x", [], [None], {}, {1: 2}]
WRONG += [1j, object(), torch.nn.Linear(2, 2), torch.ones(3), np.zeros((2, 2)), lambda: 1, type, range(3), {"a"}]
SURELY_WRONG = {
    "int": [True, 1.5, math.nan, math.inf, 2**63, 10**5000, "9" * 5000, "", "ten", "1/2", [1], {}, 1j, torch.ones(2)],
    "float": [True, "", "1,5", "fast", math.nan, 10**400, [1.0], {}, 1j, object(), torch.ones(2), b"1"],
    "bool": [None, "", "maybe", 2, 0.5, math.nan, [], [True], {}, object(), torch.ones(2)],
    "str": [1, 1.5, True, b"x", ["x"], {}, object(), "\ud800", "a\0b"],
    "list[str]": [1.5, {}, {"0"}, object(), b"0", [None], [[]], ["\ud800"], [b"0"]],
}


def dataclass_names(of: type) -> list[str]:
    return [field.name for field in dataclasses.fields(of)]


@pytest.mark.parametrize("config", [SupremeInitConfig, DescriberConfig])
def test_every_field_refuses_values_of_another_kind(config: type) -> None:
    for field in dataclasses.fields(config):
        kind = field.type.__name__ if type(field.type) is type else str(field.type).removesuffix(" | None")
        for value in SURELY_WRONG[kind]:
            if field.name == "report_to" and value == ["x"]:
                continue  # a list of trackers
            with pytest.raises(ConfigError, match=rf"\A{field.name}: expected [^\n]*, got [^\n]+\Z") as info:
                config(**{field.name: value})
            assert len(str(info.value)) < 300
            assert "Linear(" not in str(info.value)
            assert "object at" not in str(info.value)


@pytest.mark.parametrize("config", [SupremeInitConfig, DescriberConfig])
def test_no_value_raises_a_foreign_exception(config: type) -> None:
    for field in dataclasses.fields(config):
        for value in WRONG:
            with contextlib.suppress(ConfigError):
                config(**{field.name: value})


def test_whole_dictionaries_of_random_settings() -> None:
    chance = random.Random(0)
    names = dataclass_names(SupremeInitConfig)
    values = [*WRONG, "1e-4", "512", 2.0, [0, 10], "none", "false", 7, 0.5, "every:3", "latest", Path("x"), 1e-3]
    num_taken = 0
    for _ in range(1000):
        given = {name: chance.choice(values) for name in chance.sample(names, chance.randint(1, 4))}
        try:
            config = SupremeInitConfig(**given)
        except ConfigError:
            continue
        num_taken += 1
        assert dataclasses.replace(config) == config  # what was converted is not converted again
    assert num_taken > 20


def test_seeds_have_no_default_that_would_not_be_recorded() -> None:
    with pytest.raises(ConfigError, match="seed: expected a whole number, at least 0, got None"):
        SupremeInitConfig(seed=None)  # type: ignore[arg-type]


def test_home_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = SupremeInitConfig(output_dir="~/out", resume_from_checkpoint="~/out")
    assert config.output_dir == config.resume_from_checkpoint == str(tmp_path / "out")
    assert DescriberConfig(captioner="~/blip").captioner == str(tmp_path / "blip")


def test_describer_settings() -> None:
    config = DescriberConfig(
        num_labels="5",  # type: ignore[arg-type]
        describer_dtype=torch.bfloat16,  # type: ignore[arg-type]
        clean_captions="no",  # type: ignore[arg-type]
        max_initializer_tokens="none",  # type: ignore[arg-type]
        classifier="none",
        candidate_labels=("a mug", "a cup"),  # type: ignore[arg-type]
    )
    assert (config.num_labels, config.describer_dtype, config.clean_captions) == (5, "bfloat16", False)
    assert (config.max_initializer_tokens, config.classifier) == (None, None)
    assert config.candidate_labels == ["a mug", "a cup"]
    with pytest.raises(ConfigError, match="candidate_labels: expected a list of texts, got 'a mug'"):
        DescriberConfig(candidate_labels="a mug")  # type: ignore[arg-type]


def test_parsers_of_command_lines_change_no_type() -> None:
    HfArgumentParser((SupremeInitConfig, DescriberConfig))  # type: ignore[arg-type]
    assert SupremeInitConfig().learning_rate is None
    assert DescriberConfig(classifier="none").classifier is None


def test_of_what_is_too_long_for_a_message_both_ends_are_shown() -> None:
    path = f"/very/{'deep/' * 400}mug.png"
    assert shown(path).startswith("'/very/deep/")
    assert shown(path).endswith("deep/mug.png'")
    assert len(shown(path)) <= 80
    assert len(shown(list(range(1000)))) <= 80
