# A server of one's own for a measurement, and a database. Sourced, not run; needs deploy/setup.sh.

postgres=

# start_server NAME ARGUMENT...: starts it on private ports; sets http, mqtt, pid, data.
start_server() {
    local name=$1
    shift
    data=$work/$name
    mkdir -p "$data"
    read -r http mqtt < <(python3 -c '
import socket
sockets = [socket.socket() for _ in range(2)]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))')
    "$bin/ecosight-cloud" serve --listen "127.0.0.1:$http" --mqtt-listen "127.0.0.1:$mqtt" \
        --data-dir "$data" "$@" 2>"$work/$name.log" &
    pid=$!
    for _ in $(seq 600); do
        if curl -sf "http://127.0.0.1:$http/readyz" >/dev/null; then return 0; fi
        kill -0 $pid 2>/dev/null || break
        sleep 0.1
    done
    tail -n 20 "$work/$name.log" >&2
    die "the server does not come up"
}

stop_server() {
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

# PostgreSQL refuses to run as root.
as_postgres() {
    if [ "$(id -u)" = 0 ]; then setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; else "$@"; fi
}

# start_postgres: in a folder of its own; sets postgres, the programs' folder, and pg_url.
start_postgres() {
    postgres=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
    [ -n "$postgres" ] || return 1
    mkdir -p "$work/pg"
    [ "$(id -u)" != 0 ] || { chmod 755 "$work"; chown postgres "$work/pg"; }
    pg_port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    as_postgres "$postgres/initdb" --auth=trust --username=ecosight --encoding=UTF8 -D "$work/pg/data" >/dev/null
    as_postgres "$postgres/pg_ctl" -D "$work/pg/data" -w -l "$work/pg/log" \
        -o "-p $pg_port -c listen_addresses=127.0.0.1 -c unix_socket_directories=" start >/dev/null
    pg_url=postgres://ecosight@127.0.0.1:$pg_port/postgres
}

stop_postgres() {
    [ -n "$postgres" ] || return 0
    as_postgres "$postgres/pg_ctl" -D "$work/pg/data" -m immediate stop >/dev/null 2>&1 || true
}
