"""The verdict on a run and its reasons: underfitting, overfitting, a good fit, or why none of these can be said.

Pure arithmetic on `Evidence`; a difference counts only where it exceeds its own uncertainty. The gap between training
and validation: Goodfellow, Bengio & Courville 2016, "Deep Learning", section 5.2; what to change: section 11.3 there.
"""

import math
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from mlcli.report.advice import Advice, advise
from mlcli.report.evidence import Evidence, last_third, scatter, standard_error, trend
from mlcli.report.record import SHARES, in_words, score_text
from mlcli.text import number, plural

Kind = Literal[
    "diverged",
    "too short to tell",
    "still improving",
    "worse than a baseline",
    "too noisy to tell",
    "overfitting",
    "underfitting",
    "fit unknown",
    "good fit",
]

SURE = 2.0
"""Standard errors from which a difference is taken to be real: 95 % of a normal distribution lie within."""
GAP_POINTS = 0.05
"""Gap that matters of a metric that ends at 1, such as accuracy: below 5 points, closing it all would hardly show."""
GAP_RATIO = 1.25
"""Validation error over training error that matters for errors in the target's unit (rmse, mae)."""
HARDLY = 0.02
"""Share of the largest validation error of the run up to which a gap between errors does not matter: closing it all
would hardly show."""
GAP_OF_LOSS = 0.1
"""Gap between the losses that matters, as a share of the training loss after the first epoch."""
RISEN = 1.2
"""Validation loss over its lowest value from which it is said to have risen again."""
DIVERGING = 2.0
"""Training loss at the end over that of the best epoch from which a worse validation score is called divergence."""
LR_SPENT = 0.1
"""Learning rate at the end over that before the last third, up to which a rise is due to the schedule, and ends with
it: longer training of this run would not go on with it."""
HALF_WAY = 0.5
"""A training score, or a fall of the training loss, nearer to guessing than to perfect is called underfitting."""
FEWEST_EVALUATIONS = 4
"""Below, a curve has no shape yet."""
DECLINED = 3.0
"""Times the scatter of its curve by which the last third lies below the best epoch, from which validation is said to
have got worse: more than SURE, for the best of many epochs was partly chance."""
FALL = 0.02
"""And by how much at least, of a metric that ends at 1; of errors, as a share of the best."""
WORTHWHILE = 1.0
"""Further gain, in standard errors of the score, that the trend must promise in as long again as it was looked at."""


@dataclass(frozen=True)
class Verdict:
    """kind: in a few words; reasons: how it was judged, a sentence each; advice: what to try next, best first."""

    kind: Kind
    reasons: tuple[str, ...]
    advice: tuple[Advice, ...] = ()


@dataclass(frozen=True)
class Gap:
    """Between training and validation.

    size: validation worse than training by so much; least: what matters; sure: its uncertainty, inf if unknown.
    """

    size: float
    least: float
    sure: float
    words: str

    @property
    def matters(self) -> bool:
        """Return whether it is large enough to call it overfitting."""
        return self.size >= self.least

    @property
    def real(self) -> bool:
        """Return whether it exceeds its uncertainty."""
        return self.size > self.sure

    @property
    def hidden(self) -> bool:
        """Return whether within its uncertainty it could be twice as large as one that matters."""
        return self.size + self.sure > 2 * self.least


def judge(e: Evidence) -> Verdict | None:
    """Return the verdict on a run; None if nothing was ever measured."""
    kind, reasons = _kind(e)
    return Verdict(kind, tuple(reasons), advise(kind, e)) if reasons else None


def _kind(e: Evidence) -> tuple[Kind, list[str]]:
    """Return the first that applies, in an order in which what would mislead the later ones comes first."""
    if e.state == "diverged":
        return "diverged", [f"the loss was no longer finite after epoch {e.train_loss[-1][0] if e.train_loss else 0}"]
    gap, baseline = measure_gap(e), _against_baselines(e)
    known = [gap.words] if gap else []
    known += [baseline[1]] if baseline else []
    if len(e.curve) < FEWEST_EVALUATIONS:
        count = plural(len(e.curve), "evaluation")
        return "too short to tell", [f"a curve needs {FEWEST_EVALUATIONS} points or more, this one has {count}", *known]
    rise, decline = _rise(e), _decline(e)
    if decline and decline[0] == "diverged":
        return "diverged", [decline[1], *known]
    if rise and rise[0]:
        return "still improving", [rise[1], *known]
    if baseline and baseline[0]:
        return "worse than a baseline", [baseline[1], *([gap.words] if gap else [])]
    remarks = [*known, *([rise[1]] if rise else []), *_loss_rose(e)]
    if nothing := _no_better_than_one_answer(e):
        return "underfitting", [nothing, *remarks]
    if decline and decline[0] == "overfitting":
        return "overfitting", [decline[1], *known]
    if gap and gap.matters and gap.real:
        return "overfitting", remarks
    if decline or (gap and (gap.hidden or gap.matters)):
        return "too noisy to tell", [*([decline[1]] if decline else []), *known]
    if low := _learned_little(e):
        return "underfitting", [low, *remarks]
    if not gap:
        lacks = "a validation split" if e.watched == "train" else "a training score or loss to compare with"
        return "fit unknown", [f"without {lacks}, overfitting cannot be distinguished from a good fit", *remarks]
    return "good fit", remarks


