"""`train_catalogue`: a list of concepts and a model in, a library out."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import PartialState
from tqdm.auto import tqdm

from ..concepts import Concept
from ..config import DescriberConfig, SupremeInitConfig
from ..describers import Describers
from ..errors import ConfigError, shown
from ..files import check_writable
from ..inputs.paths import local_path
from ..objective.losses import with_launched_precision
from ..sharing.saved_folder import check_can_save, check_kind
from ..text.torch_state import own_torch_state
from ..training.preparation import warn_of_unused_masks
from ..training.previews import check_prompts
from .checking import check_plan, checked_backbone, checked_config
from .chunk import train_chunk
from .dividing import chunks_of
from .facts import digest_of
from .finishing import finish
from .folders import clear_leftovers
from .ledger import Ledger, alone, read_ledgers
from .model_facts import facts_of_run
from .own_process import OwnProcess
from .page import check_page_is_ours
from .plan import Failure, Plan, Task, listed_concepts, make_plan, recovered, untold
from .result import CatalogueResult, begun
from .shards import own_shard
from .work import Workshop


@own_torch_state()
def train_catalogue(
    pipe: Any,
    concepts: str | os.PathLike[str] | Sequence[Concept],
    output_dir: str | os.PathLike[str],
    *,
    initializer: str | None = None,
    initializer_column: str = "initializer",
    config: SupremeInitConfig | None = None,
    describers: Describers | DescriberConfig | None = None,
    num_shards: int = 1,
    shard_index: int = 0,
    concepts_per_batch: int = 1,
    retry_failed: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    sample_prompts: Sequence[str] = (),
) -> CatalogueResult:
    """Train every concept of a list and save each into a library as soon as it is finished.

    ```python
    train_catalogue(pipe, "products/metadata.jsonl", "library")
    pipe.load_multitoken_inversion("library", only=["<sku-17>"])
    ```

    Calling it again goes on where it ended, however it ended: what is there is skipped, what is new or has another
    picture is trained. A concept that fails stops no other. Its rows depend on nothing but its own pictures, words and
    settings, to the bit: neither on its neighbours nor on the number of processes. The pipeline is left as it was.

    Args:
        pipe: A pipeline of a supported family, see `SupremeInitTextualInversionTrainer`.
        concepts: A ``metadata.jsonl``, see `load_concepts`, or concepts.
        output_dir: The library; created if missing.
        initializer: As in `load_concepts`.
        initializer_column: As in `load_concepts`.
        config: Settings; None: the defaults. Without checkpoints, previews and trackers.
        describers: The models that find words and regions; None: the defaults. Each is loaded once.
        num_shards: Train only one of so many parts of the list. Parts are taken by the hash of the concepts' names, so
            that no process has to know of another. `accelerate launch` divides the part among its processes.
        shard_index: Which part, from 0.
        concepts_per_batch: How many concepts go through the model, captioner and classifier together: faster on a GPU
            that one does not fill, but rows, losses and scores then differ by rounding, and so may close words.
        retry_failed: Try again what failed.
        overwrite: Train anew what is there with other settings, or was not trained by this function.
        dry_run: Only say what would be done.
        sample_prompts: Draw these for each concept's card, e.g. ``"a photo of a {}"``.

    Returns:
        What was done in this process.

    Raises:
        ConfigError: A setting makes no sense here, there is no such part, or the list cannot be read.
        OutputError: The folder cannot be written, or holds a single concept, results of other settings or files of
            somebody else. Or the disk is full; what is saved stays.
        SupremeInitError: The pipeline cannot be trained.

    Warns:
        SupremeInitWarning: As `SupremeInitTextualInversionTrainer`.
    """
    accelerator = OwnProcess()
    config = with_launched_precision(checked_config(config), accelerator)
    if type(concepts_per_batch) is not int or concepts_per_batch < 1:
        raise ConfigError(f"concepts_per_batch: expected a number from 1, got {shown(concepts_per_batch)}")
    state = accelerator.state
    shard = own_shard(num_shards, shard_index, num_processes=state.num_processes, process_index=state.process_index)
    listed = listed_concepts(concepts, initializer=initializer, initializer_column=initializer_column)
    tokens = [one.placeholder_token for one in listed if one.placeholder_token is not None]
    prompts = check_prompts("sample_prompts", sample_prompts, ["{}"] if not tokens else tokens[:1])
    describers = Describers(describers) if isinstance(describers, DescriberConfig) else describers
    describers = describers or Describers(device=accelerator.device)
    backbone = checked_backbone(pipe, config, tokens)
    folder = local_path(output_dir)
    check_can_save(folder)
    check_page_is_ours(folder)
    check_kind(folder, ["", *tokens])
    facts = facts_of_run(backbone, config)
    run = digest_of(facts)

    def plan_with(ledger: Sequence[Mapping[str, Any]]) -> Plan:
        how = {"retry_failed": retry_failed, "overwrite": overwrite}
        plan = make_plan(listed, folder, shard, describers, run=run, ledger=ledger, **how)
        return check_plan(plan, backbone, config, facts)

    if dry_run:
        lines = read_ledgers(folder)
        plan = plan_with(lines)
        result = begun(plan, lines, run)
        result.planned = [task.token for task in plan.tasks]
        return result
    with alone(check_writable(folder), shard):
        lines = read_ledgers(folder)
        plan = plan_with(lines)
        result = begun(plan, lines, run)
        clear_leftovers(folder, plan.folders)
        ledger = Ledger(folder, shard)
        for one in untold(plan.failures, lines):
            ledger.append("failed", one.token or one.place, one.key, place=one.place, why=one.why)
        for line in recovered(plan.done, lines):
            ledger.append(**line)
        shop = Workshop(
            backbone=backbone,
            config=config,
            describers=describers,
            accelerator=accelerator,
            ledger=ledger,
            known_words=_known_words(lines),
            concepts_per_batch=concepts_per_batch,
            sample_prompts=prompts,
        )
        warn_of_unused_masks([task.concept for task in plan.tasks], describers, config)
        try:
            _train_all(shop, plan.tasks, result)
        finally:
            describers.release()
            finish(folder)
    return result


def _train_all(shop: Workshop, tasks: Sequence[Task], result: CatalogueResult) -> None:
    """Train all tasks, chunk by chunk, under one progress bar."""
    with tqdm(
        total=len(tasks), desc="concepts", unit="concept", disable=not (tasks and PartialState().is_local_main_process)
    ) as bar:

        def count(task: Task, why: str | None) -> None:
            if why is None:
                result.trained.append(task.token)
            else:
                result.failed.append(Failure(task.place, task.token, task.key, why))
            bar.set_postfix(failed=len(result.failed), refresh=False)
            bar.update()

        shop.after_concept = count
        for chunk in chunks_of(tasks, shop.backbone):
            train_chunk(shop, chunk)


def _known_words(lines: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, dict[str, Any]]]:
    return {line["key"]: (line["words"], line["record"]) for line in lines if line["state"] == "words"}
