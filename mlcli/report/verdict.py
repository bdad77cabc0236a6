"""How a run went, in words, and how that was judged: underfitting, overfitting, a good fit, or none of these.

Pure arithmetic on `Evidence`. The gap between training and validation against its own uncertainty: Goodfellow, Bengio &
Courville 2016, "Deep Learning", section 5.2; what to change: section 11.3 there.
"""

from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from mlcli.report.advice import Advice, advise
from mlcli.report.evidence import Evidence, last_third, scatter, standard_error, trend
from mlcli.report.record import SHARES, score_text
from mlcli.text import plural

Kind = Literal[
    "diverged",
    "too short to tell",
    "still improving",
    "worse than a baseline",
    "too noisy to tell",
    "overfitting",
    "underfitting",
    "good fit",
]

SURE = 2.0
"""Standard errors from which a difference is taken to be real: 95 % of a normal distribution lie within."""
GAP_POINTS = 0.05
"""Gap that matters of a metric that ends at 1, such as accuracy: below 5 points, closing it all would hardly show."""
GAP_RATIO = 1.25
"""Validation error over training error that matters for errors in the target's unit (rmse, mae)."""
GAP_OF_LOSS = 0.1
"""Gap between the losses that matters, as a share of the training loss after the first epoch."""
RISEN = 1.2
"""Validation loss over its lowest value from which it is said to have risen again."""
HALF_WAY = 0.5
"""A training score, or a fall of the training loss, nearer to guessing than to perfect is called underfitting."""
FEWEST_EVALUATIONS = 4
"""Below, a curve has no shape yet."""
DECLINED = 3.0
"""Standard errors by which the last third lies below the best epoch, from which validation is said to have got worse:
more than SURE, for the best of many epochs was partly chance."""
FALL = 0.02
"""And by how much at least, of a metric that ends at 1; of errors, as a share of the best."""
WORTHWHILE = 1.0
"""Further gain, in standard errors of the score, that the trend must promise in as long again as it was looked at."""


@dataclass(frozen=True)
class Verdict:
    """kind: in two words; reasons: sentences that say how it was judged; advice: what to try next, best first."""

    kind: Kind
    reasons: tuple[str, ...]
    advice: tuple[Advice, ...] = ()


@dataclass(frozen=True)
class Gap:
    """Between training and validation. matters: large enough; real: beyond the uncertainty; hidden: the uncertainty is
    so large that a gap that matters could not be distinguished from none."""

    matters: bool
    real: bool
    hidden: bool
    words: str


def judge(e: Evidence) -> Verdict | None:
    """The verdict on a run; None if nothing was ever measured."""
    kind, reasons = _kind(e)
    return Verdict(kind, tuple(reasons), advise(kind, e)) if reasons else None


def _kind(e: Evidence) -> tuple[Kind, list[str]]:
    """The first that applies, in an order in which what would mislead the later ones comes first."""
    if e.state == "diverged":
        return "diverged", [f"the loss was no longer finite after epoch {e.train_loss[-1][0] if e.train_loss else 0}"]
    gap, baseline = measure_gap(e), _against_baselines(e)
    known = [gap.words] if gap else []
    known += [baseline[1]] if baseline else []
    if len(e.curve) < FEWEST_EVALUATIONS:
        count = plural(len(e.curve), "evaluation")
        return "too short to tell", [f"a curve needs {FEWEST_EVALUATIONS} points or more, this one has {count}", *known]
    if rising := _still_improving(e):
        return "still improving", [rising, *known]
    if baseline and baseline[0]:
        return "worse than a baseline", [baseline[1], *([gap.words] if gap else [])]
    if declined := _declined(e):
        return "overfitting", [declined, *known]
    if gap and gap.matters and gap.real:
        return "overfitting", [*known, *_loss_rose(e)]
    if gap and (gap.hidden or gap.matters):
        return "too noisy to tell", known
    if low := _learned_little(e):
        return "underfitting", [low, *known]
    return "good fit", [*known, *_loss_rose(e)] or [_plain(e)]


def measure_gap(e: Evidence) -> Gap | None:
    """By the watched metric where training samples were scored in the same way, else by the loss.

    Behind ± stand SURE standard errors; no ± where they are unknown (mAP after a few evaluations).
    """
    if e.train is None or e.val is None:
        return _gap_of_losses(e)
    error = e.val_error
    both = f"training {score_text(e.metric, e.train)}, {_watched(e)} {score_text(e.metric, e.val)} {_name(e.metric)}"
    of = f" on {e.samples:,} samples" if e.samples else ""
    if e.direction == "max":  # every such metric here ends at 1
        size, sure = e.train - e.val, SURE * (error or 0.0)
        about = f" ± {100 * sure:.1f}" if error else ""
        words = f"{both}; gap {100 * size:.1f}{about} points{of}"
        return Gap(size >= GAP_POINTS, size > sure, sure > 2 * GAP_POINTS, words)
    if e.metric == "loss" or e.train <= 0:
        return _gap_of_losses(e)
    ratio, sure = e.val / e.train, SURE * (error or 0.0) / e.train
    about = f" ± {sure:.2f}" if error else ""
    words = f"{both}; {ratio:.2f}{about} times as much{of}"
    return Gap(ratio >= GAP_RATIO, ratio - 1 > sure, sure > 2 * (GAP_RATIO - 1), words)


