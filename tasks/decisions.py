"""From scores to answers: a temperature that makes confidence honest, thresholds for answering.

t = temperature(scores, labels)         # scores / t are calibrated on these examples
best_thresholds(probabilities, labels)  # of several labels of a text: one each, by F1
confidence_threshold(probabilities, labels)  # below which an answer is more often wrong
"""

import numpy as np

STEPS = 60  # of a bisection: enough for all digits of a float64


def probabilities(scores: np.ndarray, several: bool, temperature: float = 1.0) -> np.ndarray:
    """(N, labels) scores -> the probability of every label, in float64 so that they add up to 1.

    Args:
        several: a text may have several labels, each a decision of its own.
        temperature: what scores are divided by.
    """
    logits = scores.astype(np.float64) / temperature
    if several:
        # Of large scores exp() of the positive ones alone would overflow.
        small = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1, small) / (1 + small)
    logits = np.exp(logits - logits.max(1, keepdims=True))
    return logits / logits.sum(1, keepdims=True)


def temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """What scores (N, labels) have to be divided by for the least cross-entropy on examples.

    Guo et al., "On Calibration of Modern Neural Networks" (2017). Labels are ids (N,), or 0 and 1
    (N, labels).
    """
    several = labels.ndim == 2
    scores = scores.astype(np.float64)
    truth = labels if several else np.eye(scores.shape[1])[labels]

    def slope(inverse: float) -> float:
        # The derivative of the cross-entropy by 1 / temperature, which rises.
        p = probabilities(scores, several, 1 / inverse)
        return float(np.sum((p - truth) * scores))

    low, high = -6.0, 6.0  # logarithms of the inverse
    for _ in range(STEPS):
        middle = (low + high) / 2
        if slope(np.exp(middle)) > 0:
            high = middle
        else:
            low = middle
    return float(np.exp(-(low + high) / 2))


def best_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> list[float]:
    """For each label the probability from which on answering it has the largest F1.

    (N, labels) each, labels of 0 and 1. A label that no example has keeps one half.
    """
    found = []
    for p, truth in zip(probabilities.T, labels.T, strict=True):
        order = np.argsort(-p, kind="stable")
        right = np.cumsum(truth[order])
        f1 = 2 * right / (np.arange(1, len(p) + 1) + truth.sum())
        # Between the probabilities of two examples; equal ones cannot be told apart.
        p = p[order]
        following = np.append(p[1:], 0.0)
        f1[p == following] = -1
        best = int(f1.argmax())
        found.append(between(following[best], p[best]) if truth.any() else 0.5)
    return found


def between(low: float, high: float) -> float:
    """A threshold that only the higher of two numbers reaches."""
    middle = float(low + high) / 2
    # Of neighbours the middle is one of them.
    return middle if middle > low else float(high)


def confidence_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The probability below which the most probable label is left unsaid.

    A wrong answer costs as much as a right one gains. 0: all are worth saying.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    order = np.argsort(-confidence, kind="stable")
    gain = np.cumsum(np.where(right[order], 1, -1))
    confidence = confidence[order]
    following = np.append(confidence[1:], 0.0)
    gain[confidence == following] = -len(gain)
    # Of equal gains the one that answers more.
    best = len(gain) - 1 - int(gain[::-1].argmax())
    return 0.0 if best == len(gain) - 1 else between(following[best], confidence[best])


def balanced_weights(labels: np.ndarray, n_labels: int) -> list[float]:
    """Weights that give every label the same share of the loss.

    Of ids (N,) N / (labels that occur x how often), as scikit-learn's "balanced" has it; of 0 and 1
    (N, labels) how many texts lack a label for each that has it, its weight where it is present.
    """
    if labels.ndim == 2:
        present = labels.sum(0)
        return [float(w) for w in (len(labels) - present) / np.maximum(present, 1)]
    counts = np.bincount(labels, minlength=n_labels)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    # What does not occur needs none.
    return [float(w) if n else 1.0 for w, n in zip(weights, counts, strict=True)]
