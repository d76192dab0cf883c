#!/usr/bin/env python3
"""Memory and CPU of a server and a station that runs at real time, as a Markdown table.

    loadtest/footprint.py --bin target/release [--seconds 60]

Both run with their defaults on private ports: the server with its embedded broker and SQLite, the
station on a synthetic scene. Figures are the kernel's (/proc): resident memory at the end, and user
plus system time over the measured span as a share of one core.
"""

import argparse
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

STATION = """
[station]
name = "bench"
site = "bench"
[source]
kind = "scene"
seed = 1
[mqtt]
url = "mqtt://127.0.0.1:{mqtt}"
[cloud]
url = "http://127.0.0.1:{http}"
[storage]
data_dir = "{data}"
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cpu_seconds(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int, field: str = "VmRSS") -> float:
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"{field} of process {pid}")


def wait_until_healthy(url: str, server: subprocess.Popen) -> None:
    for _ in range(300):
        if server.poll() is not None:
            sys.exit(f"error: the server ended with {server.returncode}")
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"error: {url} did not answer within 30 s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="folder of the built programs")
    parser.add_argument("--seconds", type=float, default=60, help="span of the measurement")
    args = parser.parse_args()

    data = pathlib.Path(tempfile.mkdtemp(prefix="ecosight-footprint-"))
    http, mqtt = free_port(), free_port()
    config = data / "station.toml"
    config.write_text(STATION.format(http=http, mqtt=mqtt, data=data / "station"))
    started = []

    def start(name: str, *arguments: str) -> subprocess.Popen:
        log = (data / f"{name}.log").open("wb")
        command = [str(args.bin / name), *arguments]
        # The station as its service runs it: see deploy/systemd/ecosight-agent.service.
        settings = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1048576"}
        environment = os.environ | (settings if name == "ecosight-agent" else {})
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        started.append(process)
        return process

    try:
        server = start(
            "ecosight-cloud", "serve", "--listen", f"127.0.0.1:{http}",
            "--mqtt-listen", f"127.0.0.1:{mqtt}", "--data-dir", str(data / "server"),
        )
        wait_until_healthy(f"http://127.0.0.1:{http}/health", server)
        time.sleep(5)
        idle = resident_mib(server.pid)
        station = start("ecosight-agent", "run", "--config", str(config))
        time.sleep(10)
        before = {p.pid: cpu_seconds(p.pid) for p in (server, station)}
        at = time.monotonic()
        time.sleep(args.seconds)
        span = time.monotonic() - at
        share = {p.pid: 100 * (cpu_seconds(p.pid) - before[p.pid]) / span for p in (server, station)}
        print("| process | RSS, MiB | peak, MiB | CPU, % of a core |")
        print("|---|---|---|---|")
        print(f"| server, idle, model loaded | {idle:.0f} | | |")
        for label, process in (("server, one station", server), ("station, real time", station)):
            rss, peak = resident_mib(process.pid), resident_mib(process.pid, "VmHWM")
            print(f"| {label} | {rss:.0f} | {peak:.0f} | {share[process.pid]:.2f} |")
        for name in ("ecosight-agent", "ecosight-cloud", "ecosight-models"):
            print(f"\n`{name}`: {(args.bin / name).stat().st_size / 2**20:.1f} MiB on disk", end="")
        print()
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=20)


if __name__ == "__main__":
    main()
