"""Metrics of retrieval and classification."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Optional, Sequence, Tuple, Union

import numpy as np

from . import _records as r
from ._arrays import as_array, check_shape, new_array, pointer
from ._calls import call
from ._library import library
from .context import Context, context_of

TIES = {
    "for_match": r.constant("TIES_FOR_MATCH"),
    "mean": r.constant("TIES_MEAN"),
    "against_match": r.constant("TIES_AGAINST_MATCH"),
}


@dataclass(frozen=True)
class RetrievalMetrics:
    """r1, r5, r10: share of queries whose match is among the first 1, 5, 10; ranks count from 1."""

    r1: float
    r5: float
    r10: float
    median_rank: float
    mean_rank: float


def _retrieval(ties: str) -> Any:
    if ties not in TIES:
        raise ValueError(f"ties must be one of {', '.join(TIES)}, not {ties!r}")
    return r.new(r.cavmae_retrieval_metrics, ties=TIES[ties])


def _retrieval_of(record: Any) -> RetrievalMetrics:
    return RetrievalMetrics(**{name: getattr(record, name) for name in RetrievalMetrics.__dataclass_fields__})


def retrieval_metrics(
    queries: Any, gallery: Any, *, ties: str = "for_match", context: Optional[Context] = None
) -> RetrievalMetrics:
    """Embeddings float32 [count, dim] by cosine; row i of one matches row i of the other.

    ties: what scores that equal the match's count: nothing ("for_match", the paper's), half a place each ("mean"), or
    a place each ("against_match").
    """
    asked, among = as_array(queries, "queries", np.float32, 2), as_array(gallery, "gallery", np.float32, 2)
    check_shape(among, "gallery", asked.shape, "that of queries")
    record = _retrieval(ties)
    call(
        library().cavmae_retrieval_from_embeddings,
        context_of(context)._handle,
        pointer(asked, ctypes.c_float),
        pointer(among, ctypes.c_float),
        *asked.shape,
        ctypes.byref(record),
    )
    return _retrieval_of(record)


def retrieval_from_similarity(similarity: Any, *, ties: str = "for_match") -> RetrievalMetrics:
    """The same from scores, float32 [count, count]: row = query, the match on the diagonal."""
    scores = as_array(similarity, "similarity", np.float32, 2)
    check_shape(scores, "similarity", (len(scores), len(scores)), "[count, count]")
    record = _retrieval(ties)
    call(library().cavmae_retrieval_from_similarity, pointer(scores, ctypes.c_float), len(scores), ctypes.byref(record))
    return _retrieval_of(record)


@dataclass(frozen=True, eq=False)
class ClassMetrics:
    """Means are over the scored classes, those with positives and negatives. average_precision, auc: float64 [classes],
    NaN for classes left out."""

    mean_average_precision: float
    mean_auc: float
    d_prime: float
    scored_classes: int
    lacking_classes: int
    average_precision: Any
    auc: Any


def _subset(subset: Optional[Sequence[Any]], classes: int) -> Any:
    """A row of 0 and 1, from one or from indices of classes."""
    if subset is None:
        return None
    given = np.asarray(subset)
    if given.dtype == np.bool_:
        check_shape(given, "subset", (classes,), "[classes]")
        return given.astype(np.uint8)
    if given.ndim != 1 or (given.size and not np.issubdtype(given.dtype, np.integer)):
        raise TypeError("subset must be booleans [classes], or indices of classes")
    if given.size and (given.min() < 0 or given.max() >= classes):
        raise ValueError(f"subset has a class that is not among 0 to {classes - 1}")
    mask = np.zeros(classes, np.uint8)
    mask[given.astype(np.int64)] = 1
    return mask


def classification_metrics(
    scores: Any,
    targets: Any,
    *,
    subset: Optional[Sequence[Any]] = None,
    as_reference: bool = False,
    context: Optional[Context] = None,
) -> ClassMetrics:
    """scores, targets: float32 [count, classes], target > 0.5 = positive.

    subset: indices of the classes that count, or booleans [classes]. as_reference: to compare with the reference's
    logs, which count classes without positives.
    """
    given, wanted = as_array(scores, "scores", np.float32, 2), as_array(targets, "targets", np.float32, 2)
    check_shape(wanted, "targets", given.shape, "that of scores")
    count, classes = given.shape
    precision, auc = new_array((classes,), np.float64), new_array((classes,), np.float64)
    mask = _subset(subset, classes)
    record = r.new(r.cavmae_class_metrics, subset=pointer(mask, ctypes.c_uint8), as_reference=int(as_reference))
    call(
        library().cavmae_classification_metrics,
        context_of(context)._handle,
        pointer(given, ctypes.c_float),
        pointer(wanted, ctypes.c_float),
        count,
        classes,
        pointer(precision, ctypes.c_double),
        pointer(auc, ctypes.c_double),
        ctypes.byref(record),
    )
    return ClassMetrics(
        record.mean_average_precision,
        record.mean_auc,
        record.d_prime,
        record.scored_classes,
        record.lacking_classes,
        precision,
        auc,
    )


def _scores_and_target(scores: Any, target: Any) -> Tuple[Any, Any]:
    given, wanted = as_array(scores, "scores", np.float32, 2), as_array(target, "target", np.int64, 1)
    check_shape(wanted, "target", (len(given),), "[count]")
    return given, wanted


def top1_accuracy(scores: Any, target: Any) -> float:
    """Share of rows of scores, float32 [count, classes], whose largest is at target, int64 [count]."""
    given, wanted = _scores_and_target(scores, target)
    out = ctypes.c_double()
    call(
        library().cavmae_top1_accuracy,
        pointer(given, ctypes.c_float),
        pointer(wanted, ctypes.c_int64),
        *given.shape,
        ctypes.byref(out),
    )
    return out.value


@dataclass(frozen=True, eq=False)
class TopkMetrics:
    """accuracy: share of rows with the target among the k largest. per_class: float64 [classes]."""

    accuracy: float
    mean_class_accuracy: float
    scored_classes: int
    rows: int
    per_class: Any


def topk_accuracy(
    scores: Any,
    target: Any,
    k: int = 5,
    *,
    subset: Union[Sequence[Any], None] = None,
    context: Optional[Context] = None,
) -> TopkMetrics:
    """Of scores float32 [count, classes] and target int64 [count]; subset: the classes that compete."""
    given, wanted = _scores_and_target(scores, target)
    count, classes = given.shape
    share, mask = new_array((classes,), np.float64), _subset(subset, classes)
    record = r.new(r.cavmae_topk_metrics, subset=pointer(mask, ctypes.c_uint8))
    call(
        library().cavmae_topk_accuracy,
        context_of(context)._handle,
        pointer(given, ctypes.c_float),
        pointer(wanted, ctypes.c_int64),
        count,
        classes,
        k,
        pointer(share, ctypes.c_double),
        ctypes.byref(record),
    )
    return TopkMetrics(record.accuracy, record.mean_class_accuracy, record.scored_classes, record.rows, share)
