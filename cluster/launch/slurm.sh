#!/usr/bin/env bash
# Slurm: one search on the nodes of one job. From the project's folder, on a file system that all nodes see:
#   sbatch cluster/launch/slurm.sh --space bit --data /shared/photos --runs-dir /shared/runs --trials 200
# At the time limit the running epochs are finished and the job is queued again: the same study goes on.
#SBATCH --job-name=unfreeze
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --mem=64G
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=unfreeze-%j.log
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:?submit this script with sbatch}"
bin=${UNFREEZE_BIN:-$PWD/.venv/bin}
[[ -x $bin/ray ]] || { echo "no ray in $bin: run make install there, or set UNFREEZE_BIN" >&2; exit 2; }

# A token of this job's own, in a file that only its owner reads: nobody else on the cluster's network may use its Ray.
umask 077
mkdir -p "$HOME/.unfreeze"
token_file=$(mktemp "$HOME/.unfreeze/token.$SLURM_JOB_ID.XXXXXX")
"$bin/python" -c 'import secrets; print(secrets.token_hex(32), end="")' > "$token_file"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token_file RAY_USAGE_STATS_ENABLED=0
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun has not taken it over from sbatch since Slurm 22.05

steps=()
# shellcheck disable=SC2329 # the trap calls it
clean_up() {
    rm -f "$token_file"
    ((${#steps[@]} > 0)) || return 0
    kill -TERM "${steps[@]}" 2> /dev/null || true
    { sleep 30 && kill -KILL "${steps[@]}"; } &> /dev/null & # whatever ignores SIGTERM
    wait "${steps[@]}" 2> /dev/null || true
    kill "$!" 2> /dev/null || true
}
trap clean_up EXIT

# Ports by the job's number, above those that Ray's workers take (10002 to 19999): two jobs may share a node.
port=$((20000 + SLURM_JOB_ID % 1000 * 4))
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
ip=$("$bin/python" -c 'import ray.util; print(ray.util.get_node_ip_address())') # this script runs on the first host
address=$ip:$port
start=(--num-cpus="$SLURM_CPUS_PER_TASK" --object-store-memory=536870912 --disable-usage-stats --block)

srun --nodes=1 --ntasks=1 --nodelist="${hosts[0]}" \
    "$bin/ray" start --head --node-ip-address="$ip" --port="$port" --dashboard-host=127.0.0.1 \
    --dashboard-port="$((port + 1))" --ray-client-server-port="$((port + 2))" "${start[@]}" &
steps+=($!)
until "$bin/ray" status --address="$address" &> /dev/null; do
    kill -0 "${steps[0]}" 2> /dev/null || { echo "Ray's head did not start on ${hosts[0]}; see above" >&2; exit 1; }
    ((SECONDS < 300)) || { echo "Ray's head on ${hosts[0]} does not answer after 5 minutes" >&2; exit 1; }
    sleep 2
done
if ((${#hosts[@]} > 1)); then
    srun --nodes="$((${#hosts[@]} - 1))" --ntasks="$((${#hosts[@]} - 1))" --ntasks-per-node=1 \
        --exclude="${hosts[0]}" "$bin/ray" start --address="$address" "${start[@]}" &
    steps+=($!)
fi

"$bin/python" tune.py --address "$address" "$@" &
search=$!
again=
signalled=
trap 'signalled=yes again=yes; kill -TERM "$search"' USR1 # the time limit is near
trap 'signalled=yes; kill -TERM "$search"' TERM INT
code=0
wait -n "$search" "${steps[0]}" || code=$?
while [[ -n $signalled ]]; do # a signal ended the wait, not the search
    signalled=
    code=0
    wait "$search" || code=$?
done
if kill -0 "$search" 2> /dev/null; then
    echo "Ray's head ended before the search did; the same line continues it" >&2
    kill -KILL "$search"
    exit 1
fi
[[ -z $again || $code -ne 130 ]] || scontrol requeue "$SLURM_JOB_ID"
exit "$code"
