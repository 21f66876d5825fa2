"""What `import diffusers_supreme_init` imports, and which pipelines have the loader's methods after it."""

import os
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffusers_supreme_init.loader import MultiTokenInversionLoaderMixin, attach_to_diffusers

METHODS = ("load_multitoken_inversion", "unload_multitoken_inversion")
SETTINGS = "from diffusers_supreme_init import SupremeInitConfig, DescriberConfig, SupremeInitError, fill_template"


def run(code: str, *arguments: object, **environment: str) -> None:
    quick = f"import gc; gc.disable()\n{code}"  # imports a fifth faster
    command = [sys.executable, "-c", quick, *map(str, arguments)]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, **environment})


@pytest.mark.parametrize("line", ["import diffusers_supreme_init", SETTINGS])
def test_the_package_and_its_settings_import_nothing_heavy(line: str) -> None:
    code = """
import sys
before = set(sys.modules)
exec(sys.argv[1])
libraries = {name.partition(".")[0] for name in sys.modules.keys() - before} - sys.stdlib_module_names
assert libraries == {"diffusers_supreme_init", "lazy_loader", "wrapt"}, libraries
"""
    run(code, line)


def test_reading_writing_and_publishing_files_import_no_models() -> None:
    code = """
import sys
from diffusers_supreme_init import check_can_save, convert_embedding, push_to_hub, read_embedding, write_embeddings
heavy = {"accelerate", "diffusers", "peft", "scipy", "transformers"} & sys.modules.keys()
assert not heavy, heavy
"""
    run(code)


@pytest.mark.long
def test_importing_diffusers_later_attaches_the_loader_before_anything_is_loaded(
    pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    pipe.load_multitoken_inversion({"<mug>": torch.ones(2, 32)})
    pipe.save_pretrained(tmp_path / "saved")  # its tokenizer's class is ours
    (tmp_path / "community.py").write_text(
        "from diffusers import StableDiffusionPipeline\nclass Community(StableDiffusionPipeline): pass\n"
    )
    code = f"""
import sys
import diffusers_supreme_init
from diffusers import DiffusionPipeline, ModularPipeline
class Own(DiffusionPipeline): pass
loaded = DiffusionPipeline.from_pretrained(sys.argv[1])
community = DiffusionPipeline.from_pretrained(sys.argv[1], custom_pipeline=sys.argv[2], trust_remote_code=True)
assert type(community).__name__ == "Community"
mixin = diffusers_supreme_init.MultiTokenInversionLoaderMixin
for pipeline_class in (DiffusionPipeline, ModularPipeline, Own, type(loaded), type(community)):
    for name in {METHODS}:
        assert getattr(pipeline_class, name) is getattr(mixin, name)
assert loaded.tokenizer("<mug>").input_ids == {pipe.tokenizer("<mug>").input_ids}
"""
    run(code, tmp_path / "saved", tmp_path / "community.py", HF_MODULES_CACHE=str(tmp_path))


@pytest.mark.long
def test_importing_attaches_the_loader_once_and_never_overrides() -> None:
    code = f"""
import diffusers
own = lambda self: "own"
diffusers.ModularPipeline.load_multitoken_inversion = own
import diffusers_supreme_init as package
assert diffusers.ModularPipeline.load_multitoken_inversion is own
attached = diffusers.DiffusionPipeline.load_multitoken_inversion
import importlib
importlib.reload(package)
assert diffusers.DiffusionPipeline.load_multitoken_inversion is attached
assert diffusers.ModularPipeline.load_multitoken_inversion is own
for name in {METHODS}:
    assert getattr(diffusers.ModularPipeline, name)
    assert getattr(diffusers.StableDiffusionPipeline, name) is getattr(package.MultiTokenInversionLoaderMixin, name)
"""
    run(code)


def test_attaching_waits_for_a_thread_that_is_importing_the_pipelines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_pipelines.py").write_text("begun.set(); may_go_on.wait(60)\nclass DiffusionPipeline: pass\n")
    begun, may_go_on = threading.Event(), threading.Event()
    monkeypatch.syspath_prepend(tmp_path)
    for name, event in (("begun", begun), ("may_go_on", may_go_on)):
        monkeypatch.setattr(f"builtins.{name}", event, raising=False)
    importing = threading.Thread(target=import_module, args=["slow_pipelines"])
    importing.start()
    assert begun.wait(60)
    module = sys.modules["slow_pipelines"]
    attaching = threading.Thread(target=attach_to_diffusers, args=[module])
    attaching.start()
    may_go_on.set()
    importing.join()
    attaching.join()
    monkeypatch.delitem(sys.modules, "slow_pipelines")
    for name in METHODS:
        assert getattr(module.DiffusionPipeline, name) is getattr(MultiTokenInversionLoaderMixin, name)
