"""What is done once after the last step: the best model is measured, and put where other programs find it."""

import json

import safetensors.torch

from mlcli.engine.checkpoint import load_checkpoint, model_weights
from mlcli.engine.evaluate import evaluate_split
from mlcli.engine.files import write_atomically
from mlcli.engine.trainer import Training


def conclude(t: Training) -> dict[str, dict[str, float]]:
    """Load the best weights into the model, write them as model.safetensors, measure the test split if there is one.

    Returns the best model's scores by split: the watched one as it was judged, and test.
    """
    best = load_checkpoint(t.run.checkpoint("best"))
    weights = model_weights(best)
    t.state.model.load_state_dict(weights)
    plain = {name: tensor.contiguous() for name, tensor in weights.items()}
    metadata = {"config": json.dumps(best["config"]), "facts": json.dumps(best["facts"])}
    write_atomically(t.run.path / "model.safetensors", safetensors.torch.save(plain, metadata))
    scores = {t.watch.split: best["scores"]}
    if "test" in t.task.splits:
        scores["test"], _ = evaluate_split(t.task, t.state.net, t.feed.eval_batches("test"), t.runtime)
        t.log.scalars("test", best["step"], best["epoch"], scores["test"])
    return scores
