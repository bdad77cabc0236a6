"""Learning rates: against torch's own schedulers where they exist, and by their promised ends."""

from itertools import pairwise

import pytest
import torch
from pydantic import TypeAdapter

from mlcli.engine.evaluate import SelectBy
from mlcli.engine.schedule import LearningRate
from mlcli.engine.settings import Schedule

SELECT_BY = SelectBy("accuracy", "max", "val")


def rates(steps_per_epoch=10, epochs=4, **config) -> list[float]:
    schedule = TypeAdapter(Schedule).validate_python(config)
    lr = LearningRate(schedule, 0.2, steps_per_epoch, epochs, SELECT_BY)
    return [lr.lr_at(step) for step in range(steps_per_epoch * epochs)]


def torch_rates(make, steps=40) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_cosine_equals_torch():
    theirs = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=39, eta_min=0.02))
    assert rates(name="cosine", final=0.1) == pytest.approx(theirs)


def test_one_cycle_equals_torch():
    theirs = torch_rates(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, 0.2, total_steps=40, pct_start=11 / 39 + 1 / 40, div_factor=25, final_div_factor=400
        )
    )
    ours = rates(name="one_cycle", peak_at=10.9999999 / 39 + 0.0000001, start=0.04, final=1e-4)
    assert max(ours) == pytest.approx(0.2, rel=0.01)
    assert ours[0] == pytest.approx(theirs[0])
    assert ours[-1] == pytest.approx(0.2 * 1e-4)
    assert ours == sorted(ours[:12]) + sorted(ours[12:], reverse=True)


def test_a_cycle_of_straight_lines_is_a_triangle():
    ours = rates(name="one_cycle", curve="linear", start=0.2, peak_at=13 / 39, final=0.07)
    up = [0.2 * (0.2 + 0.8 * step / 13) for step in range(13)]
    down = [0.2 * (1 - 0.93 * step / 26) for step in range(27)]
    assert ours == pytest.approx(up + down)


def test_polynomial_of_power_one_is_a_straight_line_to_its_end():
    ours = rates(name="polynomial", final=0.5)
    assert ours[0] == 0.2
    assert ours[-1] == pytest.approx(0.1)
    steps = [a - b for a, b in pairwise(ours)]
    assert steps == pytest.approx([0.1 / 39] * 39)


@pytest.mark.parametrize(
    ("milestones", "drops"), [((0.5, 0.75), (20, 30)), ((1, 3), (10, 30))], ids=["shares", "epochs"]
)
def test_steps_fall_at_their_milestones(milestones, drops):
    ours = rates(name="step", milestones=milestones, factor=0.1)
    expected = [0.2 * 0.1 ** sum(step >= drop for drop in drops) for step in range(40)]
    # progress runs over 39 intervals, so a milestone may come one step late
    assert sum(abs(a - b) > 1e-9 for a, b in zip(ours, expected, strict=True)) <= 2


def test_warm_up_climbs_to_where_the_curve_starts():
    ours = rates(name="constant", warmup_epochs=0.5)
    assert ours[:6] == pytest.approx([0.2 * k / 6 for k in (1, 2, 3, 4, 5, 6)])
    assert set(ours[5:]) == {0.2}


def test_warm_up_longer_than_the_training_never_divides_by_zero():
    assert all(0 < rate <= 0.2 for rate in rates(name="cosine", warmup_epochs=100))


@pytest.mark.parametrize("name", ["constant", "cosine", "step", "one_cycle", "polynomial", "plateau"])
def test_a_single_step_is_enough(name):
    assert 0 <= rates(1, 1, name=name)[0] <= 0.2


def test_plateau_drops_after_patience_and_stops_at_its_floor():
    config = TypeAdapter(Schedule).validate_python({"name": "plateau", "patience": 2, "factor": 0.1, "final": 0.05})
    lr = LearningRate(config, 1.0, 10, 10, SELECT_BY)
    seen = []
    for accuracy in (0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.9):
        lr.observe(accuracy)
        seen.append(lr.lr_at(50))
    assert seen == pytest.approx([1, 1, 1, 0.1, 0.1, 0.05, 0.05])
    other = LearningRate(config, 1.0, 10, 10, SELECT_BY)
    other.load_state_dict(lr.state_dict())
    assert other.lr_at(50) == lr.lr_at(50)
