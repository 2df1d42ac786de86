#!/bin/bash

# Parameters
#SBATCH --array=0-3%4
#SBATCH --comment=cad-1-1
#SBATCH --cpus-per-task=1
#SBATCH --dependency=aftercorr:12
#SBATCH --job-name=cad-small-train
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mem=4096M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output='/scratch/my runs;x/small/jobs/1/%A_%a_0_log.out'
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=240
#SBATCH --wckey=submitit

# setup
# Signals are for the worker; this script survives them to decide what comes next.
trap : TERM USR2
# A login file may set options of Slurm's commands; the job's own cluster is the one to ask.
unset ${!SBATCH_@} ${!SQUEUE_@} ${!SCONTROL_@} ${!SINFO_@} SLURM_CLUSTERS
task="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
attempts='/scratch/my runs;x/small/jobs/1'/"$task".attempts
log='/scratch/my runs;x/small/jobs/1'/"$task"_0_log.out
log_start=$(stat -c %s "$log" 2>/dev/null || echo 0)
note() { echo "$(date +%s) $SLURMD_NODENAME $*" >>"$attempts"; }
# An attempt that noted no end lost its node.
lost=$(awk '$3 == "started" {n += open; open = 1; next} {open = 0} END {print n + open}' "$attempts" 2>/dev/null)
note started
# Without what it needs, the task would fail again: no requeue.
refuse() { echo "cad: $2"; note "$1"; exit 1; }
[ "${lost:-0}" -le 50 ] || refuse too-many-node-failures "its node failed $lost times (retry.node_fail)"
export PYTHONPATH='/scratch/my runs;x/small/jobs/1/code'${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1
export OMP_NUM_THREADS=1
# Compilers keep code in it, on the node's own disk: nobody else may have made it or write to it.
export cache=/tmp/cad-$(id -u)
own='mkdir -p -m 700 "$cache" && [ -n "$(find "$cache" -maxdepth 0 -type d -user "$(id -u)" ! -perm /077)" ]'
bash -c "$own" || {
    echo "cad: $cache is not yours alone; this job makes a folder of its own beside it"
    cache="$cache-$SLURM_JOB_ID-$(od -An -N8 -tx8 /dev/urandom | tr -d " ")"
    bash -c "$own" || refuse no-cache "cannot make $cache (scratch)"
}
export TRITON_CACHE_DIR="$cache/triton" TORCH_EXTENSIONS_DIR="$cache/torch_extensions"
export TORCHINDUCTOR_CACHE_DIR="$cache/torchinductor"
# The worker looks for its task by the job's number.
ln -sf '/scratch/my runs;x/small/jobs/1'/tasks/1-"${SLURM_ARRAY_TASK_ID:-0}".pkl '/scratch/my runs;x/small/jobs/1'/"$task"_submitted.pkl
# A controller that is busy, or restarts, must not cost the job its requeue.
patiently() {
    local pause
    for pause in 1 4 15 30 60; do "$@" && return; sleep "$pause"; done
    "$@"
}
# Fields, not text that is meant for people; what does not begin with the mark is no answer.
ask() {
    timeout -k 5 60 squeue --noheader --states=all "--jobs=$task" --format="cad|%T|%r" | grep "^cad|"
}
standing() { patiently ask; }
# Not after scancel, nor when Slurm itself has requeued the job.
stands() {
    said=$(standing)
    case "$said" in *"cad|RUNNING|"*|*"|TimeLimit") ;; *) false ;; esac
}
# Named by its index: the job id of one task of an array can be the id of the whole array.
requeue() { ! stands || timeout -k 5 60 scontrol requeue "$task"; }
again() {
    if ! stands; then echo "cad: not requeued, Slurm says: $said"; note ended; return; fi
    if [ "${SLURM_RESTART_COUNT:-0}" -ge 50 ]; then note too-many-requeues; return; fi
    note "$1"
    patiently requeue
    shift
    # The job waits again, so that it may be changed.  What ends it sends TERM first, and waits.
    [ $# = 0 ] || (trap '' TERM; exec scontrol update "JobId=$task" "$@")
}
at_limit() {
    case "$(standing)" in *"|TimeLimit") again time-limit ;; esac
    exit
}
# When a task does not save in time, Slurm ends it and this script, which waits for it: a process of
# its own has to act at once.
(trap at_limit TERM; while :; do sleep 5 & wait $!; done) &
watcher=$!
disown

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output '/scratch/my runs;x/small/jobs/1/%A_%a_%t_log.out' --export=ALL --cpus-per-task=1 /opt/venv/bin/python -u -m submitit.core._submit '/scratch/my runs;x/small/jobs/1'


# teardown
code=$?
kill -KILL "$watcher"
# srun also ends well when it loses its node: what counts is what the worker left.
[ "$code" != 0 ] || [ -e "${attempts%.attempts}_0_result.pkl" ] || code=137
memory='oom.?kill|exceeded .*memory|out of memory|MemoryError'
crashes=$(grep -c ' crashed$' "$attempts")
more_memory=()
shortages=$(grep -c ' out-of-memory$' "$attempts")
# Killed soon after its start on one node: the others are tried, unless half of them are avoided already.
avoid() {
    [ "$SECONDS" -lt 60 ] && [ "${SLURM_JOB_NUM_NODES:-1}" = 1 ] || return
    local all bad
    all=$(timeout 20 sinfo --noheader --Node --format=%N --partition="$SLURM_JOB_PARTITION" | sort -u | wc -l)
    bad=$({ echo "$SLURMD_NODENAME"; awk '$3 == "bad-node" {print $2}' "$attempts"; } | sort -u)
    [ $((2 * $(wc -l <<<"$bad"))) -le "$all" ] || return
    note bad-node
    echo "ExcNodeList=$(paste -sd, <<<"$bad")"
}
# Slurm holds a task that a node's daemon could not start until its owner releases it.  Every task that is
# done releases one's held tasks once: a node that stays broken is not tried for ever.
release_held() {
    local one
    timeout 20 squeue --noheader --array --states=PENDING "--user=$(id -u)" --format='%i|%r|%j' |
        awk -F'|' '$2 == "launch failed requeued held" && $3 ~ /^cad-/ {print $1}' |
        while read -r one; do
            timeout 20 scontrol release "$one" && echo "cad: released job $one, which a node could not start"
        done
}
if [ "$code" = 0 ]; then
    note done
    release_held
elif [ "$code" = 75 ] || [ "$code" = 140 ] || [ "$code" = 143 ]; then
    again saved
elif [ "$code" = 76 ]; then
    note pruned
elif [ "$code" = 77 ]; then
    note not-ready
elif tail -c "+$((log_start + 1))" "$log" | grep -qiE "$memory"; then
    if [ "$shortages" -lt 0 ]; then
        again out-of-memory MinMemoryNode="${more_memory[$shortages]}"
    else
        note out-of-memory
    fi
elif [ "$code" -gt 128 ]; then
    if [ "$crashes" -lt 2 ]; then again crashed $(avoid); else note too-many-crashes; fi
else
    note failed
fi
exit "$code"