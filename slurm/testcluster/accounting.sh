# For "up --accounting": a private MariaDB and slurmdbd, which give a real sacct.
start_accounting() {
    local data=$cluster_home/mysql socket=$run_dir/mysqld.sock
    local small=(--innodb-buffer-pool-size=32M --innodb-log-file-size=8M --innodb-lock-wait-timeout=900
        --performance-schema=OFF --innodb-flush-log-at-trx-commit=0)
    if [ ! -d "$data/mysql" ]; then
        mkdir -p "$data"
        mariadb-install-db --no-defaults --user=root --datadir="$data" --skip-test-db \
            --auth-root-authentication-method=normal "${small[@]}" >"$cluster_home/log/mariadb-install.log" 2>&1
    fi
    # Reached through its socket and the loop-back address only.
    setsid mariadbd --no-defaults --user=root --datadir="$data" --bind-address=127.0.0.1 --port=13316 \
        --socket="$socket" --pid-file="$run_dir/mariadbd.pid" "${small[@]}" \
        >"$cluster_home/log/mariadbd.log" 2>&1 </dev/null &
    wait_for 30 mariadb-admin --no-defaults -S "$socket" ping || fail "MariaDB did not start; see $cluster_home/log"
    local password
    password=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')
    mariadb --no-defaults -S "$socket" <<SQL
create database if not exists slurm_acct_db;
create or replace user slurm@'127.0.0.1' identified by '$password';
create or replace user slurm@localhost identified by '$password';
grant all on slurm_acct_db.* to slurm@'127.0.0.1';
grant all on slurm_acct_db.* to slurm@localhost;
SQL
    (
        umask 077
        cat >"$cluster_home/etc/slurmdbd.conf" <<CONF
AuthType=auth/munge
DbdHost=localhost
DbdPort=16829
SlurmUser=root
LogFile=$cluster_home/log/slurmdbd.log
PidFile=$run_dir/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=13316
StorageUser=slurm
StoragePass=$password
StorageLoc=slurm_acct_db
CONF
    )
    slurmdbd
    answers() { (exec 3<>/dev/tcp/127.0.0.1/16829); }
    wait_for 30 answers || fail "slurmdbd did not start; see $cluster_home/log"
    sacctmgr -i -Q add cluster cadtest || true # there already when the cluster comes up again
}
