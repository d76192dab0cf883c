#!/usr/bin/env python3
"""Whether two machines heard the same: cross/compare.py NAME HERE.json THERE.json TOLERANCE

The files are what `ecosight-agent classify --windows --json` prints. Scores of windows may differ by
TOLERANCE; the events must be of the same classes and times.
"""

import json
import sys


def main() -> None:
    name, here, there, tolerance = sys.argv[1:]
    ours, theirs = (json.loads(open(path).readline()) for path in (here, there))
    windows = list(zip(ours["windows"], theirs["windows"], strict=True))
    differences = [
        abs(left["scores"][label] - right["scores"][label])
        for left, right in windows
        for label in left["scores"]
    ]
    events = [[(event["class"], round(event["start_s"], 2)) for event in side["events"]] for side in (ours, theirs)]
    print(
        f"{name}: {len(windows)} windows, {len(events[0])} events; scores differ by {max(differences):.2e} at most"
        f" (allowed {tolerance})"
    )
    if not windows or not events[0]:
        sys.exit("error: the scene has nothing to compare")
    if max(differences) > float(tolerance):
        sys.exit("error: the scores differ by more")
    if events[0] != events[1]:
        sys.exit(f"error: the events differ:\n{events[0]}\n{events[1]}")


if __name__ == "__main__":
    main()
