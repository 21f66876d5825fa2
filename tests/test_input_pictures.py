"""Pictures as phones, cameras, scanners and broken downloads give them: found, scaled, turned, or refused by name."""

import io
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_picture
from PIL import Image, ImageSequence

from diffusers_supreme_init import PictureError, Region, RegionError, SupremeInitConfig, SupremeInitWarning
from diffusers_supreme_init.inputs.exif import without_exif
from diffusers_supreme_init.inputs.picture_numbers import mask_from_array
from diffusers_supreme_init.objective.latents import encode_concept
from diffusers_supreme_init.pictures import TrainingPictures, find_pictures, load_picture, load_subject

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
HTML = b"\n<!DOCTYPE html><html><head><title>404</title></head></html>"
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


def names(found: Any) -> list[str]:
    return [path.name for path in found]


def test_everything_that_pillow_opens_is_found(tmp_path: Path) -> None:
    picture = random_picture()
    for name in ("a.png", "b.avif", "c.jp2", "d.jfif", "e.PNM", "f.tga", "g.qoi", "h.jpe", "i.dib", "j.pcx", "k.ico"):
        kind = {".jfif": "JPEG", ".ico": "ICO", ".pnm": "PPM"}.get(Path(name).suffix.lower())
        picture.save(tmp_path / name, format=kind)
    picture.save(tmp_path / "IMG_0001", format="JPEG")  # without a suffix, as in the Hub's cache
    picture.save(tmp_path / "photo.jpg_large", format="PNG")
    for name in ("a.txt", "a.json", "notes.md", "labels.csv", "data.zip", "film.mp4", "Makefile"):
        (tmp_path / name).write_text("a red mug")
    (tmp_path / "album.png").mkdir()
    (tmp_path / ".hidden.png").write_bytes(HTML)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = find_pictures(tmp_path)
    assert len(found) == 13
    assert not {"album.png", "gone.png", "film.mp4"} & set(names(found))
    assert {load_picture(path).image.size for path in found} <= {(40, 40), (32, 32)}


def test_pictures_that_cannot_be_read_are_counted_and_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    random_picture().save(tmp_path / "a.png")
    contents = {"b.jpg": HTML, "c.png": LFS, "d.webp": b"", "e.heic": HEIC, "f.jxl": b"\xff\x0a" + bytes(9)}
    for name, content in {**contents, "g.svg": b"<svg xmlns=''/>", "h.jpg": HEIC}.items():
        (tmp_path / name).write_bytes(content)
    with pytest.warns(SupremeInitWarning) as told:
        assert names(find_pictures(tmp_path)) == ["a.png"]
    (one,) = told
    message = str(one.message)
    assert "7 of 8 pictures cannot be read and are left out" in message
    for word in (
        "b.jpg (an HTML page)",
        "c.png (a git-LFS pointer",
        "d.webp (an empty file)",
        "f.jxl (",
        "g.svg (an SVG",
    ):
        assert word in message
    assert message.count("pillow-heif") == 4  # twice for each of the two
    assert names(find_pictures(tmp_path, quietly=True)) == ["a.png"]
    (tmp_path / "a.png").unlink()
    with pytest.raises(PictureError, match=r"got only what cannot be read: b.jpg \(an HTML page\), c.png \(a git-LFS"):
        find_pictures(tmp_path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (HTML, "an HTML page"),
        (LFS, r"a git-LFS pointer, not the file itself \(run git lfs pull\)"),
        (b"\x80\x02}q\x00.", "a pickle"),
        (b"PK\x03\x04" + bytes(40), "a zip archive"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b'{"error": "not found"}', "a JSON file"),
        (b"Access denied\n", "a text file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"\0\0\0\x20ftypisom" + bytes(40), "a video"),
        (b"", "an empty file"),
        (bytes(600), "a file of zeros"),
    ],
)
def test_what_is_no_picture_is_called_what_it_is(tmp_path: Path, content: bytes, kind: str) -> None:
    path = tmp_path / "mug.png"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=f"mug.png': expected a picture file, got .*{kind}"):
        load_picture(path)


def test_heic_asks_for_its_package_and_works_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mug.heic"
    path.write_bytes(HEIC)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pillow_heif", None)
        with pytest.raises(PictureError, match="mug.heic' is a HEIC picture, .* pip install pillow-heif"):
            load_picture(path)
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(random_picture()).save(path)
    monkeypatch.setattr(Image, "OPEN", {key: one for key, one in Image.OPEN.items() if key != "HEIF"})
    assert load_picture(path).image.size == (40, 40)
    assert names(find_pictures(tmp_path)) == ["mug.heic"]


@pytest.mark.parametrize(
    "source", ["", " ", 5, b"mug.png", None, {"a.png": 1}, {"a.png"}, [["a.png"]], np.ones((8, 8))]
)
def test_sources_of_another_kind(source: Any) -> None:
    with pytest.raises(PictureError, match="images: expected .* got "):
        find_pictures(source)
    with pytest.raises(PictureError, match="images: expected .* got "):
        load_picture(source)


