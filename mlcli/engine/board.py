"""TensorBoard output other than single numbers: layers, pictures, precision-recall curves, graph, runs compared.

Tags are `<group>/<name>`, since TensorBoard folds by what stands before the slash. All of it stands in the run's folder
`train`; only the projector's files need one of their own.
"""

import contextlib
import copy
import io
import itertools
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mlcli.engine.layer_stats import Activation, Histogram, LayerStats
from mlcli.outputs import png
from mlcli.show.details import Details
from mlcli.text import visible

if TYPE_CHECKING:
    from PIL.Image import Image
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch.utils.tensorboard import SummaryWriter

MOST_CURVES = 20
"""Precision-recall curves for each split: more than a person looks through."""
LAYER_CHARTS = {
    "gradient norm": "layer_gradient_norm",
    "update to weight ratio": "layer_update_ratio",
    "weight norm L2": "layer_weight_l2",
    "activation mean": "layer_activation_mean",
    "activation standard deviation": "layer_activation_std",
    "share of zeros": "layer_activation_zeros",
}
"""Charts of all layers in one, and the groups of tags they show."""
COMPARED_FIRST = ("model.name", "optimizer.name", "optimizer.lr", "train.batch_size", "train.epochs")
"""Settings that the HPARAMS tab shows unasked; of dozens it shows five."""

Plain = int | float | str | bool


class Board:
    """Writes summaries that TensorBoard's dashboards know how to show.

    Args:
        writer: of the run; made with `purge_step` when the run goes on, so that each (tag, step) stands once.
        resumed: whether the run goes on after a checkpoint; what is written once at the start is then there already.
    """

    def __init__(self, writer: "SummaryWriter", *, resumed: bool = False) -> None:
        self._writer, self._resumed = writer, resumed

    def opening(self, config_text: str) -> None:
        """The layout of the custom scalars, all layers in one chart each; the config."""
        if self._resumed:
            return
        layers = {title: ["Multiline", [f"^{re.escape(group)}/"]] for title, group in LAYER_CHARTS.items()}
        self._writer.add_custom_scalars({"layers": layers})
        as_code = "\n".join(f"    {line}" for line in visible(config_text).splitlines())  # Markdown's code block
        self._writer.add_text("config", as_code, 0)

    def graph(self, model: nn.Module, inputs: Any) -> str:
        """The graph of a copy of the model, traced with the first of `inputs`.

        Returns why not, empty if all went well: not every model can be traced.
        """
        if self._resumed:
            return ""
        inputs = inputs[:1] if isinstance(inputs, Tensor) else inputs
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
                warnings.simplefilter("ignore")  # the tracer warns of every shape that becomes a constant
                # Unchecked: checking would import torch.distributed.tensor, which takes 0.6 s, for the same graph.
                traced = torch.jit.trace(copy.deepcopy(model).eval(), inputs, check_trace=False)
                self._writer.add_graph(traced, inputs)
        except Exception as error:  # of any kind: it must not stop the training
            reason = str(error).strip().splitlines() or [type(error).__name__]
            return f"the model's graph cannot be drawn: {reason[0][:120]}"
        return ""

    def layers(self, stats: LayerStats) -> None:
        """Norms, ratios, histograms and activations of each layer in one event; what is wrong with them as text."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values: list[Any] = []
        for layer in stats.layers:
            figures = layer.figures()
            if layer.activation:
                figures |= _activation_figures(layer.activation)
            values += [_scalar(f"layer_{figure}/{layer.name}", value) for figure, value in figures.items()]
            values.append(_histogram(f"weights/{layer.name}", layer.weight_histogram))
            values.append(_histogram(f"gradients/{layer.name}", layer.gradient_histogram))
        for name, activation in stats.activations.items():
            values += [_scalar(f"layer_{key}/{name}", value) for key, value in _activation_figures(activation).items()]
        self._add(Summary(value=values), stats.step)
        if stats.notes:
            self._writer.add_text("notes", "\n".join(f"* {visible(note)}" for note in stats.notes), stats.step)

    def pictures(self, split: str, pictures: "dict[str, Image]", step: int) -> None:
        """Pictures by title, as `<title>/<split>`."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = []
        for title, picture in pictures.items():
            content = png(picture.convert("RGB"))
            image = Summary.Image(
                width=picture.width, height=picture.height, colorspace=3, encoded_image_string=content
            )
            values.append(Summary.Value(tag=_tag(title, split), image=image))
        self._add(Summary(value=values), step)

    def evaluation(self, split: str, details: Details, step: int) -> None:
        """The precision-recall curves, if there are any, as `pr_curve_<split>/<class>`."""
        for name, curve in list(details.get("pr_curves", {}).items())[:MOST_CURVES]:
            counts = curve["tp"], curve["fp"], curve["tn"], curve["fn"]
            tag, thresholds = _tag(f"pr curve {split}", name), len(curve["threshold"])
            self._writer.add_pr_curve_raw(
                tag, *counts, curve["precision"], curve["recall"], step, num_thresholds=thresholds
            )

    def embeddings(
        self, split: str, features: Tensor, labels: Sequence[str], sprites: Tensor | None, step: int
    ) -> None:
        """Points for the projector: features float32 [N, F], a label each, small square pictures uint8 [N, 3, S, S]."""
        images = None if sprites is None else sprites.float().cpu() / 255
        with contextlib.redirect_stdout(io.StringIO()):  # it prints about folders that exist
            named = [visible(label, one_line=True) for label in labels]  # a line each, in a file of their own
            self._writer.add_embedding(features.float().cpu(), named, images, step, tag=split)

    def hparams(self, config: dict[str, Any], scores: dict[str, float], step: int = 0) -> None:
        """One row in the HPARAMS tab: the settings by their dotted names, and the final scores as `final/<name>`.

        SummaryWriter.add_hparams would make a run of its own in a folder below; this stays in the run it is about.
        """
        by_split = sorted(scores, key=lambda name: name.endswith("/train"))  # the first five are shown unasked
        metrics = {f"final/{name}": scores[name] for name in by_split}
        for summary in _hparam_summaries(_plain(config), list(metrics)):
            self._add(summary, step)
        for tag, value in metrics.items():
            self._writer.add_scalar(tag, value, step)

    def _add(self, summary: "Summary", step: int) -> None:
        # What SummaryWriter's own methods do; it has none for several values in one event.
        self._writer._get_file_writer().add_summary(summary, step)


