"""What a Slurm task runs, inside the image where there is one."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

import cad
from cad.experiments.job import stage_job
from cad.experiments.plan import Stage
from cad.experiments.stages import Resources
from cad.interrupt import STOP_SIGNALS, InterruptedRun
from cad.launch.script import SAVED


def slurm_task(root: Path, stage: Stage, resources: Resources) -> None:
    """Run a stage; exit with :data:`SAVED` when a signal stopped it.

    Not an exception: submitit would record one as the job's final result.
    """
    sys.stdout.write(f"cad {cad.__version__} from {Path(cad.__file__).parent}\n")
    try:
        stage_job(root, stage, resources, None)
    except InterruptedRun as stopped:
        logging.getLogger(__name__).warning("%s", stopped)
        sys.exit(SAVED)
    # The stage is done; a signal on the way out must not make a failure of it.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