@pytest.mark.parametrize(
    "address",
    ["https://example.org/mug.png", "file:///tmp/mug.png", "s3://bucket/mug.png", "data:image/png;base64,iVB"],
)
def test_addresses(address: str) -> None:
    with pytest.raises(PictureError, match=r"images: expected a path, got the address .*diffusers.utils.load_image"):
        find_pictures(address)


def test_paths_in_the_home_folder_and_strange_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    random_picture().save(tmp_path / "mug.png")
    assert find_pictures("~/mug.png") == [tmp_path / "mug.png"]
    assert load_picture("~/mug.png").image.size == (40, 40)
    for path in ("x" * 5000, "a\0b", "C:/mug.png", "~nobody/mug.png"):
        with pytest.raises(PictureError, match="which does not exist"):
            find_pictures(path)


# -- numbers


def saved(values: np.ndarray, folder: Path) -> Path:
    path = folder / "picture.tif"
    Image.fromarray(values).save(path)
    return path


RAMP = np.linspace(0, 1, 1024).reshape(32, 32)


@pytest.mark.parametrize(
    "values",
    [
        (RAMP * 4095).astype(np.uint16),
        (RAMP * 1023).astype(np.uint16),
        (RAMP * 16383).astype(np.uint16),
        (RAMP * 65535).astype(np.uint16),
        (RAMP * 65535).astype(np.int32),
        (RAMP * (2**31 - 2)).astype(np.int32),
        (RAMP * (2**20 - 1)).astype(np.int32),
        RAMP.astype(np.float32),
        (RAMP * 255).astype(np.float32),
        np.round(RAMP * 255).astype(np.float32),
        np.round(RAMP * 65535).astype(np.float32),
        (RAMP * 7.3).astype(np.float32),
        (RAMP * 1e30).astype(np.float32),
    ],
    ids=lambda values: f"{values.dtype}-{values.max():.3g}",
)
@pytest.mark.parametrize("in_memory", [True, False])
def test_deep_numbers_fill_the_range(values: np.ndarray, in_memory: bool, tmp_path: Path) -> None:
    loaded = load_picture(Image.fromarray(values) if in_memory else saved(values, tmp_path))
    assert np.abs(np.asarray(loaded.image)[..., 0].astype(float) - RAMP * 255).max() <= 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32), "expected finite numbers, got NaN or infinity"),
        (np.where(RAMP > 0.5, np.inf, RAMP).astype(np.float32), "expected finite numbers, got NaN or infinity"),
        ((RAMP * 2 - 1).astype(np.float32), "expected numbers from 0 up, got -1 to 1; shift and scale"),
        ((RAMP * 200 - 100).astype(np.int32), "expected numbers from 0 up, got -100 to 100"),
    ],
)
def test_numbers_without_a_usual_range(values: np.ndarray, message: str, tmp_path: Path) -> None:
    for source in (Image.fromarray(values), saved(values, tmp_path)):
        with pytest.raises(PictureError, match=message):
            load_picture(source)


def test_a_transparent_value_of_a_deep_picture_stays_transparent(tmp_path: Path) -> None:
    values = (RAMP * 65535).astype(np.uint16)
    values[:16] = 7
    Image.fromarray(values).save(tmp_path / "grey.png", transparency=7)
    loaded = load_picture(tmp_path / "grey.png")
    assert loaded.alpha is not None
    assert np.asarray(loaded.alpha)[:16].max() == 0
    assert np.asarray(loaded.alpha)[16:].min() == 255


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Image.new("RGB", (32, 32), "red"), "got one of a single colour"),
        (Image.new("L", (32, 32)), "got one of a single colour"),
        (Image.new("RGBA", (32, 32), (255, 0, 0, 0)), "got one that is transparent everywhere"),
        (Image.new("LA", (32, 32), (90, 0)), "got one that is transparent everywhere"),
        (Image.fromarray(np.zeros((32, 32), np.uint16)), "got one of a single colour"),
        (Image.fromarray(np.full((32, 32), 0.5, np.float32)), "got one of a single colour"),
    ],
)
def test_pictures_that_show_nothing_are_refused(picture: Image.Image, message: str, pipe: Any) -> None:
    from diffusers_supreme_init.backbones import backbone_for

    with pytest.raises(PictureError, match=message):
        load_subject(picture)
    with pytest.raises(PictureError, match=message):
        encode_concept(backbone_for(pipe), TrainingPictures([picture], None, False), SupremeInitConfig())


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_whose_first_frame_is_empty_is_refused(kind: str, tmp_path: Path) -> None:
    empty, whole = Image.new("RGBA", (32, 32), (0, 0, 0, 0)), random_picture((32, 32)).convert("RGBA")
    path = tmp_path / f"film.{kind.lower()}"
    empty.save(path, kind, save_all=True, append_images=[whole, whole], disposal=2)
    assert sum(1 for _ in ImageSequence.Iterator(Image.open(path))) > 1
    with pytest.raises(PictureError, match=r"film.* expected a picture that shows something"):
        load_subject(path)


