#!/usr/bin/env bash
# Training on several nodes with torchrun: run this on every node, with the node's number.
#
#   NODES=4 NODE=0 MAIN=node0.cluster bash recipes/scale/torchrun.sh --data.slides "[/shared/a.zarr, /shared/b.zarr]"
#   NODES=4 NODE=1 MAIN=node0.cluster bash recipes/scale/torchrun.sh --data.slides "[/shared/a.zarr, /shared/b.zarr]"
#   ...
#
# What follows goes to `lightning` and is the same on all nodes. Killed? Start it again in the same way: it goes on
# from its last checkpoint, in mid-epoch. See docs/cluster.md.
set -euo pipefail
cd "$(dirname "$0")/../.."

NODES="${NODES:-1}"          # how many nodes
NODE="${NODE:-0}"            # the number of this one; 0 is the main node
MAIN="${MAIN:-127.0.0.1}"    # the main node's name, as all nodes can reach it
PORT="${PORT:-29500}"        # a free port of the main node
GPUS="${GPUS:-8}"            # GPUs per node, one process each

# The environment's own commands, without `uv run`: it would look for updates on all nodes at once.
export PATH="$PWD/.venv/bin:$PATH"

# torchrun starts one process a GPU, and again after a failure; --no-python, for `lightning` is a command. Where
# processes meet, NCCL finds the fastest way by itself: none of its variables is set here.
exec torchrun \
  --nnodes "$NODES" --node_rank "$NODE" --nproc_per_node "$GPUS" \
  --master_addr "$MAIN" --master_port "$PORT" --max_restarts "${RESTARTS:-3}" \
  --no-python lightning fit \
  -c recipes/pretrain.yaml -c recipes/scale/paper.yaml \
  --trainer.num_nodes "$NODES" --trainer.devices "$GPUS" \
  --ckpt_path auto \
  "$@"
