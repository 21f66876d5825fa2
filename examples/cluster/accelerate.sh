#!/bin/bash
# One machine with several GPUs, one process for each. On several machines, start it on each with
# --num_machines, --machine_rank and --main_process_ip, and a folder that all of them see.
#
#   ./accelerate.sh 8 products/metadata.jsonl library stable-diffusion-v1-5/stable-diffusion-v1-5
# A concept that fails stops nothing and does not change the exit status: library/index.html shows it.
set -euo pipefail
exec accelerate launch --multi_gpu --num_machines 1 --num_processes "$1" --mixed_precision no --dynamo_backend no \
    -m diffusers_supreme_init train --concepts "$2" --output_dir "$3" --model "$4" "${@:5}"
