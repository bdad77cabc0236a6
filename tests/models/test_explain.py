"""Heat maps of what decided: a known place is found, other weights give another map, no map is told."""

import pytest
import torch
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


def test_other_weights_destroy_the_map(learned):
    """The randomisation test of Adebayo et al. 2018: what does not depend on what was learned explains nothing."""
    model, _ = learned
    images, labels, _ = corners(40, seed=1)
    before = heat_maps(model, images, labels).maps
    drawn = network(HEADS[learned[1]]()).eval()
    after = heat_maps(drawn, images, labels).maps
    pairs = torch.stack([before.flatten(1), after.flatten(1)], dim=1)
    likeness = torch.stack([torch.corrcoef(pair)[0, 1] for pair in pairs]).nan_to_num()
    assert likeness.abs().mean() < 0.5


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
