"""Heat maps of what decided: a known place is found, other weights give another map, no map is told."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional

from mlcli.errors import ConfigError
from mlcli.models.explain import heat_maps
from mlcli.models.layers import Normalized


def corners(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise with a small pattern in one of four corners that alone tells the class: images, labels, corners."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(60, 196, (count, 1, 16, 16), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 2, (count,), generator=generator)
    places = torch.randint(0, 4, (count,), generator=generator)
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(4, 2)  # [4, 4]
    for image, label, place in zip(images, labels.tolist(), places.tolist(), strict=True):
        y, x = 1 + 10 * (place // 2), 1 + 10 * (place % 2)
        image[0, y : y + 4, x : x + 4] = stripes if label else stripes.T
    return images, labels, places


def network(head: nn.Module) -> Normalized:
    torch.manual_seed(1)
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(16, 16, 3, padding=1)]
    return Normalized(nn.Sequential(*layers, nn.ReLU(inplace=True), head), mean=[0.5], std=[0.2], image=True)


HEADS = {
    "Grad-CAM": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)),
    "LayerCAM": lambda: nn.Sequential(
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 16, 32), nn.ReLU(), nn.Linear(32, 2)
    ),
}


@pytest.fixture(scope="module", params=HEADS)
def learned(request):
    """A network that tells the patterns apart, and the method that its maps are made by."""
    model = network(HEADS[request.param]())
    images, labels, _ = corners(256, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(50):
        loss = functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), request.param


def at_the_pattern(maps: torch.Tensor, places: torch.Tensor) -> list[float]:
    """Share of each map's heat in the quarter of the image in which the pattern is."""
    half = maps.shape[1] // 2
    quarters = maps.reshape(len(maps), 2, half, 2, half).sum(dim=(2, 4)).flatten(1)
    return (quarters.gather(1, places[:, None])[:, 0] / quarters.sum(dim=1).clamp(min=1e-9)).tolist()


def test_the_corner_that_tells_the_class_is_found(learned):
    model, method = learned
    images, labels, places = corners(40, seed=1)
    assert (model(images).argmax(1) == labels).float().mean() > 0.95
    heat = heat_maps(model, images, labels)
    assert heat.method == method
    assert heat.maps.amax(dim=(1, 2)).tolist() == pytest.approx([1.0] * 40)
    shares = at_the_pattern(heat.maps, places)
    assert sum(shares) / len(shares) > 0.5  # a quarter by chance
    assert sum(share > 0.4 for share in shares) >= 30


def ranks_alike(ones: torch.Tensor, others: torch.Tensor) -> float:
    """Spearman's rank correlation of maps [B, h, w], on average; 0 for a map without any difference in it."""
    pairs = zip(ones.flatten(1), others.flatten(1), strict=True)
    found = [stats.spearmanr(a, b).statistic for a, b in pairs if a.std() > 0 and b.std() > 0]
    return sum(found) / len(ones)


def looks_alike(ones: torch.Tensor, others: torch.Tensor) -> float:
    """Structural similarity (Wang et al. 2004, equation 13) of maps [B, h, w], enlarged to the images, in windows of
    5 x 5, on average."""
    a, b = (functional.interpolate(maps[:, None], 16, mode="bilinear") for maps in (ones, others))
    mean_a, mean_b, squares_a, squares_b, products = (
        functional.avg_pool2d(values, 5, 1) for values in (a, b, a * a, b * b, a * b)
    )
    both, spread = mean_a * mean_b, squares_a - mean_a**2 + squares_b - mean_b**2
    same = (2 * both + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    return float((same * (2 * (products - both) + 0.03**2) / (spread + 0.03**2)).mean())


def cascade(maps_of: Callable[[nn.Module], torch.Tensor], model: nn.Module) -> dict[str, tuple[float, float]]:
    """Draw the layers' weights anew one after the other, from the head to the input, as Adebayo et al. 2018 do.

    Returns for each how alike the maps [B, h, w] are then to those of what was learned, by rank and by look, on average
    over five draws.
    """
    learned, found = maps_of(model), dict[str, list[tuple[float, float]]]()
    for seed in range(5):
        torch.manual_seed(seed)
        drawn = deepcopy(model)
        for name, layer in reversed(list(drawn.named_modules())):
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
                maps = maps_of(drawn)
                found.setdefault(name, []).append((ranks_alike(learned, maps), looks_alike(learned, maps)))
    return {name: tuple(torch.tensor(values).mean(dim=0).tolist()) for name, values in found.items()}


def test_weights_drawn_anew_from_head_to_input_destroy_the_map(learned):
    """What does not depend on what was learned explains nothing (Adebayo et al. 2018, section 3)."""
    model, method = learned
    images, labels, _ = corners(20, seed=1)
    found = cascade(lambda net: heat_maps(net, images, labels).maps, model)
    assert list(found)[-2:] == ["net.3", "net.0"]
    assert len(found) == (3 if method == "Grad-CAM" else 4)
    for ranks, looks in found.values():
        assert abs(ranks) < 0.6
        assert looks < 0.6
    assert abs(found["net.0"][0]) < 0.4
    assert found["net.0"][1] < 0.4
    edges = functional.max_pool2d((images[..., 1:] - images[..., :-1].int()).abs().float(), 2)[:, 0] / 255
    for ranks, looks in cascade(lambda net: edges, model).values():  # what only finds edges is told by this test
        assert min(ranks, looks) > 0.999


def test_the_model_is_left_as_it_was(learned):
    model, _ = learned
    images, labels, _ = corners(4, seed=2)
    with torch.inference_mode():
        before = model(images)
        heat = heat_maps(model, images.clone(), labels)  # inside inference mode as well
        assert torch.equal(model(images), before)
    assert not heat.maps.requires_grad
    assert not any(module._forward_hooks for module in model.modules())


class Words(nn.Module):
    """Patches of an image as a sentence, as transformers see it."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.mixed, self.head = nn.Conv2d(1, 8, 4, 4), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.mixed(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.parametrize("net", [nn.Sequential(nn.Flatten(), nn.Linear(256, 2)), Words()], ids=["mlp", "transformer"])
def test_networks_without_maps_are_told(net):
    model = Normalized(net, mean=[0.5], std=[0.2], image=True).eval()
    with pytest.raises(ConfigError, match="no map"):
        heat_maps(model, corners(1, 0)[0], torch.tensor([0]))
