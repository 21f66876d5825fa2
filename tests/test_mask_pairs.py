"""Which mask belongs to which picture: by name, and by order only where that is said."""

from pathlib import Path
from typing import Any

import pytest
from conftest import random_picture
from PIL import Image

from diffusers_supreme_init import (
    Concept,
    PictureError,
    SupremeInitConfig,
    SupremeInitTextualInversionTrainer,
    SupremeInitWarning,
)
from diffusers_supreme_init.concepts import find_masks
from diffusers_supreme_init.inputs.mask_pairs import pair_by_name


@pytest.mark.parametrize(
    ("pictures", "masks"),
    [
        ("mug.png|mug2.png", "mug_mask.png|mug2_mask.png"),
        ("mug2.png|mug.png", "mug2_mask.png|mug_mask.png"),
        ("a.jpg|b.jpg", "a.png|b.png"),
        ("A.JPG|b.jpg", "a_Mask.PNG|B-mask.png"),
        ("1.png|2.png|10.png", "mask1.png|mask2.png|mask10.png"),
        ("1.png|10.png|2.png", "1mask.png|10mask.png|2mask.png"),
        ("mug-1.png|mug-10.png", "mask_mug_1.png|mask_mug_10.png"),
        ("mug-1.png|mug-10.png", "mug_mask_1.png|mug_mask_10.png"),
        ("mug.jpg|cup.jpg", "mug.jpg_mask.png|cup.jpg.mask.png"),
        ("mug.jpg|cup.jpg", "mugmask.png|cupmask.png"),
        ("IMG (1).jpg|IMG (2).jpg", "IMG_1 matte.png|IMG_2 matte.png"),
        ("mug.jpg|cup.jpg", "mug_segmentation.png|cup_gt.png"),
        ("cafe\u0301.png|b.png", "caf\u00e9_mask.png|b_mask.png"),
        ("x_1.png|x_11.png", "x_1m.png|x_11m.png"),
        ("0001.png|0002.png", "0001-removebg.png|0002-removebg.png"),
        ("mug1.png|mug2.png", "Mask of mug1.png|Mask of mug2.png"),
        ("1.png|2.png", "mask01.png|mask02.png"),
        ("mask1.png|mask2.png", "mask1_mask.png|mask2_mask.png"),
        ("A.png|a.png", "A_mask.png|a_mask.png"),
        ("マグ1.png|マグ2.png", "マグ1_マスク.png|マグ2_マスク.png"),
    ],
)
def test_masks_are_found_by_name(pictures: str, masks: str) -> None:
    names, of_names = pictures.split("|"), masks.split("|")
    assert pair_by_name(names, of_names) == list(range(len(names)))
    assert pair_by_name(names, of_names[::-1]) == list(range(len(names)))[::-1]
    assert pair_by_name(sorted(names), sorted(of_names)) is not None


@pytest.mark.parametrize(
    ("pictures", "masks"),
    [(["a.png", "b.png"], ["x.png", "y.png"]), (["a.png", "a.jpg"], ["a_mask.png", "b.png"]), (["a"], ["mask"])],
)
def test_names_that_say_nothing(pictures: list[str], masks: list[str]) -> None:
    assert pair_by_name(pictures, masks) is None


@pytest.mark.parametrize(
    ("pictures", "masks", "message"),
    [
        (["a.png", "b.png"], ["a_mask.png", "c_mask.png"], "mask named like 'b.png'.* none among a_mask.png, c_mask"),
        (["a.png", "b.png"], ["a_mask.png", "a.png"], "named like 'a.png'.* got a_mask.png and a.png"),
    ],
)
def test_names_that_fit_only_in_part(pictures: list[str], masks: list[str], message: str) -> None:
    with pytest.raises(PictureError, match=message):
        pair_by_name(pictures, masks)


def made(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for index, name in enumerate(names):
        random_picture(seed=index).save(folder / name)
    return folder


def concept(images: Any, mask: Any) -> Concept:
    return Concept(images=images, placeholder_token="<mug>", initializer="a mug", mask=mask)


def names_of(images: Any, mask: Any) -> list[str]:
    return [Path(str(one)).name for one in find_masks(concept(images, mask), 2) or ()]


def test_folders_are_paired_by_name_and_sequences_by_order(tmp_path: Path) -> None:
    images = made(tmp_path / "images", "mug.png", "mug2.png")  # sorted; their masks are not
    masks = made(tmp_path / "masks", "mug_mask.png", "mug2_mask.png")
    right = ["mug_mask.png", "mug2_mask.png"]
    assert [path.name for path in sorted(masks.iterdir())] == right[::-1]
    paths = [images / "mug.png", images / "mug2.png"]
    assert names_of(images, masks) == names_of(images, [masks]) == names_of(paths, str(masks)) == right
    assert names_of(paths, [masks / name for name in right]) == right
    with pytest.warns(SupremeInitWarning, match=r"<mug>: masks are taken in the given order, though their names say"):
        assert names_of(paths, [masks / name for name in right[::-1]]) == right[::-1]
    assert names_of(paths, [masks / "mug_mask.png", random_picture()])[0] == "mug_mask.png"


def test_an_order_that_no_name_confirms_is_said_once(pipe: Any, tmp_path: Path) -> None:
    masks = made(tmp_path / "masks", "x.png", "y.png")
    for images in (made(tmp_path / "images", "a.png", "b.png"), [random_picture(), random_picture()]):
        config = SupremeInitConfig(max_train_steps=0, validation_samples=0, masked_loss=True)
        message = "masks are taken in the order of their names: .* with x.png"
        with pytest.warns(SupremeInitWarning, match=message) as told:
            SupremeInitTextualInversionTrainer(pipe, concepts=[concept(images, masks)], config=config).train()
        assert len(told) == 1
        pipe.unload_multitoken_inversion()


def test_one_mask_needs_no_name(tmp_path: Path) -> None:
    assert find_masks(concept(random_picture(), Image.new("L", (40, 40), 255)), 1)
    assert find_masks(concept(made(tmp_path / "a", "a.png"), made(tmp_path / "b", "x.png")), 1)


def test_a_mask_of_no_picture_is_named(tmp_path: Path) -> None:
    images = made(tmp_path / "images", "a.png", "b.png")
    masks = made(tmp_path / "masks", "a_mask.png", "c_mask.png")
    with pytest.raises(PictureError, match="mask of <mug>: expected one mask named like 'b.png'"):
        find_masks(concept(images, masks), 2)