def _gap_of_losses(e: Evidence) -> Gap | None:
    """At the best epoch. The training loss is a mean over its epoch, with dropout and augmentation at work."""
    pairs = {epoch: (value, dict(e.val_loss)[epoch]) for epoch, value in e.train_loss if epoch in dict(e.val_loss)}
    if not pairs:
        return None
    epoch = e.best_epoch if e.best_epoch in pairs else max(pairs)
    train, val = pairs[epoch]
    first = max(e.train_loss[0][1], 1e-12)
    sure = SURE * (scatter(e.val_loss) or 0.0)
    words = f"at epoch {epoch} the training loss was {train:.3g} (mean over its epoch), {_watched(e)} loss {val:.3g}"
    matters = val - train >= GAP_OF_LOSS * first
    return Gap(matters, val - train > sure, sure > 2 * GAP_OF_LOSS * first, words)


def _still_improving(e: Evidence) -> str:
    """A sentence if the watched curve's last third rises significantly, and enough to be worth waiting for."""
    line = trend(e.curve)
    if not line or e.sign * line.slope <= line.significant:
        return ""
    gain, error = abs(line.slope) * line.epochs, e.val_error
    first_to_last = abs(e.curve[-1][1] - e.curve[0][1])
    if gain <= (WORTHWHILE * error if error else 0.02 * first_to_last):
        return ""
    span = f"{_name(e.metric)} from {_at(e, -line.epochs)} to {_at(e, 0)}"
    return f"over the last {line.epochs} epochs {_watched(e)} {span}, and the trend goes on"


def _against_baselines(e: Evidence) -> tuple[bool, str] | None:
    """Whether the best classical model is significantly better, and the comparison in words."""
    best = e.baselines.best(e.metric, e.direction) if e.baselines else None
    if best is None or e.baselines is None or e.score is None:
        return None
    theirs = best.scores[e.metric]
    errors = (e.score_error or 0.0, standard_error(e.metric, theirs, e.baselines.samples) or 0.0)
    sure = SURE * (errors[0] ** 2 + errors[1] ** 2) ** 0.5
    ahead = e.sign * (e.score - theirs)
    numbers = f"{score_text(e.metric, e.score)} against {score_text(e.metric, theirs)}"
    relation = "worse than" if ahead < -sure else "better than" if ahead > sure else "about as good as"
    return ahead < -sure, f"on {e.split} it is {relation} the best simple model, {best.name}: {numbers}"


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
    if e.metric in SHARES and e.train is not None:
        return "it answers less than half of its training samples right" if e.train < HALF_WAY else ""
    if len(e.train_loss) < 2 or e.train_loss[0][1] <= 0:
        return ""
    left = e.train_loss[-1][1] / e.train_loss[0][1]
    return f"the training loss still is {left:.0%} of what it was after the first epoch" if left > HALF_WAY else ""


def _declined(e: Evidence) -> str:
    """A sentence if validation was best long before the end and got worse while the training loss went on falling."""
    losses, error = dict(e.train_loss), scatter(e.curve)  # the same samples each time: only the scatter is chance
    if not error or not e.best_epoch or e.best_epoch not in losses or e.val is None:
        return ""
    late = last_third(e.curve)
    level = fmean(value for _, value in late)
    enough = max(DECLINED * error, FALL * (1.0 if e.direction == "max" else abs(e.val)))
    if late[0][0] <= e.best_epoch or e.sign * (e.val - level) <= enough:
        return ""
    if losses[max(losses)] >= losses[e.best_epoch]:
        return ""
    return (f"{_watched(e)} {_name(e.metric)} was best at epoch {e.best_epoch} of {e.curve[-1][0]}, "
            f"{score_text(e.metric, e.val)}, and {score_text(e.metric, level)} in the last third, "
            "while the training loss went on falling")  # fmt: skip


def _loss_rose(e: Evidence) -> list[str]:
    """A rising validation loss with a falling training loss: overconfidence, even where answers stay right."""
    if len(e.val_loss) < FEWEST_EVALUATIONS or not e.train_loss:
        return []
    epoch, lowest = min(e.val_loss, key=lambda point: point[1])
    last = e.val_loss[-1][1]
    if lowest <= 0 or last < RISEN * lowest or e.train_loss[-1][1] > dict(e.train_loss).get(epoch, 0.0):
        return []
    return [f"{_watched(e)} loss rose from {lowest:.3g} at epoch {epoch} to {last:.3g} while training loss fell: "
            "overconfident predictions"]  # fmt: skip


def _plain(e: Evidence) -> str:
    return f"{_watched(e)} {_name(e.metric)} has settled" + (f" at {score_text(e.metric, e.val)}" if e.val else "")


def _at(e: Evidence, epochs_before_last: int) -> str:
    last = e.curve[-1][0] + epochs_before_last
    value = next(value for epoch, value in e.curve if epoch >= last)
    return score_text(e.metric, value)


def _watched(e: Evidence) -> str:
    return "validation" if e.watched == "val" else e.watched


def _name(metric: str) -> str:
    return metric.replace("_", " ")
