#!/bin/bash
# A Slurm array trains a list: each task takes the part of its own number. Submitted again, it goes on where it ended.
#
#   sbatch --array=0-15 --gpus=1 slurm.sh products/metadata.jsonl /shared/library stable-diffusion-v1-5/stable-diffusion-v1-5
#
# Further options are those of `supreme-init train`. Keep the number of tasks when you submit again.
#SBATCH --job-name=catalogue
#SBATCH --output=catalogue-%A_%a.log
#SBATCH --requeue
set -euo pipefail
exec supreme-init train --concepts "$1" --output_dir "$2" --model "$3" \
    --num_shards "$SLURM_ARRAY_TASK_COUNT" --shard_index "$SLURM_ARRAY_TASK_ID" "${@:4}"
