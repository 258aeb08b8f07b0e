"""Everything that goes wrong with files, one by one: a reader gives one message with file, field,
what was found and expected, and what to do; the doctor the same as a finding; training sets the
item aside and counts it."""

import os

import pytest

from data.doctor.examine import Rules
from data.doctor.survey import survey
from data.mixture import TrainingClips, loader
from data.settings import Augment, ClipSampling, Mixture
from data.sources import open_dataset
from data.spec import DatasetSpec
from pipeline.cache import SHARED
from pipeline.errors import DataError
from tests.data.breakage import BROKEN, ITEMS, Broken
from tests.data.three_items import make


def broken_set(case: Broken, root) -> DatasetSpec:
    """A data set opened while it was whole, then broken."""
    if case.found == "Permission denied" and os.geteuid() == 0:
        pytest.skip("root may read anything")
    make(case.format, root)
    spec = DatasetSpec(format=case.format.split()[0], root=str(root), **case.spec)
    if not case.spec:
        assert len(open_dataset(spec)) == 3
    case.harm(root)
    SHARED.clear()
    return spec


def messages(spec: DatasetSpec) -> list[str]:
    """What the reader says about all items."""
    try:
        dataset = open_dataset(spec)
    except DataError as error:
        return [str(error)]
    said = []
    for index in range(len(dataset)):
        try:
            dataset.load(index)
        except DataError as error:
            said.append(str(error))
    return said


@pytest.mark.parametrize("name", BROKEN)
def test_the_reader_gives_one_message(tmp_path, name):
    case = BROKEN[name]
    (said,) = messages(broken_set(case, tmp_path / "set"))
    assert "\n" not in said and len(said) < 600
    assert str(tmp_path / "set") in said
    for part in (case.file, case.field, case.found, case.expected, case.fix):
        assert part in said, part


@pytest.mark.parametrize("name", BROKEN)
def test_the_doctor_gives_one_finding(tmp_path, name):
    case = BROKEN[name]
    found, _ = survey(broken_set(case, tmp_path / "set"), "set", Rules())
    (finding,) = [finding for finding in found.findings if finding.severity == "error"]
    assert finding.file.endswith(case.file)
    assert finding.file.startswith(str(tmp_path / "set"))
    assert case.field in finding.field
    assert case.found in finding.found
    assert case.expected in finding.expected
    assert case.fix in finding.fix
    if name in ITEMS:
        assert found.examined == 3, "the others are looked at all the same"


@pytest.mark.parametrize("name", ITEMS)
def test_training_sets_the_item_aside(tmp_path, name):
    case = ITEMS[name]
    dataset = open_dataset(broken_set(case, tmp_path / "set"))
    for allowed in (1.0, 0.0):
        mixture = Mixture(image_batch=3, video_batch=3, max_broken=allowed)
        sampling, plain = ClipSampling(frames=8), Augment(flip=0.0)
        clips = TrainingClips({"set": dataset}, mixture, sampling, plain, image_size=16, seed=0)
        quarantine = clips.quarantine()
        batches = loader(clips, start_step=0, stop_step=2, quarantine=quarantine)
        if allowed:
            (first, _) = list(batches)
            ((_, lost), reason) = next(iter(quarantine.found().items()))
            assert quarantine.count() == 1 and lost not in first.names
            assert len(first.names) == 3, "another item takes its place"
            assert case.found in reason
        else:
            with pytest.raises(DataError, match=r"1 of 3 samples are broken.*max_broken"):
                list(batches)
