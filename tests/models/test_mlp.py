"""What a single layer cannot express, what a hidden one adds, and what is left of it without activations."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

XOR_INPUTS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
XOR_LABELS = torch.tensor([0, 1, 1, 0])


def accuracy(net: nn.Module) -> float:
    return (net(XOR_INPUTS).argmax(dim=1) == XOR_LABELS).float().mean().item()


def test_no_weights_of_a_linear_model_answer_more_than_three_of_the_four_xor_questions(table, build):
    net = build(table(2, 2), name="linear")
    grid = torch.cartesian_prod(*[torch.linspace(-2, 2, 9)] * 3)  # w1, w2, b of the difference of both outputs
    best = 0.0
    for w1, w2, b in grid:
        with torch.no_grad():
            net.output.weight.copy_(torch.stack([torch.zeros(2), torch.stack([w1, w2])]))
            net.output.bias.copy_(torch.stack([torch.tensor(0.0), b]))
        best = max(best, accuracy(net))
    assert best == 0.75


def test_an_mlp_answers_xor_with_two_hidden_neurons(table, build):
    net = build(table(2, 2), name="mlp", hidden=[2], activation="relu")
    with torch.no_grad():  # xor = relu(a + b) - 2 relu(a + b - 1)
        net.hidden1.weight.fill_(1.0)
        net.hidden1.bias.copy_(torch.tensor([0.0, -1.0]))
        net.output.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, -2.0]]))
        net.output.bias.copy_(torch.tensor([0.5, 0.0]))
    assert accuracy(net) == 1.0


@pytest.mark.parametrize(("activation", "affine"), [("none", True), ("relu", False), ("tanh", False), ("gelu", False)])
def test_without_activation_all_layers_are_one_affine_map(activation, affine, table, build):
    net = build(table(5, 3), name="mlp", hidden=[16, 8], activation=activation, batch_norm=True).double().eval()
    x, y = torch.randn(2, 10, 5, dtype=torch.float64)
    at_zero = net(torch.zeros(1, 5, dtype=torch.float64))
    together = net(3 * x - 2 * y) - at_zero
    apart = 3 * (net(x) - at_zero) - 2 * (net(y) - at_zero)
    assert torch.allclose(together, apart, atol=1e-12) == affine


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "gelu", "sigmoid", "tanh"])
def test_layers_do_what_the_formula_says(activation, table, build):
    net = build(table(3, 2), name="mlp", hidden=[4], activation=activation)
    w1, b1, w2, b2 = (parameter.detach().double().numpy() for parameter in net.parameters())
    x = np.random.default_rng(0).normal(size=(6, 3))
    h = x @ w1.T + b1
    functions = {
        "relu": np.maximum(h, 0),
        "leaky_relu": np.where(h > 0, h, 0.01 * h),
        "gelu": h * 0.5 * (1 + torch.erf(torch.from_numpy(h) / 2**0.5).numpy()),
        "sigmoid": 1 / (1 + np.exp(-h)),
        "tanh": np.tanh(h),
    }
    expected = functions[activation] @ w2.T + b2
    assert np.allclose(net(torch.from_numpy(x).float()).detach().numpy(), expected, atol=1e-6)


def test_linear_with_the_weights_of_logistic_regression_gives_its_decisions(table, build):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 4))
    labels = (x @ generator.normal(size=(4, 3))).argmax(axis=1)
    reference = LogisticRegression().fit(x, labels)
    net = build(table(4, 3), name="linear")
    with torch.no_grad():
        net.output.weight.copy_(torch.from_numpy(reference.coef_))
        net.output.bias.copy_(torch.from_numpy(reference.intercept_))
    outputs = net(torch.from_numpy(x).float()).softmax(dim=1)
    assert np.allclose(outputs.detach().numpy(), reference.predict_proba(x), atol=1e-5)


def test_images_are_flattened_row_by_row(images, build):
    net = build(images(2, 3, 4), name="linear")
    picture = torch.rand(5, 2, 3, 4)
    assert torch.equal(net(picture), net(picture.reshape(5, 24)))


def test_dropout_silences_in_training_only(table, build):
    net = build(table(4), name="mlp", hidden=[64], dropout=0.5)
    x = torch.rand(8, 4)
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))


def test_no_hidden_layer_is_the_linear_model(table, build):
    net = build(table(4, 3), name="mlp", hidden=[])
    assert [name for name, _ in net.named_parameters()] == ["output.weight", "output.bias"]