def _plain(config: dict[str, Any]) -> dict[str, Plain]:
    """A flat config's settings as values the dashboard knows; None is left out, lists become text: `128, 64`, of named
    components the names."""
    plain: dict[str, Plain] = {}
    for key, value in config.items():
        if isinstance(value, list | tuple):
            value = ", ".join(str(item.get("name", item) if isinstance(item, dict) else item) for item in value)
        if value is not None:
            plain[key] = value if isinstance(value, bool | int | float) else visible(str(value))
    return plain


def _tag(group: str, name: str) -> str:
    """`<group>/<name>` without spaces, which some dashboards show as they are and others escape."""
    return visible(f"{group}/{name}", one_line=True).replace(" ", "_")


def _activation_figures(seen: Activation) -> dict[str, float]:
    return {"activation_mean": seen.mean, "activation_std": seen.std, "activation_zeros": seen.zero_share}


def _scalar(tag: str, value: float) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary.Value(tag=tag, simple_value=value)


def _histogram(tag: str, histogram: Histogram) -> Any:
    """Counts and edges as they are; sums are those of the bins' middles, which TensorBoard does not draw."""
    from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary

    counts, edges = histogram
    middles = [(left + right) / 2 for left, right in itertools.pairwise(edges)]
    drawn = HistogramProto(
        min=edges[0],
        max=edges[-1],
        num=sum(counts),
        sum=sum(count * middle for count, middle in zip(counts, middles, strict=True)),
        sum_squares=sum(count * middle**2 for count, middle in zip(counts, middles, strict=True)),
        bucket_limit=edges[1:],
        bucket=counts,
    )
    return Summary.Value(tag=tag, histo=drawn)


def _hparam_summaries(config: dict[str, Plain], metric_tags: Sequence[str]) -> list["Summary"]:
    """Experiment (which settings and scores there are), session start (this run's settings), session end."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    experiment, start = api_pb2.Experiment(), plugin_data_pb2.SessionStartInfo()
    for name, value in config.items():
        if isinstance(value, bool):
            start.hparams[name].bool_value, kind = value, api_pb2.DATA_TYPE_BOOL
        elif isinstance(value, str):
            start.hparams[name].string_value, kind = value, api_pb2.DATA_TYPE_STRING
        else:
            start.hparams[name].number_value, kind = value, api_pb2.DATA_TYPE_FLOAT64
        # Which settings will differ between runs is not yet known; those that are set here are listed first.
        experiment.hparam_infos.add(name=name, type=kind, differs=name in COMPARED_FIRST)
    for tag in metric_tags:
        experiment.metric_infos.add(name=api_pb2.MetricName(tag=tag))
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS)
    contents = {
        metadata.EXPERIMENT_TAG: {"experiment": experiment},
        metadata.SESSION_START_INFO_TAG: {"session_start_info": start},
        metadata.SESSION_END_INFO_TAG: {"session_end_info": end},
    }
    summaries = []
    for tag, content in contents.items():
        data = plugin_data_pb2.HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **content)
        plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=data.SerializeToString())
        summaries.append(Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))]))
    return summaries
