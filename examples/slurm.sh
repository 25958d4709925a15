#!/bin/bash
#SBATCH --job-name=fairtat
#SBATCH --array=0-4
#SBATCH --cpus-per-task=8
#SBATCH --gpus=1
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#
# Five seeds of one method, one a task:  sbatch examples/slurm.sh --config configs/digits.yaml
#
# Submit the same line again after a time limit or a failure: each task resumes bit-for-bit from its last whole epoch, and
# a task whose run is complete ends at once. Slurm sends SIGTERM two minutes before the end of the time.
set -euo pipefail

seed=${SLURM_ARRAY_TASK_ID:-0}
run=${RUNS:-runs}/seed-$seed

if [ -e "$run/checkpoint.pt" ]; then
    exec fairtat train --resume "$run"
fi
exec fairtat train "$@" --seed "$seed" --output "$run"
