"""An ONNX file is looked into before anything loads it: what would open other files, or is damaged, is refused."""

import onnx
import pytest
from onnx import TensorProto, helper

from mlcli.errors import CheckpointError
from mlcli.export.file import open_exported
from mlcli.export.wire import NotOnnx, external_tensors, metadata


def model(tensor: TensorProto, *, inside: bool = False) -> bytes:
    """An identity with one weight, in the graph or in a constant of a branch."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    if inside:
        constant = helper.make_node("Constant", [], ["w"], value=tensor)
        branch = helper.make_graph(
            [constant], "branch", [], [helper.make_tensor_value_info("w", TensorProto.FLOAT, [1])]
        )
        condition = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
        nodes = [condition, helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y], [] if inside else [tensor])).SerializeToString()


def elsewhere(path: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=path)
    return tensor


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "weights.bin"])
def test_weights_in_other_files_are_found_and_refused(path, inside, tmp_path):
    content = model(elsewhere(path), inside=inside)
    assert set(external_tensors(content)) == {"w"}
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match="its weights lie in other files, which are not opened: 'w'"):
        open_exported(tmp_path / "x.onnx")


@pytest.mark.parametrize("inside", [False, True])
def test_weights_in_the_file_are_none_of_these(inside):
    assert external_tensors(model(helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0]), inside=inside)) == []


def test_metadata_are_read_without_onnx():
    proto = onnx.load_model_from_string(model(helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])))
    proto.metadata_props.add(key="mlcli", value="{}")
    assert metadata(proto.SerializeToString()) == {"mlcli": "{}"}


def test_any_file_cut_short_is_no_onnx_or_has_no_metadata(tmp_path):
    content = model(helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0]))
    for end in range(len(content)):
        (tmp_path / "x.onnx").write_bytes(content[:end])
        with pytest.raises(CheckpointError, match="this file cannot be used"):
            open_exported(tmp_path / "x.onnx")
    with pytest.raises(NotOnnx):
        metadata(b"\x0b\x00")


def test_a_pt2_is_not_opened(tmp_path):
    with pytest.raises(CheckpointError, match="can run any code"):
        open_exported(tmp_path / "x.pt2")
