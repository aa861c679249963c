"""The temperature by which logits are divided, so that probabilities say how often answers are right. It is found on
what heads answered out of fold.
"""

import numpy as np
from scipy.optimize import minimize_scalar

from handful.bundle.heads import Floats, LinearHead
from services.trainer.worker.cross_validation import REPEATS, Folds, Labels, OutOfFold, Step

# How much the temperature is held near 1: folds that are told apart without an error would drive it to 0.
PRIOR = 4.0
# The range that is searched, of the logarithm.
_FROM, _TO = -7.0, 7.0


def temperature(logits: Floats, labels: Labels, *, smoothed: bool) -> float:
    """The T that minimises n x CE(logits / T) + 4 (ln T)^2, of logits float32[repeats, n, classes]; CE is the mean
    cross-entropy in nats.

    `smoothed`: an example counts as (n / 2 + 1) / (n / 2 + 2) of its class and the rest as the others, which for two
    classes of equal size is what J. Platt has (Probabilistic Outputs for Support Vector Machines, 1999).
    """
    _, num_rows, num_classes = logits.shape
    wide = logits.astype(np.float64)
    targets = np.eye(num_classes)[labels]
    if smoothed:
        missing = 1 / (num_rows / 2 + 2)
        targets = targets * (1 - missing) + (1 - targets) * missing / (num_classes - 1)
    # CE(T) = mean of log-sum-exp(logits / T) - what the targets weigh of the logits / T
    wide -= wide.max(axis=2, keepdims=True)
    weighed = float((wide * targets).sum(axis=2).mean())

    def loss(log_temperature: float) -> float:
        cold = float(np.exp(-log_temperature))
        spread = float(np.log(np.exp(wide * cold).sum(axis=2)).mean())
        return float(num_rows * (spread - weighed * cold) + PRIOR * log_temperature**2)

    return float(np.exp(minimize_scalar(loss, bounds=(_FROM, _TO), method="bounded").x))


def cross_fitted(answers: OutOfFold, labels: Labels, folds: Folds, step: Step, *, smoothed: bool) -> OutOfFold:
    """The answers, those to each fold divided by the temperature that the others ask for: what is measured on them is
    not measured on what the temperature was fitted on. The others' first five repeats are asked: all of them, for each
    fold of each, would take the square of the time. `step` is called after each of `num_fits`, and may raise.
    """
    logits = np.empty_like(answers.logits)
    for repeat, held_out in folds.held_out():
        found = temperature(answers.logits[:REPEATS, ~held_out], labels[~held_out], smoothed=smoothed)
        logits[repeat, held_out] = answers.logits[repeat, held_out] / np.float32(found)
        step()
    return folds.answered(logits)


def tempered(head: LinearHead, temperature: float) -> LinearHead:
    """The head with its logits divided by the temperature."""
    divisor = np.float32(temperature)
    return LinearHead(head.normalization, head.weight / divisor, head.bias / divisor, head.mean)
