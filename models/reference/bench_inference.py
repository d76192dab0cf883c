"""Time per 0.96 s window: EcoSight beside LiteRT/XNNPACK and ONNX Runtime, turn by turn.

    cargo build --release --workspace --all-features --bins --examples
    pip install -r models/reference/requirements.txt
    python models/reference/bench_inference.py YAMNET.tflite target/release

All programs are loaded first; then each round lets every one run the same number of windows, so that
whatever else the machine does falls on all alike. On one thread a round's figure is the time that the
thread was on a core, per window; on two it is wall time. Loading is time on a core, too. A ratio is the median of the rounds' ratios.

LiteRT gets the same weights as float32 (see float32_tflite.py), ONNX Runtime the imported file itself.
"waveform" is LiteRT's way from sound to the 521 scores; it hears no transients and has no head.
"patch" begins at the log-mel patch. The last line is EcoSight's time for one patch on one thread as a
multiple of LiteRT's.
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


def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field))


def litert(model, threads, _):
    """Loads the network; gives what runs once, and the shape that it takes."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model, num_threads=threads)
    interpreter.allocate_tensors()
    detail = interpreter.get_input_details()[0]

    def run(values):
        interpreter.set_tensor(detail["index"], values)
        interpreter.invoke()

    return run, tuple(detail["shape"])


def onnxruntime(model, threads, batch):
    """The same with the other library."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return (lambda values: session.run(["scores"], {name: values})), (batch, 1, 96, 64)


def rival_worker(library, model, threads, batch):
    """The other side's inference_worker: the same lines on standard input and output."""
    import numpy as np

    before = status("VmRSS:")
    begun = time.process_time()
    run, shape = {"litert": litert, "onnxruntime": onnxruntime}[library](model, threads, batch)
    load_ms = (time.process_time() - begun) * 1e3
    values = np.random.default_rng(1).normal(0.0, 0.1, size=(16, *shape)).astype(np.float32)
    run(values[0])
    loaded = {"load_ms": load_ms, "rss_mib": status("VmRSS:") - before, "peak_mib": status("VmHWM:")}
    print(json.dumps(loaded), flush=True)
    for line in sys.stdin:
        rounds = int(line.split()[1])
        wall, cpu_before = [], time.thread_time_ns()
        for i in range(rounds):
            begun = time.perf_counter_ns()
            run(values[i % 16])
            wall.append((time.perf_counter_ns() - begun) / 1e3 / batch)
        cpu_us = (time.thread_time_ns() - cpu_before) / 1e3 / rounds / batch
        print(json.dumps({"cpu_us": cpu_us, "wall_us": wall}), flush=True)


