# Shared by up, down and status: where the cluster lives and what must be installed.
cluster_home=${CAD_TESTCLUSTER:-/tmp/cad-testcluster-$(id -u)}
run_dir=$cluster_home/run
export SLURM_CONF=$cluster_home/etc/slurm.conf

# Its own munge: nothing outside cluster_home is touched, and several clusters can be up at a time.
munge_socket=$run_dir/munge.socket

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# alive FILE: the process that FILE names is running
alive() {
    [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null
}

# free_ports N: the first of N free ports in a row; the search starts at a random port, so that clusters
# that start at the same time do not collide
free_ports() {
    local first port
    for _ in $(seq 50); do
        first=$((16000 + RANDOM % 1500 * 10))
        for port in $(seq "$first" $((first + $1 - 1))); do
            if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then continue 2; fi
        done
        echo "$first"
        return
    done
    fail "found no free ports"
}

# wait_for SECONDS COMMAND...: until COMMAND succeeds
wait_for() {
    local tries=$(($1 * 10))
    shift
    until "$@" >/dev/null 2>&1; do
        ((tries-- > 0)) || return 1
        sleep 0.1
    done
}

# stop_daemon FILE...: end the processes that the files name and wait until they are gone
stop_daemon() {
    local file process
    for file in "$@"; do
        alive "$file" || continue
        process=$(cat "$file")
        kill "$process"
        wait_for 20 eval "! kill -0 $process" || kill -KILL "$process"
        rm -f "$file"
    done
}
