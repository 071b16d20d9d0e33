#!/bin/bash
# One worker a node under Slurm, which uses all GPUs that it has there:
#
#   sbatch recipes/cluster/slurm.sh photos/ --run-dir runs/photos --epochs 10
#
# What follows the script are arguments of `resnet-keras finetune`. Pictures and run folder must be
# on storage that all nodes see under the same path; the worker on the first node alone writes.
# Two minutes before the time is up the workers get SIGTERM, end their step and write a checkpoint;
# the job then queues again and resumes, as it does when a node was lost.
#SBATCH --job-name=resnet-keras
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

MAX_RESTARTS=20
LOST=8 # exit code of a worker that lost another one

# Below the ports that the system hands out, and another one for each job of a node.
port=$((20000 + SLURM_JOB_ID % 10000))
addresses=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/.*/\"&:$port\"/" | paste -sd,)
export WORKERS="{\"worker\": [$addresses]}"

# All may end when they like: the first one still writes report and export when the rest is done.
srun --kill-on-bad-exit=0 --wait=0 bash -c '
  export TF_CONFIG="{\"cluster\": $WORKERS, \"task\": {\"type\": \"worker\", \"index\": $SLURM_NODEID}}"
  exec resnet-keras finetune "$@" --resume --join-seconds 900' worker "$@"
code=$?

# From 128 on it was a signal; other errors would come again.
if ((code == LOST || code > 128)) && ((${SLURM_RESTART_COUNT:-0} < MAX_RESTARTS)); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
