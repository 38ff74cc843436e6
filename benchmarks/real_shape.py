"""Prove the product at real size without the weights.

    python -m benchmarks.real_shape sdxl --folder DIR [--keep]
    python -m benchmarks.real_shape wan --folder DIR [--keep]

Each writes a checkpoint of the model's true configuration with random weights into DIR, loads it in a fresh
process as the worker does, runs it, and prints time and private memory by stage.
"""

from __future__ import annotations

import importlib
import sys

MODELS = ("sdxl", "wan")


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in MODELS:
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    module = importlib.import_module(f"benchmarks._real_shape_{arguments[0]}")
    return int(module.main(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
