#!/bin/bash
# One machine with several GPUs, one process for each.
#
#   ./accelerate.sh 8 products/metadata.jsonl library stable-diffusion-v1-5/stable-diffusion-v1-5
#
# Several machines of 8 GPUs that see the same folder: on each, with its own MACHINE_RANK from 0, and the number of all GPUs,
#
#   NUM_MACHINES=2 MACHINE_RANK=0 MAIN_PROCESS_IP=10.0.0.1 ./accelerate.sh 16 products/metadata.jsonl library ...
#
# Further options are those of `supreme-init train`. A concept that fails stops nothing and does not change the exit status:
# library/index.html shows it.
set -euo pipefail
machines=(--num_machines "${NUM_MACHINES:-1}" --machine_rank "${MACHINE_RANK:-0}")
if [ "${NUM_MACHINES:-1}" -gt 1 ]; then
    machines+=(--main_process_ip "$MAIN_PROCESS_IP" --main_process_port "${MAIN_PROCESS_PORT:-29500}")
fi
exec accelerate launch --multi_gpu "${machines[@]}" --num_processes "$1" --mixed_precision no --dynamo_backend no \
    -m diffusers_supreme_init train --concepts "$2" --output_dir "$3" --model "$4" "${@:5}"
