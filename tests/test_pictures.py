"""Pictures of every kind become the same pixels; unusable ones are refused before anything happens."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_picture
from PIL import Image, PngImagePlugin

from diffusers_supreme_init import PictureError, SupremeInitConfig, SupremeInitTextualInversionTrainer, pictures
from diffusers_supreme_init.inputs.picture_numbers import mask_from_array
from diffusers_supreme_init.pictures import find_pictures, fit_to_square, load_picture, to_mask_values, to_pixel_values


def test_pixels_are_in_minus_one_to_one_and_channels_first() -> None:
    picture = Image.new("RGB", (4, 2), (255, 0, 0))
    pixels = to_pixel_values(picture)
    assert pixels.shape == (3, 2, 4)
    assert pixels.dtype == torch.float32
    assert pixels[0].unique().tolist() == [1.0]
    assert pixels[1:].unique().tolist() == [-1.0]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    picture = Image.new("RGB", (20, 10), "blue")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by a quarter
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert load_picture(tmp_path / "turned.jpg").image.size == (10, 20)


def test_transparency_is_composited_on_white() -> None:
    picture = Image.new("RGBA", (10, 10), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (0, 0, 5, 10))
    loaded = load_picture(picture)
    assert loaded.image.getpixel((2, 2)) == (0, 0, 255)
    assert loaded.image.getpixel((7, 2)) == (255, 255, 255)
    assert loaded.alpha is not None
    assert loaded.alpha.getpixel((7, 2)) == 0


def test_palettes_keep_their_colours_and_transparency(tmp_path: Path) -> None:
    picture = Image.new("P", (10, 10), 0)
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.paste(1, (0, 0, 5, 10))
    picture.save(tmp_path / "plain.png")
    picture.save(tmp_path / "clear.png", transparency=1)
    assert load_picture(tmp_path / "plain.png").alpha is None
    assert load_picture(tmp_path / "plain.png").image.getpixel((2, 2)) == (0, 255, 0)
    clear = load_picture(tmp_path / "clear.png")
    assert clear.image.getpixel((2, 2)) == (255, 255, 255)
    assert clear.image.getpixel((7, 2)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "CMYK", "HSV", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert (
        load_picture(random_picture().convert("L" if mode in ("1", "LA") else "RGB").convert(mode)).image.mode == "RGB"
    )


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = Image.fromarray(np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16))
    values = np.asarray(load_picture(ramp).image)[..., 0].flatten()
    assert values[0] == 0
    assert values[-1] == 255
    assert len(np.unique(values)) > 200


def test_the_callers_image_is_not_changed() -> None:
    picture = random_picture(mode="RGBA")
    before = picture.tobytes()
    load_picture(picture)
    assert picture.mode == "RGBA"
    assert picture.tobytes() == before


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (10, 10), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    assert load_picture(tmp_path / "two.gif").image.getpixel((5, 5))[0] > 200


def test_center_crop_keeps_proportions_and_squash_keeps_everything() -> None:
    picture = Image.new("RGB", (30, 10), "white")
    picture.paste("black", (0, 0, 10, 10))
    assert np.asarray(fit_to_square(picture, 10, center_crop=True)).min() == 255
    squashed = np.asarray(fit_to_square(picture, 12, center_crop=False))
    assert squashed[:, 0].max() == 0
    assert squashed[:, -1].min() == 255


def test_masks_are_in_zero_to_one() -> None:
    mask = Image.new("L", (8, 8), 0)
    mask.paste(255, (0, 0, 4, 8))
    assert to_mask_values(mask).unique().tolist() == [0.0, 1.0]


def test_folders_are_sorted_and_filtered(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", ".hidden.png"):
        random_picture().save(tmp_path / name, format="PNG")
    (tmp_path / "notes.txt").write_text("not a picture")
    found = find_pictures([tmp_path, random_picture()])
    assert [getattr(source, "name", "image") for source in found] == ["a.jpg", "b.PNG", "image"]


def png_bomb() -> bytes:
    """A PNG whose header claims 60000 x 60000 pixels."""
    data = io.BytesIO()
    Image.new("L", (8, 8)).save(data, "PNG")
    raw = bytearray(data.getvalue())
    raw[16:24] = (60000).to_bytes(4, "big") * 2
    raw[29:33] = PngImagePlugin._crc32(bytes(raw[12:29])).to_bytes(4, "big")
    return bytes(raw)


def damaged(kind: str, folder: Path) -> Any:
    path = folder / "picture.png"
    random_picture().save(path)
    whole = path.read_bytes()
    contents = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "unreadable": b"this is no picture",
        "bomb": png_bomb(),
    }
    if kind in contents:
        path.write_bytes(contents[kind])
        return path
    return {
        "missing file": folder / "nowhere.png",
        "missing folder": str(folder / "nowhere") + "/",
        "no pictures": folder / "nothing",
        "empty list": [],
        "tiny": Image.new("RGB", (1, 1)),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "expected a whole picture, got a damaged or empty file"),
        ("empty", "expected a picture file, got something pillow cannot identify"),
        ("unreadable", "expected a picture file, got something pillow cannot identify"),
        ("bomb", "expected at most 178956970 pixels"),
        ("missing file", "nowhere.png', which does not exist"),
        ("missing folder", "nowhere', which does not exist"),
        ("no pictures", r"expected pictures \(.*\) in .*nothing', got none"),
        ("empty list", "expected at least one picture, got an empty sequence"),
        ("tiny", "expected at least 8 pixels a side, got 1 x 1"),
    ],
)
def test_unusable_pictures_are_refused_and_nothing_changes(
    kind: str, message: str, tmp_path: Path, pipe: Any, unchanged: Callable[[Any], None]
) -> None:
    (tmp_path / "nothing").mkdir()
    unchanged(pipe)
    with pytest.raises(PictureError, match=message):
        SupremeInitTextualInversionTrainer(
            pipe,
            images=damaged(kind, tmp_path),
            placeholder_token="<mug>",
            initializer="a mug",
            config=SupremeInitConfig(max_train_steps=1, output_dir=str(tmp_path / "out")),
        ).train()
    assert not (tmp_path / "out" / "checkpoint.safetensors").exists()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "expected a mask or transparency, got none for picture 0"),
        (Image.new("L", (40, 40), 0), "got a black one for picture 0"),
        (Image.new("L", (41, 40), 255), "expected the size of its picture, 40 x 40, got 41 x 40"),
        ([Image.new("L", (40, 40), 255)] * 2, "expected one mask for each of 1 pictures, got 2"),
    ],
)
def test_unusable_masks_are_refused_and_nothing_changes(
    mask: Any, message: str, pipe: Any, unchanged: Callable[[Any], None]
) -> None:
    unchanged(pipe)
    with pytest.raises(PictureError, match=message):
        SupremeInitTextualInversionTrainer(
            pipe,
            images=random_picture(),
            placeholder_token="<mug>",
            initializer="a mug",
            mask=mask,
            config=SupremeInitConfig(max_train_steps=1, masked_loss=True),
        ).train()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"png", "got bytes; open it with Image.open"),
        (io.BytesIO(b"png"), "got BytesIO; open it with Image.open"),
        ([io.BytesIO(b"png")], "got BytesIO; open it with Image.open"),
        (np.zeros((8, 8, 3)), "got ndarray; convert it with Image.fromarray"),
        ({"a.png"}, r"got set\Z"),
    ],
)
def test_what_is_no_picture_yet_says_how_it_becomes_one(source: Any, message: str) -> None:
    with pytest.raises(PictureError, match=message):
        find_pictures(source)


def test_whole_pictures_are_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_picture().save(tmp_path / "a.png")
    closed = Image.open(tmp_path / "a.png")
    closed.close()
    with pytest.raises(PictureError, match="expected an open picture, got one that is closed"):
        load_picture(closed)

    def forbidden(_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pictures, "open_picture", forbidden)
    with pytest.raises(PictureError, match="a.png': expected a picture file, got one that may not be read"):
        load_picture(tmp_path / "a.png")


@pytest.mark.parametrize("shape", [(0, 0), (0, 8)])
def test_an_empty_mask_has_no_numbers(shape: tuple[int, int]) -> None:
    with pytest.raises(PictureError, match=r"mask: expected numbers, got an array of shape \(0, "):
        mask_from_array(np.zeros(shape))
