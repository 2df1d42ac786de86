"""Time and memory of an update by the compressions that it unrolls, activations kept or computed again.

``python benchmarks/depth.py [--json FILE] [--quick]`` trains the default CompressedAD (window 40, 16 latents)
on made-up histories, 16 windows a batch, one thread, each setting in a process of its own.  Times are
CPU-seconds, medians over updates; memory is the process's peak beyond what it has before the first update.
``--quick`` only shows that it runs.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cad.envs.registry import task_family
from cad.histories.made_up import made_up_histories
from cad.process import MAXRSS_UNIT, prepare_process
from cad.schema import Config
from cad.storage import write_json
from cad.training.engines import start_engine
from cad.training.learner import build_training

DEPTHS = (0, 1, 3, 7, 15, 31)
WINDOW = 40


def measure(depth: int, again: bool, updates: int, quick: bool) -> dict[str, Any]:
    """Of this process: CPU-seconds of an update, and bytes that updates need at most."""
    prepare_process(1)
    model = {"kind": "compressed_ad", "n_transit": WINDOW, "n_latent": 16, "max_compression_depth": depth}
    # All segments are as long as they can be: memory is that of the largest batch.
    model |= {"min_compress_length": WINDOW}
    if quick:
        model |= {"n_embd": 16, "n_layer": 1, "n_head": 2}
    steps = max(1000, (depth + 1) * WINDOW)
    config = Config.model_validate(
        {
            "source": {"steps_per_stream": steps},
            "model": model,
            "train": {"batch_size": 16, "max_episode_gap": 1, "activation_checkpointing": again},
        }
    )
    arrays = made_up_histories(task_family(config.env), steps)
    with tempfile.TemporaryDirectory() as folder:
        training = build_training(config, arrays).training(
            Path(folder), run_id="benchmark", device=torch.device("cpu")
        )
        engine = start_engine(training.settings, training.model, training.ranks, training.device)
        training.model.train()
        before, taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
        for _ in range(updates + 1):
            begun = time.process_time()
            engine.update(training.batches(), training.objective, training.rate_factor)
            taken.append(time.process_time() - begun)
            training.step += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": statistics.median(taken[1:]), "bytes": (peak - before) * MAXRSS_UNIT}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as JSON")
    parser.add_argument("--quick", action="store_true", help="seconds, not minutes; the numbers mean nothing")
    parser.add_argument("--measure", nargs=2, type=int, metavar=("DEPTH", "AGAIN"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        depth, again = options.measure
        print(json.dumps(measure(depth, bool(again), 1 if options.quick else 5, options.quick)))
        return 0
    rows = []
    print(f"{'depth':>6}{'steps':>8}{'ms':>9}{'MB':>7}{'again: ms':>12}{'MB':>7}")
    for depth in DEPTHS[:2] if options.quick else DEPTHS:
        row: dict[str, Any] = {"depth": depth, "steps": 16 * (depth + 1) * WINDOW}
        for name, again in (("kept", 0), ("again", 1)):
            words = [sys.executable, __file__, "--measure", str(depth), str(again)]
            words += ["--quick"] if options.quick else []
            run = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            row[name] = json.loads(run.stdout.splitlines()[-1])
        rows.append(row)
        kept, again_ = row["kept"], row["again"]
        print(
            f"{depth:6}{row['steps']:8,}{1e3 * kept['seconds']:9.0f}{kept['bytes'] / 1e6:7.0f}"
            f"{1e3 * again_['seconds']:12.0f}{again_['bytes'] / 1e6:7.0f}"
        )
    if options.json:
        write_json(options.json, {"quick": options.quick, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
