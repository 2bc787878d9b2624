from pathlib import Path

import pytest
from PIL import Image

from pocket_models.landscapes.probes import Probes
from pocket_models.landscapes.probing import accuracy, painted_scene, train_probes
from pocket_models.landscapes.scenes import ATTRIBUTES
from pocket_models.landscapes.stage import Budget


@pytest.mark.parametrize("disturb", [False, True], ids=["painted", "disturbed"])
def test_probes_read_painted_scenes(disturb: bool) -> None:
    shares = accuracy(Probes.load(), 150, disturb=disturb)
    assert min(shares.values()) >= 0.98, shares


def test_probes_tell_every_value_from_every_other() -> None:
    painted = [painted_scene(seed) for seed in range(2 * 10**9, 2 * 10**9 + 400)]
    readings = Probes.load().read([picture for _, picture in painted])
    for name, values in ATTRIBUTES.items():
        for value in values:
            read = [
                reading[name]
                for reading, (scene, _) in zip(readings, painted, strict=True)
                if getattr(scene, name) == value
            ]
            assert len(read) >= 5, (name, value)
            assert read.count(value) >= 0.9 * len(read), (name, value, read)


def test_training_probes_stores_what_it_returns(tmp_path: Path) -> None:
    probes = train_probes(tmp_path, batch=2, budget=Budget(minutes=1e9, max_steps=2))
    pictures = [painted_scene(seed)[1] for seed in range(4)]
    assert probes.read(pictures) == Probes.load(tmp_path / "probes.safetensors").read(pictures)
    assert probes.read(pictures) != Probes.load().read(pictures)


def test_score_counts_only_what_was_asked() -> None:
    painted = [painted_scene(seed) for seed in range(10**9, 10**9 + 4)]
    images = [picture for _, picture in painted]
    right = [{"time": scene.time, "land": scene.land} for scene, _ in painted]
    assert Probes.load().score(right, images) == {"time": 1.0, "land": 1.0, "overall": 1.0}
    wrong_land = "dunes" if right[0]["land"] != "dunes" else "lake"
    right[0]["land"] = wrong_land
    assert Probes.load().score(right, images) == {"time": 1.0, "land": 0.75, "overall": 0.875}


def test_score_refuses_a_picture_without_a_prompt() -> None:
    with pytest.raises(ValueError, match="zip"):
        Probes.load().score([], [Image.new("RGB", (128, 128))])
