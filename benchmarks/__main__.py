"""Every measurement that shows how well the device is used, in one command.

    python -m benchmarks                      all of them, about ten minutes
    python -m benchmarks overlap notice       some of them
    python -m benchmarks --quick              shorter runs, to see that all is well; no figure to quote

Prints tables of ratios, each from runs that took turns, and writes results.json and results.png. Exit code 1
where a bar is missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path

from benchmarks._environment import described
from benchmarks._plot import plot
from benchmarks._report import Section

MEASUREMENTS = {
    "overlap": "how long the device waits: worker, bare loop, common style",
    "checkpoints": "the same with the demo checkpoints, torch on one thread",
    "merged": "jobs that run in one pass against one after the other",
    "notice": "how soon an idle worker notices a job",
    "depth": "queue operations while 10 to a million jobs wait",
    "fleet": "1 to 64 workers on one Valkey",
    "memory": "resident memory over 1,000 jobs",
    "encode": "times and sizes of files",
    "startup": "from the process's start until it takes jobs",
    "cuda": "pictures and videos on a card, by option",
}
RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str]) -> int:
    options = _arguments(arguments)
    environment = described()
    print("\n".join(f"{name}: {value}" for name, value in environment.items()))
    sections: dict[str, Section] = {}
    for name in options.names or MEASUREMENTS:
        started = time.monotonic()
        section = importlib.import_module(f"benchmarks.{name}").run(options.quick)
        print(f"{section}\n  ({name}: {time.monotonic() - started:.0f} s)", flush=True)
        sections[name] = section
    _write(options.out, environment | {"quick": options.quick}, sections)
    missed = [figure.name for section in sections.values() for figure in section.figures if not figure.met]
    print(f"\n{len(missed)} of the bars are missed" + "".join(f"\n  {name}" for name in missed))
    return 1 if missed else 0


def _write(folder: Path, environment: dict[str, object], sections: dict[str, Section]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    document = {"environment": environment, "sections": {k: v.as_json() for k, v in sections.items()}}
    (folder / "results.json").write_text(json.dumps(document, indent=1))
    plot(sections, folder / "results.png")
    print(f"\nwritten: {folder / 'results.json'}, {folder / 'results.png'}")


def _arguments(arguments: list[str]) -> argparse.Namespace:
    listed = "\n".join(f"  {name:<12}{what}" for name, what in MEASUREMENTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"{__doc__}\nMeasurements:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*MEASUREMENTS, []], help="default: all")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder (default: benchmarks/results)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
