"""`supreme-init describe`: the words that a picture would start from, without training."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from ..config import SupremeInitConfig
from ..describers import Mask, Region
from ..describers.proposal import InitializerProposal
from ..errors import ConfigError
from ..files import check_writable
from ..pictures import faded, find_pictures, load_subject
from ..sharing.sheet import SheetRow, draw_sheet, size_that_fits
from ..training.proposals import propose_initializer
from .arguments import DescribeArguments, DescriberArguments, ModelArguments, RegionArguments
from .describers import check_describers, requested_describers, requested_region
from .parser import Parsed
from .pipelines import check_model, device, load_pipeline
from .toybox import TOYBOX_TRAINING, is_toybox


def run(parsed: Parsed) -> None:
    """Describe and report.

    Raises:
        SupremeInitError: A picture, a region or a model cannot be used.
    """
    asked, model = parsed.of(DescribeArguments), parsed.of(ModelArguments)
    region_arguments = parsed.of(RegionArguments)
    if not asked.images:
        raise ConfigError(
            "expected a picture, got none; pictures come before the options: supreme-init describe mug.jpg"
        )
    describers = requested_describers(region_arguments, parsed.of(DescriberArguments))
    for picture in find_pictures(asked.images):
        load_subject(picture)
    region = requested_region(region_arguments)
    if asked.output_dir is not None:
        check_writable(asked.output_dir)
    check_describers(
        describers,
        [asked.initializer],
        clicks=region is not None and region.has_clicks,
        words=region is not None and region.words is not None,
    )
    pipe = None
    if model.pretrained_model_name_or_path is not None:
        check_model(model)
        pipe = load_pipeline(model).to(device())
    proposal = propose_initializer(
        asked.images,
        asked.initializer,
        pipe=pipe,
        region=region,
        candidates=region_arguments.candidates,
        describers=describers,
        config=SupremeInitConfig(
            seed=asked.seed, **(TOYBOX_TRAINING if is_toybox(model.pretrained_model_name_or_path) else {})
        ),
    )
    print(report(proposal))
    if asked.output_dir is not None:
        written = write_pictures(proposal, region, Path(asked.output_dir))
        print(f"Look at {', '.join(map(str, written))}.")


def report(proposal: InitializerProposal) -> str:
    """Return what a proposal says, for reading."""
    lines = [f"words:   {proposal.text} ({proposal.candidates[0].source})"]
    if proposal.raw != proposal.text:
        lines.append(f"said:    {proposal.raw!r}")
    if proposal.removed:
        lines.append(f"removed: {', '.join(map(repr, proposal.removed))}")
    if proposal.num_cut:
        lines.append(f"cut:     {proposal.num_cut} tokens")
    if proposal.tokens:
        rows = " ".join(f"{token}({i})" for token, i in zip(proposal.tokens, proposal.token_ids, strict=True))
        lines.append(f"rows:    {len(proposal.tokens)}: {rows}")
    for picture in proposal.pictures:
        if picture.mask is not None:
            size, corners = int(picture.mask.sum()), "left, top, right, bottom"
            several = f", the likeliest of {picture.num_found} found" if picture.num_found > 1 else ""
            lines.append(f"region:  {size} pixels, ({corners}) = {picture.box}, score {picture.score:.2f}{several}")
    lines += [f"note:    {note}" for note in proposal.notes]
    if len(proposal.candidates) > 1:
        lines += ["", proposal.table()]
    return "\n".join(lines)


def draw_region(proposal: InitializerProposal, mask: Mask, region: Region) -> Image.Image:
    """Return a sheet of what was clicked, what was found and what is described, at most `WIDEST` pixels wide."""
    image = proposal.pictures[0].image
    clicked = image.copy()
    pen, radius = ImageDraw.Draw(clicked), max(image.size) / 50
    for points, color in ((region.points, "#009e73"), (region.negative_points, "#d55e00")):
        for x, y in points:  # type: ignore[misc]  # a region holds pairs
            circle = (x - radius, y - radius, x + radius, y + radius)
            pen.ellipse(circle, fill=color, outline="white", width=max(1, round(radius / 3)))
    if region.box is not None:
        pen.rectangle(region.box, outline="#009e73", width=max(1, round(radius / 3)))
    found = faded(image, Image.fromarray(mask).convert("L"))
    side = size_that_fits(max(256, *image.size), 3)
    panels = [ImageOps.pad(panel, (side, side), color="white") for panel in (clicked, found, proposal.crop)]
    looked = "where you pointed" if region.words is None else "where it was looked for"
    titles = (looked, "what was found there", "what is described")
    note = f"from the {proposal.candidates[0].source}" + (f"; looked for {region.words}" if region.words else "")
    row = SheetRow(title=proposal.text, note=note, pictures=panels)
    return draw_sheet([row], columns=titles, picture_size=side)


def write_pictures(proposal: InitializerProposal, region: Region | None, folder: Path) -> list[Path]:
    """Write what was described, and of a region what was found; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {"crop.png": proposal.crop}
    if proposal.mask is not None and region is not None:
        pictures["mask.png"] = Image.fromarray(proposal.mask)
        pictures["region.png"] = draw_region(proposal, proposal.mask, region)
    for name, picture in pictures.items():
        picture.save(folder / name)
    return [folder / name for name in pictures]