def measure_gap(e: Evidence) -> Gap | None:
    """Measure by the watched metric where training samples were scored in the same way, else by the loss.

    None where neither is known. Behind ± stand SURE standard errors of the validation score; no ± where unknown.
    """
    if e.train is None or e.val is None:
        return _gap_of_losses(e)
    error = e.val_error
    both = f"training {score_text(e.metric, e.train)}, {_watched(e)} {score_text(e.metric, e.val)} {in_words(e.metric)}"
    of = f" on {e.samples:,} samples" if e.samples else ""
    if e.direction == "max":  # every such metric here ends at 1
        size, sure = e.train - e.val, SURE * (math.inf if error is None else error)
        about = f" ± {100 * sure:.1f}" if error else ""
        words = f"{both}; gap {100 * size:.1f}{about} points{of}"
        return Gap(size, GAP_POINTS, sure, words)
    if e.metric == "loss" or e.train <= 0:
        return _gap_of_losses(e)
    ratio, sure = e.val / e.train, SURE * (math.inf if error is None else error) / e.train
    about = f" ± {sure:.2f}" if error else ""
    words = f"{both}; {ratio:.2f}{about} times as much{of}"
    largest = max((value for _, value in e.curve), default=0.0)
    if ratio >= GAP_RATIO and e.val - e.train < HARDLY * largest:
        words += f", but little beside the {number(largest)} that it was"
    return Gap(ratio - 1, max(GAP_RATIO - 1, HARDLY * largest / e.train), sure, words)


def _gap_of_losses(e: Evidence) -> Gap | None:
    """Compare at the best epoch. The training loss is a mean over its epoch, with dropout and augmentation at work."""
    pairs = {epoch: (value, dict(e.val_loss)[epoch]) for epoch, value in e.train_loss if epoch in dict(e.val_loss)}
    if not pairs:
        return None
    epoch = e.best_epoch if e.best_epoch in pairs else max(pairs)
    train, val = pairs[epoch]
    least, error = GAP_OF_LOSS * max(e.train_loss[0][1], 1e-12), scatter(e.val_loss)
    sure = SURE * (math.inf if error is None else error)
    words = f"at epoch {epoch} the training loss was {train:.3g} (mean over its epoch), {_watched(e)} loss {val:.3g}"
    return Gap(val - train, least, sure, words)


def _rise(e: Evidence) -> tuple[bool, str] | None:
    """Return whether the trend goes on, and a sentence, if the watched curve's last third rises to its best.

    Significantly, and enough to be worth waiting for. A rise after an earlier best only recovers what was lost.
    """
    line, late = trend(e.curve), last_third(e.curve)
    best = max(e.curve, key=lambda point: e.sign * point[1])[0]
    if not line or best < late[0][0] or e.sign * line.slope <= line.significant:
        return None
    gain, error = abs(line.slope) * line.epochs, e.val_error
    if gain <= (WORTHWHILE * error if error else 0.02 * abs(e.curve[-1][1] - e.curve[0][1])):
        return None
    span = f"{in_words(e.metric)} from {score_text(e.metric, late[0][1])} to {score_text(e.metric, late[-1][1])}"
    words = f"over the last {line.epochs} epochs {_watched(e)} {span}"
    rates = [rate for epoch, rate in e.lr if epoch >= late[0][0]]
    if rates and rates[-1] <= LR_SPENT * rates[0]:
        return False, f"{words} while the learning rate fell to {rates[-1]:.2g}, which ends the trend"
    return True, f"{words}, and the trend goes on"


def _against_baselines(e: Evidence) -> tuple[bool, str] | None:
    """Return whether the best classical model is significantly better, and the comparison in words."""
    simple = e.baselines
    best = simple.best(e.metric, e.direction) if simple else None
    if simple is None or best is None or e.score is None:
        return None
    theirs = best.scores[e.metric]
    own = e.score_error or standard_error(e.metric, e.score, simple.samples) or 0.0
    sure = SURE * math.hypot(own, standard_error(e.metric, theirs, simple.samples) or 0.0)
    ahead = e.sign * (e.score - theirs)
    numbers = f"{score_text(e.metric, e.score)} against {score_text(e.metric, theirs)}"
    relation = "worse than" if ahead < -sure else "better than" if ahead > sure else "about as good as"
    few = f" (on {best.rows:,} of {simple.rows_there:,} rows)" if best.rows < simple.rows_there else ""
    which = f"best simple model, {best.name}{few}"
    if simple.left_out:
        which = f"best simple model of those there was time for, {best.name}{few}"
        numbers += f"; left out: {', '.join(simple.left_out)}"
    return ahead < -sure, f"on {e.split} it is {relation} the {which}: {numbers}"


