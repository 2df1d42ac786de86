"""The training loop: one for every model and every engine.

Every update is a function of the weights, the optimiser's moments, the seed, the update's number
and, with dropout, the number of ranks.  A run that is stopped anywhere and resumed with the same
number of ranks is bit-identical to one that never stopped.
"""

from __future__ import annotations

import torch

from cad.interrupt import StopFlag
from cad.training.engines import require_ranks, start_engine
from cad.training.training import Training, TrainingSummary


def train(training: Training, stop: StopFlag, *, unused_parameters: bool = False) -> TrainingSummary:
    """Train in place, resuming from the training's folder where an earlier run left checkpoints.

    ``unused_parameters`` says that some parameters get no gradient in some updates.
    All ranks call this with equal arguments and weights, and all end with the trained weights.

    Raises :class:`CadError` when the loss is not finite or the objective's watchdog objects; after saving,
    :class:`~cad.training.training.PrunedError` when its validation gives up, and
    :class:`~cad.interrupt.InterruptedRun` when ``stop`` is set on any rank.
    """
    settings, ranks, model = training.settings, training.ranks, training.model
    require_ranks(settings, training.objective.section, ranks.size)
    optimiser = training.resume()
    engine = start_engine(settings, model, ranks, training.device, unused_parameters=unused_parameters)
    model.train()
    if optimiser:
        engine.load_optimiser_state(optimiser)
        del optimiser
    with training.recording():
        vote = ranks.vote(stop)
        while not training.finished:
            torch.manual_seed(training.mask_seed)
            batches = training.batches()
            training.add(engine.update(batches, training.objective, training.rate_factor), batches)
            training.report(engine.collect)
            stopping = vote()
            if training.is_due_to_save or stopping:
                engine.collect()
                training.pass_time()
                training.save(engine.optimiser_state())
                training.require_going_on()
            if stopping and not training.finished:
                ranks.barrier()  # the first rank's checkpoint is on disk
                stop.raise_if_set(training.place)
        vote.close()
        engine.collect()
        training.pass_time()
    return training.summary