def test_white_on_transparent_shows_nothing() -> None:
    picture = Image.new("RGBA", (32, 32), (255, 255, 255, 0))
    picture.paste((255, 255, 255, 255), (8, 8, 24, 24))
    with pytest.raises(PictureError, match=r"a single colour \(transparent parts are white"):
        load_subject(picture)


# -- EXIF


def with_exif(kind: str) -> tuple[bytes, bytes]:
    """Return a whole picture that is turned by its EXIF data, and that data."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "Maker", 72.0
    exif.get_ifd(0x8769).update({0x829A: 0.01, 0x9003: "2024:01:01 00:00:00"})
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0)})
    data = io.BytesIO()
    random_picture((24, 16)).save(data, kind, exif=exif)
    return data.getvalue(), exif.tobytes()[6:]


def test_orientations_without_any_damage(tmp_path: Path) -> None:
    picture = random_picture((24, 16))
    for orientation in range(9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture.save(tmp_path / "turned.png", exif=exif)
        turned = load_picture(tmp_path / "turned.png").image
        assert turned.size == ((16, 24) if orientation > 4 else (24, 16))
        assert load_picture(turned).image.tobytes() == turned.tobytes()  # it is upright already
        assert (turned.tobytes() == picture.tobytes()) == (orientation < 2)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_damaged_exif_means_no_rotation_and_the_pixels_are_trained(kind: str, tmp_path: Path) -> None:
    whole, exif = with_exif(kind)
    at = whole.index(exif[:10])
    chance = random.Random(0)
    path = tmp_path / "picture"
    path.write_bytes(whole)
    upright = load_picture(path).image
    assert upright.size == (16, 24)
    plain = upright.transpose(Image.Transpose.ROTATE_90)
    num_told = 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            data[at + chance.randrange(len(exif))] = chance.randrange(256)
        path.write_bytes(data)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            loaded = load_picture(path).image
        assert {one.category for one in told} <= {SupremeInitWarning}
        if told:
            num_told += 1
            (one,) = told
            assert "its EXIF data cannot be read (" in str(one.message)
            # AVIF notes the orientation a second time, outside of its EXIF data.
            assert loaded.tobytes() == (upright if kind == "AVIF" else plain).tobytes()
        assert loaded.size in ((16, 24), (24, 16))
    assert num_told >= 1


def test_pictures_without_exif_have_none_to_leave_out(tmp_path: Path) -> None:
    random_picture().save(tmp_path / "plain.png")
    assert without_exif(tmp_path / "plain.png") is None


# -- masks and regions as arrays


@pytest.mark.parametrize(
    "make",
    [
        lambda mask: mask,
        lambda mask: mask.astype(np.uint8),
        lambda mask: mask.astype(np.uint8) * 255,
        lambda mask: mask.astype(np.float32),
        lambda mask: mask[None],
        lambda mask: mask[..., None],
        lambda mask: torch.tensor(mask),
        lambda mask: torch.tensor(mask, dtype=torch.float16)[None],
    ],
)
def test_masks_may_be_arrays(make: Any) -> None:
    mask = np.zeros((48, 64), bool)
    mask[10:30, 20:50] = True
    region = Region(mask=make(mask))
    assert isinstance(region.mask, Image.Image)
    assert np.array_equal(np.asarray(region.mask) >= 128, mask)


@pytest.mark.parametrize("mask", [5, object(), np.ones(3), np.ones((4, 4, 3)), np.array("x"), [1, 2], {}, b"x"])
def test_masks_of_another_kind(mask: Any) -> None:
    with pytest.raises(RegionError, match=r"region: mask: expected a path, a PIL image or an array \(height, width\)"):
        Region(mask=mask)
    with pytest.raises(PictureError, match="mask: expected a path"):
        mask_from_array(mask)


@pytest.mark.parametrize(
    ("options", "points"),
    [
        ({"points": ("40", "22")}, ((40.0, 22.0),)),
        ({"points": [("40", "22"), (1, 2)]}, ((40.0, 22.0), (1.0, 2.0))),
        ({"points": np.array([[40, 22]])}, ((40.0, 22.0),)),
        ({"points": torch.tensor([40, 22])[None]}, ((40.0, 22.0),)),
    ],
)
def test_points_whose_meaning_is_plain(options: dict[str, Any], points: Any) -> None:
    assert Region(**options).points == points


@pytest.mark.parametrize(
    "options",
    [
        {"points": "40,22"},
        {"points": ["40,22"]},
        {"points": {40, 22}},
        {"points": {"x": 40, "y": 22}},
        {"points": ["ab", "cd"]},
        {"points": (10**400, 1)},
        {"points": torch.nn.Linear(2, 2)},
        {"box": "0,0,10,10"},
        {"box": {0, 1, 2, 3}},
        {"box": (0, 0, 10**400, 10)},
        {"box": 5},
    ],
)
def test_points_and_boxes_of_another_kind(options: dict[str, Any]) -> None:
    with pytest.raises(RegionError, match=r"\A(points|box): expected \([^\n]*got [^\n]*\Z"):
        Region(**options)
