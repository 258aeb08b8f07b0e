"""Which data set a step belongs to, and how its slots are shared."""

from collections import Counter

import pytest

from data.mixture import loader
from data.settings import Mixture, Phase
from pipeline.errors import ConfigError
from tests.data.training import batches, clips, opened, same


def test_every_picture_once_an_epoch(pictures):
    """7 pictures, 4 a step: 7 steps are 4 epochs."""
    source = clips(pictures)
    drawn = [source.sample(step, slot).name for step in range(7) for slot in range(4)]
    for epoch in range(4):
        assert sorted(drawn[7 * epoch : 7 * epoch + 7]) == sorted(pictures.names)


def test_weights_share_a_step_between_data_sets(pictures, tiny_world):
    more = opened("coco", tiny_world / "coco")
    mixture = Mixture(image_batch=10, weights={"sa1b": 3.0, "coco": 1.0})
    assert drawn_from(clips(pictures, more, mixture=mixture), 100) == {"sa1b": 750, "coco": 250}
    with pytest.raises(ConfigError, match="give every data set a weight"):
        clips(pictures, more, mixture=Mixture(weights={"sa1b": 1.0}))


def drawn_from(source, steps) -> Counter:
    """How many samples of so many steps each data set gives."""
    counts = Counter()
    for step in range(steps):
        which, before = source._group_and_count(step)
        group, turns = source.groups[which], source._turns[which]
        for slot in range(group.batch):
            counts[group.members[turns.turn(before * group.batch + slot).member]] += 1
    return counts


def test_repeating_a_data_set_gives_it_more_of_the_steps(pictures, tiny_world):
    """7 and 3 pictures, as if concatenated; then the 3 count twice."""
    more = opened("coco", tiny_world / "coco")
    plain = drawn_from(clips(pictures, more, mixture=Mixture(image_batch=10)), 100)
    assert plain == {"sa1b": 700, "coco": 300}
    twice = drawn_from(
        clips(pictures, more, mixture=Mixture(image_batch=13, repeat={"coco": 2.0})), 1000
    )
    assert twice["coco"] / 13000 == pytest.approx(6 / 13, abs=0.001)
    with pytest.raises(ConfigError, match=r"repeat names x; the stage trains on coco, sa1b"):
        clips(pictures, more, mixture=Mixture(repeat={"x": 2}))
    with pytest.raises(ConfigError, match=r"weights are given where .* \(repeat\)"):
        Mixture(weights={"a": 1}, repeat={"a": 2})


def test_by_size_every_picture_and_every_video_is_seen_equally_often(pictures, videos):
    """Seven pictures in steps of 7, three videos in steps of 1: three of four steps are clips."""
    mixture = Mixture(mode="size", image_batch=7, video_batch=1)
    counts = drawn_from(clips(pictures, videos, mixture=mixture), 1000)
    assert counts == {"sa1b": 7 * 250, "sav": 750}


def test_a_data_set_may_have_steps_of_its_own(pictures, videos, tiny_world):
    more = opened("coco", tiny_world / "coco")
    mixture = Mixture(mode="alternate", image_batch=4, video_batch=2, batches={"coco": 5})
    source = clips(pictures, videos, more, mixture=mixture)
    found = batches(source, 0, 6)
    assert [(batch.kind, len(batch.names)) for batch in found[:3]] == [
        ("image", 4),
        ("video", 2),
        ("image", 5),
    ]
    assert {name.split("/")[0] for name in found[2].names + found[5].names} == {"coco"}
    assert {name.split("/")[0] for name in found[0].names + found[3].names} == {"sa1b"}
    with pytest.raises(ConfigError, match="a step of coco has 5 images; it has to be a multiple"):
        loader(source, start_step=0, stop_step=1, world=2)
    with pytest.raises(ConfigError, match="batches names x"):
        clips(pictures, mixture=Mixture(batches={"x": 1}))


def test_phases_change_the_clips_on_their_step_whoever_makes_them(videos):
    source = clips(videos, phases=[Phase(from_step=2, frames=5), Phase(from_step=3, max_objects=1)])
    found = batches(source, 0, 4)
    assert [batch.frames.shape[1] for batch in found] == [3, 3, 5, 5]
    assert len(found[3].masks) == 2 < len(found[2].masks)
    same(found[3], batches(source, 3, 4)[0])


def test_modes_that_do_not_fit(pictures, videos):
    with pytest.raises(ConfigError, match="use alternate, probability or size"):
        clips(pictures, videos)
    with pytest.raises(ConfigError, match="every data set of the stage holds images"):
        clips(pictures, mixture=Mixture(mode="alternate"))
    with pytest.raises(ConfigError, match="no data set"):
        clips()
    with pytest.raises(ConfigError, match=r"^weights\.x is 0"):
        Mixture(weights={"x": 0})
