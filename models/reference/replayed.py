"""Plays recordings through a station as fast as possible and tells what it raised, label by label.

    replayed.py AGENT MANIFEST [--label gun_shot] [--missed FILE]

AGENT is the built ecosight-agent, MANIFEST a data set's manifest.csv (path, label, source). Every recording is a
stream of its own, with the source → window → ear → detector of a station; nothing is sent. The bundle is the one
that a station would pick (ECOSIGHT__MODEL__BUNDLE names another). A bundle that was trained on these
recordings has seen them: this shows that the path works and what it stumbles over, and judges no ear.
"""

import argparse
import csv
import json
import subprocess
from collections import Counter
from pathlib import Path

BATCH = 400


def raised(agent, files):
    """The alerts of each file, as `ecosight-agent replay` says them."""
    alerts = Counter()
    for start in range(0, len(files), BATCH):
        command = [agent, "replay", "--json", *files[start : start + BATCH]]
        out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in out.stdout.splitlines():
            event = json.loads(line)
            alerts[event["source"]] += bool(event["alert"])
    return alerts


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("agent")
    arguments.add_argument("manifest", type=Path)
    arguments.add_argument("--label", default="gun_shot", help="what should raise an alert")
    arguments.add_argument("--missed", type=Path, help="write the names of missed and of wrong recordings")
    arguments = arguments.parse_args()
    with arguments.manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    files = [str(arguments.manifest.parent / row["path"]) for row in rows]
    alerts = raised(arguments.agent, files)

    def key(row):
        return (row["label"], row["source"]) if row["label"] == arguments.label else (row["label"], "")

    clips, heard, hours, wrong = Counter(), Counter(), Counter(), []
    for row, file in zip(rows, files):
        clips[key(row)] += 1
        heard[key(row)] += alerts[file] > 0
        hours[key(row)] += float(row["duration_s"]) / 3600
        if (alerts[file] > 0) != (row["label"] == arguments.label):
            wrong.append(f"{row['label']}\t{row['source']}\t{row['path']}")
    print("| label | recordings | hours | with an alert |")
    print("|---|---|---|---|")
    quiet, quiet_hours = 0, 0.0
    for name, count in sorted(clips.items(), key=lambda item: (item[0][0] != arguments.label, -heard[item[0]], item[0])):
        if name[0] != arguments.label and not heard[name]:
            quiet, quiet_hours = quiet + count, quiet_hours + hours[name]
            continue
        print(f"| {' of '.join(filter(None, name))} | {count} | {hours[name]:.2f} | {heard[name]} |")
    print(f"| every other label | {quiet} | {quiet_hours:.2f} | 0 |")
    if arguments.missed:
        arguments.missed.write_text("\n".join(wrong) + "\n")


if __name__ == "__main__":
    main()
