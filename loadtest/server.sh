# A server of one's own for a measurement. Sourced, not run; needs deploy/setup.sh.

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
