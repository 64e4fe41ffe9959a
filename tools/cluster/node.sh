#!/usr/bin/env bash
# Starts this host's ranks of a run with DeepSpeed's launcher, without ssh, and waits for them. Run it once on every host,
# from anywhere, with engine.train's own arguments:
#
#   NUM_NODES=2 NODE_RANK=0 RANKS_PER_NODE=8 MASTER_ADDR=host-a tools/cluster/node.sh --config configs/NAME.yaml
#
# NUM_NODES hosts take part, this one is number NODE_RANK of them, counted from 0, and number 0 is reached by the others
# at MASTER_ADDR:MASTER_PORT (default 29500). The exit code is the run's.
#
# SIGTERM and SIGUSR1 to this script reach the ranks as SIGUSR1. The launcher itself must not see them: it ends its ranks
# on SIGTERM and dies of SIGUSR1. One rank with the signal is enough for all ranks of all hosts to stop together.
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH="$PWD/.venv/bin:$PATH"
: "${NUM_NODES:?how many hosts take part}" "${NODE_RANK:?which of them this is, from 0}"
: "${RANKS_PER_NODE:?how many ranks a host has}" "${MASTER_ADDR:?name or address of host number 0}"

# Without ssh the launcher wants to know how many hosts and ranks there are, and their names do not matter.
hostfile="$(mktemp)"
trap 'rm -f "$hostfile"' EXIT
for ((node = 0; node < NUM_NODES; node++)); do
    echo "node-$node slots=$RANKS_PER_NODE"
done >"$hostfile"

(
    trap '' USR1
    exec deepspeed --quiet --no_local_rank --hostfile "$hostfile" --no_ssh --node_rank "$NODE_RANK" \
        --master_addr "$MASTER_ADDR" --master_port "${MASTER_PORT:-29500}" --module engine.train "$@"
) &
runner=$!

# shellcheck disable=SC2317  # called by the trap
children() { cat "/proc/$1/task/"*/children 2>/dev/null; }

# shellcheck disable=SC2317
stop() {
    local launch rank
    for launch in $(children "$runner"); do
        for rank in $(children "$launch"); do
            kill -USR1 "$rank" 2>/dev/null || true
        done
    done
}
trap stop TERM USR1

while kill -0 "$runner" 2>/dev/null; do
    wait "$runner" || true # returns early when a signal comes
done
code=0
wait "$runner" || code=$?
exit "$code"