def _no_better_than_one_answer(e: Evidence) -> str:
    """A sentence if the answers are no better than one answer for all samples."""
    if e.metric == "r2" and e.train is not None and e.train <= 0:
        return "even its training samples are answered no better than by their mean"
    classes = len(e.data.get("class_names") or ())
    if e.metric != "accuracy" or e.val is None or e.macro_f1 is None or classes < 2:
        return ""
    of_one_class = 2 * e.val / (1 + e.val) / classes
    return f"all {_watched(e)} samples are given the same class" if abs(e.macro_f1 - of_one_class) < 1e-6 else ""


def _learned_little(e: Evidence) -> str:
    """A sentence if even the training samples are answered badly, and no simple model does better on these data."""
    best = e.baselines.best(e.metric, e.direction) if e.baselines else None
    if e.baselines and best and e.train is not None and e.score is not None:
        trivial, theirs = e.baselines.entries[0].scores.get(e.metric), best.scores[e.metric]
        if e.sign * (e.train - theirs) < -SURE * (e.score_error or 0.0):
            return f"even on its training samples it does worse than {best.name} on unseen ones"
        on_par = e.sign * (e.score - theirs) >= -(e.score_error or 0.0)
        perfect = 1.0 if e.direction == "max" else 0.0
        if trivial is None or on_par or trivial == perfect:
            return ""
        way = (e.train - trivial) / (perfect - trivial)
        return f"on its training samples it is {way:.0%} of the way from guessing to perfect" if way < HALF_WAY else ""
    train = e.val if e.watched == "train" else e.train
    if e.metric in SHARES and train is not None:
        return "it answers less than half of its training samples right" if train < HALF_WAY else ""
    if len(e.train_loss) < 2 or e.train_loss[0][1] <= 0:
        return ""
    left = e.train_loss[-1][1] / e.train_loss[0][1]
    return f"the training loss still is {left:.0%} of what it was after the first epoch" if left > HALF_WAY else ""


def _decline(e: Evidence) -> tuple[Kind, str] | None:
    """Return the verdict where validation was best long before the end and then got worse, and a sentence.

    The samples are the same each time, so that the scatter of the curve says whether it got worse on these; whether it
    would on others, only their standard error does, without which it is no overfitting.
    """
    losses, error = dict(e.train_loss), scatter(e.curve)
    if not error or not e.best_epoch or e.best_epoch not in losses or e.val is None:
        return None
    late = last_third(e.curve)
    level = fmean(value for _, value in late)
    worse_by = e.sign * (e.val - level)
    enough = max(DECLINED * error, FALL * (1.0 if e.direction == "max" else abs(e.val)))
    if late[0][0] <= e.best_epoch or worse_by <= enough:
        return None
    words = (f"{_watched(e)} {in_words(e.metric)} was best at epoch {e.best_epoch} of {e.curve[-1][0]}, "
             f"{score_text(e.metric, e.val)}, and {score_text(e.metric, level)} in the last third")  # fmt: skip
    then, now = losses[e.best_epoch], losses[max(losses)]
    if 0 < DIVERGING * then <= now:
        return "diverged", f"{words}, while the training loss rose from {then:.3g} to {now:.3g}"
    if now >= then:
        return None
    falling = f"{words}, while the training loss went on falling"
    if worse_by > SURE * (e.val_error or 0.0):
        return "overfitting", falling
    return "too noisy to tell", f"{falling}; on so few samples this may be chance"


def _loss_rose(e: Evidence) -> list[str]:
    """Say that validation loss rises while training loss falls: overconfidence, even where answers stay right."""
    if len(e.val_loss) < FEWEST_EVALUATIONS or not e.train_loss:
        return []
    epoch, lowest = min(e.val_loss, key=lambda point: point[1])
    last = e.val_loss[-1][1]
    if lowest <= 0 or last < RISEN * lowest or e.train_loss[-1][1] > dict(e.train_loss).get(epoch, 0.0):
        return []
    return [f"{_watched(e)} loss rose from {lowest:.3g} at epoch {epoch} to {last:.3g} while training loss fell: "
            "overconfident predictions"]  # fmt: skip


def _watched(e: Evidence) -> str:
    return "validation" if e.watched == "val" else e.watched
