"""Learning-rate schedules."""

import math

SCHEDULES = ("cosine", "linear", "constant", "wsd")


def learning_rate(
    schedule: str, step: int, steps: int, peak: float, warmup: int = 0, min_ratio: float = 0.0, decay: float = 0.2
) -> float:
    """Return the learning rate of an update: linear warm-up over `warmup` updates, then the schedule.

    cosine: half a cosine down to peak · min_ratio (Loshchilov & Hutter 2016). linear: a straight line to the same.
    constant: the peak. wsd: the peak, and a straight line down in the last fraction `decay` of all steps (warm-up, stable, decay;
    Hu et al. 2024), so that a run can be made longer before the decay.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    if schedule == "constant":
        return peak
    if schedule == "wsd":
        progress = max(0.0, (step - (1 - decay) * steps) / max(1e-9, decay * steps))
    falling = 0.5 * (1 + math.cos(math.pi * progress)) if schedule == "cosine" else 1 - min(1.0, progress)
    return peak * (min_ratio + (1 - min_ratio) * falling)
