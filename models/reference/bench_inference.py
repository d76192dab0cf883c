"""Time per 0.96 s window on one thread: EcoSight (tract) beside LiteRT/XNNPACK, turn by turn.

    cargo build --release -p ecosight-models --examples --bins
    pip install -r models/reference/requirements.txt
    python models/reference/bench_inference.py YAMNET.tflite target/release

All programs are loaded first; then each round lets every one run the same number of windows, so that
whatever else the machine does falls on all alike. A round's figure is the time that the program's
thread was on a core, per window. The ratio is the median of the rounds' ratios.

LiteRT gets the same weights as float32 (see float32_tflite.py). "whole" is its way from waveform to
the 521 scores; it hears no transients and has no head. "core" begins at the log-mel patch.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def litert_worker(model):
    """The other side's inference_worker: the same lines on standard input and output."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    def status(field):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field))

    before = status("VmRSS:")
    begun = time.perf_counter()
    interpreter = Interpreter(model, num_threads=1)
    interpreter.allocate_tensors()
    load_ms = (time.perf_counter() - begun) * 1e3
    detail = interpreter.get_input_details()[0]
    values = np.random.default_rng(1).normal(0.0, 0.1, size=(16, *detail["shape"])).astype(np.float32)
    interpreter.set_tensor(detail["index"], values[0])
    interpreter.invoke()
    loaded = {"load_ms": load_ms, "rss_mib": status("VmRSS:") - before, "peak_mib": status("VmHWM:")}
    print(json.dumps(loaded), flush=True)
    for line in sys.stdin:
        rounds = int(line.split()[1])
        wall, cpu_before = [], time.thread_time_ns()
        for i in range(rounds):
            interpreter.set_tensor(detail["index"], values[i % 16])
            begun = time.perf_counter_ns()
            interpreter.invoke()
            wall.append((time.perf_counter_ns() - begun) / 1e3)
        cpu_us = (time.thread_time_ns() - cpu_before) / 1e3 / rounds
        print(json.dumps({"cpu_us": cpu_us, "wall_us": wall}), flush=True)


class Contestant:
    def __init__(self, name, command):
        self.name = name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, stderr=subprocess.PIPE
        )
        self.cpu, self.wall = [], []
        self.loaded = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} stopped:\n{self.process.stderr.read()}")
        return json.loads(line)

    def run(self, windows):
        self.process.stdin.write(f"run {windows}\n")
        self.process.stdin.flush()
        reply = self.read()
        self.cpu.append(reply["cpu_us"])
        self.wall += reply["wall_us"]
        self.loaded["rss_mib"] = max(self.loaded["rss_mib"], reply.get("rss_mib", 0.0))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tflite", help="YAMNet v1, float32 or int8 TFLite")
    parser.add_argument("built", help="folder with the release build")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--windows", type=int, default=40, help="per round")
    parser.add_argument("--json", help="also write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, core, onnx = (os.path.join(folder, name) for name in ("w.tflite", "c.tflite", "y.onnx"))
        subprocess.run(
            [sys.executable, os.path.join(HERE, "float32_tflite.py"), arguments.tflite, whole, core],
            check=True,
        )
        program = os.path.join(arguments.built, "ecosight-models")
        subprocess.run([program, "import-yamnet", arguments.tflite, "--out", onnx], check=True,
                       stdout=subprocess.DEVNULL)
        worker = os.path.join(arguments.built, "examples", "inference_worker")
        litert = lambda model: [sys.executable, os.path.abspath(__file__), "--litert", model]
        contestants = [
            Contestant("LiteRT/XNNPACK f32, waveform to scores", litert(whole)),
            Contestant("LiteRT/XNNPACK f32, patch to scores", litert(core)),
            Contestant("EcoSight, sound to scores (station: 521 + head)", [worker, onnx, "station"]),
            Contestant("EcoSight, sound to scores (l14 exit + head)", [worker, onnx, "inner"]),
            Contestant("EcoSight, patch to scores", [worker, onnx, "network"]),
            Contestant("EcoSight, patch to scores, 8 at once", [worker, onnx, "batch"]),
        ]
        for contestant in contestants:
            contestant.run(max(8, arguments.windows // 4))
            contestant.cpu.clear()
            contestant.wall.clear()
        for done in range(arguments.rounds):
            # The order turns, so that nobody always follows the same neighbour.
            turn = done % len(contestants)
            for contestant in contestants[turn:] + contestants[:turn]:
                batch = 8 if "8 at once" in contestant.name else 1
                contestant.run(max(1, arguments.windows // batch))
        report(contestants, arguments, program)


def report(contestants, arguments, program):
    whole, core = contestants[:2]
    ratio = lambda c, other: statistics.median(a / b for a, b in zip(c.cpu, other.cpu))
    print(f"{arguments.rounds} rounds of {arguments.windows} windows; "
          f"bundle {contestants[2].loaded['bundle']}; program {os.path.getsize(program) / 2**20:.1f} MiB\n")
    print("| one thread | ms median | ms min | wall min | × LiteRT waveform | × LiteRT patch | load ms | RSS MiB |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for c in contestants:
        row = {
            "name": c.name,
            "cpu_ms_median": statistics.median(c.cpu) / 1e3,
            "cpu_ms_min": min(c.cpu) / 1e3,
            "wall_ms_min": min(c.wall) / 1e3,
            "ratio_whole": ratio(c, whole),
            "ratio_core": ratio(c, core),
            "load_ms": c.loaded["load_ms"],
            "rss_mib": c.loaded["rss_mib"],
        }
        rows.append(row)
        print("| {name} | {cpu_ms_median:.2f} | {cpu_ms_min:.2f} | {wall_ms_min:.2f} | {ratio_whole:.2f} | "
              "{ratio_core:.2f} | {load_ms:.0f} | {rss_mib:.0f} |".format(**row))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--litert":
        litert_worker(sys.argv[2])
    else:
        main()
