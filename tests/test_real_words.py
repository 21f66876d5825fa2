"""Real words: SD 1.5's own vocabulary, a real classifier, photographs. The text encoder and the UNet are random."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, build_tiny_pipeline, draw
from PIL import Image
from real_parts import (
    PHOTOGRAPHS,
    class_names,
    needs_dreambooth,
    needs_real_parts,
    real_tokenizer,
    save_real_classifier,
)
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

from diffusers_supreme_init import (
    DescriberConfig,
    Describers,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    propose_initializer,
    read_embedding,
)
from diffusers_supreme_init.describers.asking import _name_of
from diffusers_supreme_init.describers.classifier import Classifier
from diffusers_supreme_init.describers.wording import clean_label
from diffusers_supreme_init.text.text_pairs import find_text_pairs
from diffusers_supreme_init.triggers import row_names

T5_TOKENIZER = ROOT.parent / "shared" / "data" / "tokenizers" / "t5-v1_1"
VOCABULARY_SIZE = 49_408


@pytest.fixture(scope="module")
def classifier_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_real_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture
def describers(classifier_path: Path) -> Describers:
    return Describers(DescriberConfig(classifier=str(classifier_path), num_captions=0), device="cpu")


def real_pipeline() -> Any:
    """Return a tiny Stable Diffusion with the real vocabulary; equal calls give equal weights."""
    pipe = build_tiny_pipeline()
    tokenizer = real_tokenizer()
    tokenizer.model_max_length = 77
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=VOCABULARY_SIZE,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                bos_token_id=VOCABULARY_SIZE - 2,
                eos_token_id=2,  # as on the Hub, where it is wrong
                pad_token_id=1,
            )
        )
    pipe.register_modules(tokenizer=tokenizer, text_encoder=encoder.eval())
    return pipe


def photograph(name: str) -> Path:
    return next(PHOTOGRAPHS.glob(f"{name}.*"))


@needs_real_parts
def test_the_vocabulary_is_that_of_stable_diffusion() -> None:
    tokenizer = real_tokenizer()
    assert len(tokenizer) == VOCABULARY_SIZE
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer.convert_ids_to_tokens(265) == "*</w>"  # the id in A1111's files
    assert tokenizer.tokenize("an Egyptian Mau") == ["an</w>", "egyptian</w>", "mau</w>"]


@needs_real_parts
@pytest.mark.parametrize(
    ("name", "words"),
    [("coffee", "espresso"), ("chelsea", "Egyptian Mau"), ("camera", "tripod"), ("motorcycle_left", "moped")],
)
def test_photographs_get_their_words(describers: Describers, name: str, words: str) -> None:
    proposal = propose_initializer(photograph(name), "class", describers=describers)
    assert proposal.text == words


@needs_real_parts
def test_no_word_of_imagenet_is_a_list() -> None:
    for label in class_names():
        words = clean_label(label).text
        assert words
        assert " or " not in words
        assert not set(words) & set(",/()")


@needs_real_parts
def test_equal_classes_of_imagenet_are_one_answer(classifier_path: Path) -> None:
    """ImageNet has two classes of sunglasses; both are found on one picture."""
    classifier = Classifier(str(classifier_path), device="cpu")
    picture = Image.open(photograph("rocket")).convert("RGB")
    answers = classifier.describe([picture], num_labels=1000)
    assert len({one.text for one in answers}) == len(answers) == 998
    assert sum(one.score for one in answers) == pytest.approx(1.0, abs=1e-4)
    by_name = classifier.describe([picture], num_labels=1000, name_of=lambda label: _name_of(label, synonym="first"))
    assert len(by_name) <= len(answers)


@needs_real_parts
@pytest.mark.parametrize("name", ["coffee", "chelsea"])
def test_class_rows_training_file_and_both_loaders(tmp_path: Path, describers: Describers, name: str) -> None:
    pipe = real_pipeline()
    encoder, tokenizer = pipe.text_encoder, pipe.tokenizer
    vocabulary = encoder.get_input_embeddings().weight.detach().clone()
    before = draw(pipe, "a photo of a cat")
    trainer = SupremeInitTextualInversionTrainer(
        pipe,
        images=photograph(name),
        placeholder_token="<mug>",
        initializer="class",
        describers=describers,
        config=SupremeInitConfig(max_train_steps=3, learning_rate=1e-2, validation_samples=2),
    )
    (result,) = trainer.train()
    words = {"coffee": "espresso", "chelsea": "Egyptian Mau"}[name]
    ids = real_tokenizer()(words, add_special_tokens=False).input_ids
    learned = result.rows["text_encoder"]
    assert learned.shape == (len(ids), 32)
    assert not torch.equal(learned, vocabulary[ids])
    trainer.save(tmp_path / "mug")
    saved = read_embedding(tmp_path / "mug" / "learned_embeds.safetensors")
    assert saved.description == words
    assert list(saved.initializer_tokens) == tokenizer.convert_ids_to_tokens(ids)
    assert torch.equal(saved.rows, learned)

    pipe.unload_multitoken_inversion()
    assert torch.equal(encoder.get_input_embeddings().weight, vocabulary)
    assert np.array_equal(draw(pipe, "a photo of a cat"), before)
    pipe.load_multitoken_inversion(tmp_path / "mug")
    (pair,) = find_text_pairs(pipe)
    assert torch.equal(pair.rows("<mug>"), learned)
    assert tokenizer.tokenize("<mug>") == row_names("<mug>", len(ids))
    picture = draw(pipe, "a photo of <mug>")

    stock = real_pipeline()
    stock.load_textual_inversion(str(tmp_path / "mug"))
    names = ["<mug>", *(f"<mug>_{index}" for index in range(1, len(ids)))]
    stock_ids = stock.tokenizer.convert_tokens_to_ids(names)
    assert torch.equal(stock.text_encoder.get_input_embeddings().weight[stock_ids], learned)
    assert np.allclose(draw(stock, "a photo of <mug>"), picture, atol=1e-5)


@pytest.mark.skipif(not T5_TOKENIZER.is_dir(), reason="T5's tokenizer is not here")
@pytest.mark.parametrize("label", ["Egyptian Mau", "Pembroke Welsh Corgi"])
def test_t5_reads_names_in_fewer_pieces_when_they_keep_their_case(label: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(T5_TOKENIZER)
    prompts = [f"a photo of an {text}" for text in (clean_label(label).text, label.lower())]
    counts = [len(tokenizer(prompt, add_special_tokens=False).input_ids) for prompt in prompts]
    assert counts[0] < counts[1]


@pytest.mark.slow
@needs_real_parts
@needs_dreambooth
def test_the_table_of_real_words_is_fresh() -> None:
    import real_words

    assert real_words.PAGE.read_text(encoding="utf-8") == real_words.page()
