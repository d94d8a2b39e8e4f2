"""How good answers are, by the measures of the field, and how good the best constant answer is; it knows no network."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Figures = dict[str, float]


def of_classes(predicted: NDArray[np.int64], true: NDArray[np.int64], classes: int) -> Figures:
    """Accuracy and macro F1, the mean of the classes' F1 (0 where a class is neither told nor there), both (n,).

    Beside them those of always telling the class that is commonest here.
    """
    commonest = np.full_like(true, np.bincount(true, minlength=classes).argmax())
    found: Figures = {}
    for name, answers in (("", predicted), ("majority_", commonest)):
        found[f"{name}accuracy"] = float((answers == true).mean())
        found[f"{name}macro_f1"] = macro_f1(answers, true, classes)
    return found


def macro_f1(predicted: NDArray[np.int64], true: NDArray[np.int64], classes: int) -> float:
    """The mean over classes of 2 right / (told + there)."""
    right, told, there = (
        np.bincount(numbers, minlength=classes) for numbers in (true[predicted == true], predicted, true)
    )
    return float((2 * right / np.maximum(told + there, 1)).mean())


def of_scores(predicted: NDArray[np.float64], true: NDArray[np.float64], mean: float) -> Figures:
    """Correlations by value (Pearson) and by rank (Spearman), and the mean squared error; beside it that of `mean`.

    A correlation with what is constant is given as 0.
    """
    return {
        "pearson": correlation(predicted, true),
        "spearman": correlation(ranks(predicted), ranks(true)),
        "mse": float(np.square(predicted - true).mean()),
        "mean_mse": float(np.square(true - mean).mean()),
    }


def correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Pearson's r of two (n,)."""
    a, b = one - one.mean(), other - other.mean()
    norm = float(np.sqrt(np.square(a).sum() * np.square(b).sum()))
    return float((a * b).sum() / norm) if norm else 0.0


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    found: NDArray[np.float64] = (last - (counts - 1) / 2)[which]
    return found


def normalised(answer: str) -> str:
    """An answer without case, punctuation, articles and extra spaces, as SQuAD has it (Rajpurkar et al. 2016)."""
    kept = "".join(mark for mark in answer.lower() if mark not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def exact_match(answer: str, right: Sequence[str]) -> float:
    """Whether it is one of the right answers, or none where there is none."""
    return float(any(normalised(answer) == normalised(one) for one in right or [""]))


def token_f1(answer: str, right: Sequence[str]) -> float:
    """The F1 of its words, bag by bag, with the right answer that it is nearest to."""
    return max(_overlap(normalised(answer).split(), normalised(one).split()) for one in right or [""])


def _overlap(told: list[str], there: list[str]) -> float:
    if not told or not there:
        return float(told == there)
    both = sum((Counter(told) & Counter(there)).values())
    return 2 * both / (len(told) + len(there))
