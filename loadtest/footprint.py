#!/usr/bin/env python3
"""Memory and CPU of a server and of stations that run at real time, as a Markdown table.

    loadtest/footprint.py --bin target/release [--seconds 60] [--report-only]

All run with their defaults on private ports: the server with its embedded broker and SQLite; one
station after the other, with YAMNet and with the compact bundle, each on a recording of 48 kHz stereo that
it resamples, and with the settings for the C library's allocator that its systemd unit gives it (without
them memory is higher: the kernel gets freed pages back later). Figures are the kernel's (/proc):
resident memory at the end, and user plus system time over the measured span as a share of one core.

Ends with 1 if a station takes more than it may: 2 % of a core, 80 MiB with YAMNet, 40 MiB without.
"""

import argparse
import array
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import wave

STATION = """
[station]
name = "bench-{kind}"
site = "bench"
[source]
kind = "file"
path = "{sound}"
loop = true
[model]
{model}
[page]
listen = ""
[mqtt]
url = "mqtt://127.0.0.1:{mqtt}"
[cloud]
url = "http://127.0.0.1:{http}"
[storage]
data_dir = "{data}"
"""
ARTIFACTS = pathlib.Path(__file__).resolve().parent.parent / "models" / "artifacts"
CPU_LIMIT_PERCENT = 2.0
RSS_LIMITS_MIB = {"yamnet": 80.0, "compact": 40.0}


def write_sound(path: pathlib.Path, seconds: int = 60) -> None:
    """A forest's level of noise, 48 kHz stereo."""
    noise = random.Random(1).randbytes(seconds * 48_000 * 2)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(array.array("h", (byte - 128 for byte in noise)).tobytes())


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
    parser.add_argument("--report-only", action="store_true", help="measure, and hold nobody to the limits")
    args = parser.parse_args()

    data = pathlib.Path(tempfile.mkdtemp(prefix="ecosight-footprint-"))
    http, mqtt = free_port(), free_port()
    sound = data / "forest.wav"
    write_sound(sound)
    compact = ARTIFACTS / (ARTIFACTS / "COMPACT").read_text().strip()
    models = {"yamnet": "", "compact": f'bundle = "{compact}"'}
    started = []

    def start(name: str, *arguments: str) -> subprocess.Popen:
        log = (data / f"{name}.log").open("ab")
        command = [str(args.bin / name), *arguments]
        # The station as its service runs it: see deploy/systemd/ecosight-agent.service.
        settings = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1048576"}
        environment = os.environ | (settings if name == "ecosight-agent" else {})
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        started.append(process)
        return process

    def stop(process: subprocess.Popen) -> None:
        started.remove(process)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)

    faults = []
    try:
        server = start(
            "ecosight-cloud", "serve", "--listen", f"127.0.0.1:{http}",
            "--mqtt-listen", f"127.0.0.1:{mqtt}", "--data-dir", str(data / "server"),
        )
        wait_until_healthy(f"http://127.0.0.1:{http}/health", server)
        time.sleep(5)
        idle = resident_mib(server.pid)
        print("| process | RSS, MiB | peak, MiB | CPU, % of a core |")
        print("|---|---|---|---|")
        print(f"| server, idle, model loaded | {idle:.0f} | | |")
        labels = {"yamnet": "station, real time (48 kHz stereo)", "compact": "compact station, real time (48 kHz stereo)"}
        for kind, model in models.items():
            config = data / f"{kind}.toml"
            config.write_text(STATION.format(
                kind=kind, sound=sound, model=model, http=http, mqtt=mqtt, data=data / kind,
            ))
            station = start("ecosight-agent", "run", "--config", str(config))
            time.sleep(10)
            before = {p.pid: cpu_seconds(p.pid) for p in (server, station)}
            at = time.monotonic()
            time.sleep(args.seconds)
            span = time.monotonic() - at
            share = {p.pid: 100 * (cpu_seconds(p.pid) - before[p.pid]) / span for p in (server, station)}
            if station.poll() is not None:
                sys.exit(f"error: the station ended with {station.returncode}; see {data}/ecosight-agent.log")
            for label, process in (("server, one station", server), (labels[kind], station)):
                rss, peak = resident_mib(process.pid), resident_mib(process.pid, "VmHWM")
                print(f"| {label} | {rss:.0f} | {peak:.0f} | {share[process.pid]:.2f} |")
            rss = resident_mib(station.pid)
            if share[station.pid] > CPU_LIMIT_PERCENT:
                faults.append(f"{kind}: {share[station.pid]:.2f} % of a core, may be {CPU_LIMIT_PERCENT:.0f} %")
            if rss > RSS_LIMITS_MIB[kind]:
                faults.append(f"{kind}: {rss:.0f} MiB resident, may be {RSS_LIMITS_MIB[kind]:.0f} MiB")
            stop(station)
        for name in ("ecosight-agent", "ecosight-cloud", "ecosight-models"):
            print(f"\n`{name}`: {(args.bin / name).stat().st_size / 2**20:.1f} MiB on disk", end="")
        print()
    finally:
        for process in reversed(list(started)):
            stop(process)
    if faults and not args.report_only:
        sys.exit("error: " + "; ".join(faults))


if __name__ == "__main__":
    main()
