"""`supreme-init ui`: open the studio, and serve it until Ctrl-C."""

import ipaddress
from typing import Any

from ..backbones import family_defaults
from ..describers import Describers
from ..errors import ConfigError
from ..evaluation import EDITING_PROMPTS
from ..training.previews import SAMPLE_PROMPTS
from .arguments import DescriberArguments, DrawingArguments, ModelArguments, RefinerArguments, UiArguments
from .describers import check_describers, requested_describers
from .parser import Parsed
from .pipelines import as_typed, check_model, device, load_pipeline, sampling_of
from .toybox import GALLERY_PROMPTS, PROMPTS, TOYBOX_TRAINING, is_toybox, toybox_folder

_EXAMPLES = ("scene_1", "scene_2", "scene_3", "scene_4")


def run(parsed: Parsed) -> None:
    """Load everything, say where the page is, and serve.

    Raises:
        ConfigError: gradio is not installed, the model cannot be trained on, or the port is taken.
        DescriberError: A model that finds words is not there.
    """
    try:
        from ..studio import open_studio
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("gradio"):
            raise
        raise ConfigError("the studio needs gradio; pip install 'diffusers-supreme-init[ui]'") from error
    asked, model = parsed.of(UiArguments), parsed.of(ModelArguments)
    pipeline_class = str(check_model(model)["_class_name"])
    if family_defaults(pipeline_class) is None:
        raise ConfigError(
            f"model: {pipeline_class} cannot be trained on; supreme-init train without --model lists models that can"
        )
    describers = requested_describers(parsed.of(RefinerArguments), parsed.of(DescriberArguments))
    check_describers(describers, ["auto"], clicks=True)
    settings = studio_settings(model, parsed.of(DrawingArguments), describers, server_name=asked.server_name)
    with open_studio(
        settings, server_name=asked.server_name, server_port=asked.server_port, inbrowser=asked.inbrowser
    ) as studio:
        print(f"The studio is open at {studio.url} (Ctrl-C closes it)", flush=True)
        studio.wait()


def studio_settings(
    model: ModelArguments, drawing: DrawingArguments, describers: Describers, *, server_name: str
) -> Any:
    """Return the settings of a studio for a model; the toybox has its own sentences and examples."""
    from ..studio import StudioSettings

    own: dict[str, Any] = {"prompts": EDITING_PROMPTS, "report_prompts": SAMPLE_PROMPTS[1:]}
    if is_toybox(model.pretrained_model_name_or_path):
        scenes = toybox_folder() / "scenes"
        own = {
            "prompts": GALLERY_PROMPTS,
            "report_prompts": PROMPTS[1:],
            "training": TOYBOX_TRAINING,
            "examples": [scenes / f"{name}.png" for name in _EXAMPLES],
        }
    return StudioSettings(
        pipe=load_pipeline(model).to(device()),
        describers=describers,
        model=as_typed(model),
        sampling=sampling_of(drawing, model),
        login="machine" if _is_loopback(server_name) else "token",
        **own,
    )


def _is_loopback(server_name: str) -> bool:
    """Whether only this machine reaches an address, so that the visitor is its user."""
    try:
        return ipaddress.ip_address(server_name).is_loopback
    except ValueError:
        return server_name == "localhost"