class Contestant:
    """One program, loaded and waiting. `per_run`: windows of one run."""

    def __init__(self, name, command, per_run=1, threads=1, kernels="auto"):
        self.name, self.per_run, self.threads = name, per_run, threads
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            stderr=subprocess.PIPE,
            env={**os.environ, "ECOSIGHT_KERNELS": kernels, "OMP_NUM_THREADS": str(threads)},
        )
        self.times, self.cpu, self.wall = [], [], []
        self.loaded = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} stopped:\n{self.process.stderr.read()}")
        return json.loads(line)

    def run(self, windows):
        self.process.stdin.write(f"run {max(1, windows // self.per_run)}\n")
        self.process.stdin.flush()
        reply = self.read()
        wall = reply["wall_us"]
        self.cpu.append(reply["cpu_us"])
        self.times.append(reply["cpu_us"] if self.threads == 1 else statistics.mean(wall))
        self.wall += wall
        self.loaded["rss_mib"] = max(self.loaded["rss_mib"], reply.get("rss_mib", 0.0))

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tflite", help="YAMNet v1, float32 or int8 TFLite")
    parser.add_argument("built", help="folder with the release build")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--windows", type=int, default=40, help="per round")
    parser.add_argument("--roofline", action="store_true", help="also print each layer's time")
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
        rival = lambda library, model, threads=1, batch=1: [
            sys.executable, os.path.abspath(__file__), "--rival", library, model, str(threads), str(batch)
        ]
        ours = lambda what: [worker, onnx, what]
        one_thread = [
            Contestant("LiteRT/XNNPACK f32, waveform to scores", rival("litert", whole)),
            Contestant("LiteRT/XNNPACK f32, patch to scores", rival("litert", core)),
            Contestant("ONNX Runtime, patch to scores", rival("onnxruntime", onnx)),
            Contestant("ONNX Runtime, patch to scores, 8 at once", rival("onnxruntime", onnx, 1, 8), 8),
            Contestant("tract's own operators, patch to scores", ours("network"), kernels="tract"),
            Contestant("tract's own operators, patch to scores, 8 at once", ours("batch"), 8, kernels="tract"),
            Contestant("tract's own operators, sound to scores (station: 521 + head)", ours("station"), kernels="tract"),
            Contestant("EcoSight, patch to scores", ours("network")),
            Contestant("EcoSight, patch to scores, 8 at once", ours("batch"), 8),
            Contestant("EcoSight, sound to scores (station: 521 + head)", ours("station")),
            Contestant("EcoSight, sound to scores (head alone, without the 521)", ours("inner")),
            Contestant("EcoSight, sound to scores (compact, no YAMNet)", ours("compact")),
        ]
        race(one_thread, arguments)
        # Each of EcoSight's two threads has windows of its own; the others share each window.
        two_threads = [
            Contestant("LiteRT/XNNPACK f32, patch to scores, two threads", rival("litert", core, 2), threads=2),
            Contestant("ONNX Runtime, patch to scores, two threads", rival("onnxruntime", onnx, 2), threads=2),
            Contestant("EcoSight, patch to scores, two threads", ours("pair"), 40, threads=2),
            Contestant("EcoSight, patch to scores, one thread, by the clock", ours("network"), threads=2),
        ] if os.cpu_count() > 1 else []
        race(two_threads, arguments)
        report(one_thread, two_threads, arguments, program)
        sys.stdout.flush()
        if arguments.roofline:
            for windows in ("1", "8"):
                print(flush=True)
                subprocess.run([os.path.join(arguments.built, "examples", "roofline"), onnx, windows], check=True)
        if two_threads:
            pair, single = two_threads[-2:]
            # By the clock other programs count, too; by time on a core they do not.
            by_core = statistics.median(2 * a / b for a, b in zip(single.cpu, pair.cpu))
            print(f"\ntwo threads do {ratio(single, pair):.2f} times the windows of one by the clock "
                  f"(least times {min(single.wall) / min(pair.wall):.2f}), {by_core:.2f} by time on a core")
        find = lambda start: next(c for c in one_thread if c.name == start)
        print(f"ratio to ONNX Runtime, 8 at once: "
              f"{ratio(find('EcoSight, patch to scores, 8 at once'), find('ONNX Runtime, patch to scores, 8 at once')):.2f}")
        print(f"ratio to XNNPACK: {ratio(find('EcoSight, patch to scores'), one_thread[1]):.2f}")


def race(contestants, arguments):
    """Lets them take turns, then stops them."""
    for contestant in contestants:
        contestant.run(max(40, arguments.windows))
        contestant.times.clear()
        contestant.cpu.clear()
        contestant.wall.clear()
    for done in range(arguments.rounds):
        # The order turns, so that nobody always follows the same neighbour.
        turn = done % max(1, len(contestants))
        for contestant in contestants[turn:] + contestants[:turn]:
            contestant.run(arguments.windows)
    for contestant in contestants:
        contestant.stop()


def ratio(one, other):
    return statistics.median(a / b for a, b in zip(one.times, other.times))


def report(one_thread, two_threads, arguments, program):
    whole, core = one_thread[:2]
    print(f"{arguments.rounds} rounds of {arguments.windows} windows; "
          f"bundles {one_thread[-2].loaded['bundle']} and {one_thread[-1].loaded['bundle']}; program {os.path.getsize(program) / 2**20:.1f} MiB\n")
    rows = []
    for title, group in (("one thread", one_thread), ("two cores", two_threads)):
        if not group:
            continue
        print(f"| {title} | ms median | ms min | wall min | × LiteRT waveform | × LiteRT patch | load ms | RSS MiB |")
        print("|---|---|---|---|---|---|---|---|")
        for c in group:
            first = group is one_thread
            row = {
                "name": c.name,
                "ms_median": statistics.median(c.times) / 1e3,
                "ms_min": min(c.times) / 1e3,
                "wall_ms_min": min(c.wall) / 1e3,
                "ratio_whole": ratio(c, whole) if first else None,
                "ratio_core": ratio(c, core if first else group[0]),
                "load_ms": c.loaded["load_ms"],
                "rss_mib": c.loaded["rss_mib"],
            }
            rows.append(row)
            print("| {name} | {ms_median:.2f} | {ms_min:.2f} | {wall_ms_min:.2f} | {whole} | "
                  "{ratio_core:.2f} | {load_ms:.0f} | {rss_mib:.0f} |".format(
                      whole="" if row["ratio_whole"] is None else f"{row['ratio_whole']:.2f}", **row))
        print()
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    if len(sys.argv) == 6 and sys.argv[1] == "--rival":
        rival_worker(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
