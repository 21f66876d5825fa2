"""Textual inversion for diffusers that starts from what a picture says for itself.

Importing the package gives every diffusers pipeline `load_multitoken_inversion` and `unload_multitoken_inversion`.
"""

import lazy_loader
from wrapt import register_post_import_hook

# Importing the package imports neither diffusers nor torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

for _module in ("diffusers.pipelines.pipeline_utils", "diffusers.modular_pipelines.modular_pipeline"):
    register_post_import_hook(f"{__name__}.loader:attach_to_diffusers", _module)
