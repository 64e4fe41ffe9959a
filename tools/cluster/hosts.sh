#!/usr/bin/env bash
# Starts a run on all hosts of a hostfile through pdsh and ssh, with engine.train's own arguments:
#
#   HOSTFILE=hostfile tools/cluster/hosts.sh --config configs/NAME.yaml --out /shared/runs/NAME
#
# It is `deepspeed --hostfile`, and one thing more: should the launcher be killed, the connections to the hosts end with it,
# and so do the ranks there. By itself pdsh would go on, and the run with it.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${HOSTFILE:?the file that lists the hosts, such as tools/cluster/hostfile.example}"
export PATH="$PWD/tools/cluster/bound:$PWD/.venv/bin:$PATH"
exec deepspeed --quiet --no_local_rank --hostfile "$HOSTFILE" --master_port "${MASTER_PORT:-29500}" \
    --module engine.train "$@"
