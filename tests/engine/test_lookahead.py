"""Slow weights: where they go, against a loop by hand; and that a stopped training goes on as if it had not been."""

import pytest
import torch
from torch import nn

from mlcli.engine.lookahead import SlowWeights
from mlcli.engine.settings import Lookahead
from tests.engine.rig import StopAfter, fingerprint, settings_of, train, training
from tests.engine.toy import ToyTask

SECTION = {"start_epoch": 2, "every_steps": 3, "decay": 0.9, "power": 2.0}
SETTINGS = settings_of(train={"epochs": 4, "lookahead": SECTION})


def test_weights_go_where_a_loop_by_hand_takes_them():
    """As airbench94 does it: every few steps of an epoch from the second on, and at each epoch's end."""
    torch.manual_seed(0)
    model, steps_per_epoch, total = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), 5, 20
    slow_weights = SlowWeights(model, Lookahead(**SECTION), steps_per_epoch, total)
    live = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    expected, slow = {name: value.clone() for name, value in live.items()}, None
    for step in range(total):
        moves = {name: torch.randn_like(value) for name, value in expected.items()}
        for name, move in moves.items():
            live[name] += move
            expected[name] += move
        slow_weights.update(step)
        if step >= 5 and (step + 1) % 3 == 0:
            kept = 0.9**3 * ((step + 1) / total) ** 2
            if slow is None:
                slow = {name: value.clone() for name, value in expected.items()}
            else:
                slow = {name: torch.lerp(value, expected[name], 1 - kept) for name, value in slow.items()}
            expected = {name: value.clone() for name, value in slow.items()}
        if (step + 1) % steps_per_epoch == 0 and slow is not None:
            expected = {name: value.clone() for name, value in slow.items()}
        for name, value in live.items():
            assert torch.equal(value, expected[name]), (step, name)
    assert model.state_dict()["1.num_batches_tracked"] == 0


@pytest.mark.parametrize("polls", [3, 9, 11, 14])
def test_a_stopped_training_goes_on_as_if_it_had_not_been(polls, tmp_path):
    whole, _ = train(tmp_path / "whole", ToyTask(norm=True), SETTINGS)
    cut, outcome = train(tmp_path / "cut", ToyTask(norm=True), SETTINGS, stop=StopAfter(polls))
    assert outcome == "interrupted"
    resumed, _ = train(tmp_path / "cut", ToyTask(norm=True), SETTINGS, run=cut.run)
    assert fingerprint(resumed.state) == fingerprint(whole.state)
    without, _ = train(tmp_path / "without", ToyTask(norm=True), settings_of(train={"epochs": 4}))
    assert not torch.equal(next(without.state.model.parameters()), next(whole.state.model.parameters()))


def test_a_checkpoint_without_them_is_one_before_they_begin(tmp_path):
    state = training(tmp_path, ToyTask(), SETTINGS).state
    saved = state.state_dict()
    assert saved["slow"] == {}
    del saved["slow"]
    state.load_state_dict(saved)
    with pytest.raises(Exception, match="does not fit"):
        state.load_state_dict(saved | {"slow": dict.fromkeys(state.model.state_dict(), torch.zeros(1))})
