"""The report: what it says about the numbers, and that it stands alone."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import DataError
from stages.evaluation.details import Details, PictureScores
from stages.evaluation.image import ImageScores
from stages.evaluation.jf import Protocol, VideoScores, score_video
from stages.evaluation.media import write_video
from stages.evaluation.report.data import Case, Curve, Measured, ReportData, StageRow
from stages.evaluation.report.headline import headline, time_text
from stages.evaluation.report.page import write_report
from stages.evaluation.report.story import story
from stages.evaluation.summary import (
    ImageSummary,
    Summary,
    VideoSummary,
    read_summary,
    summarise,
    write_summary,
)


def summary(miou: float | None, jf: float | None) -> Summary:
    image = video = None
    if miou is not None:
        image = ImageSummary({1: miou, 3: miou + 0.1}, 10, 25, "clicks", "a" * 64)
    if jf is not None:
        sequences = {"swan": jf + 5, "<b>goat</b>": jf - 5}
        video = VideoSummary(jf, jf - 1, jf + 1, 90.0, 4, "first masks", "b" * 64, sequences)
    return Summary(image, video)


@pytest.fixture
def data(tmp_path) -> ReportData:
    frames = [np.full((32, 48, 3), value, np.uint8) for value in range(0, 200, 20)]
    curves = (Curve("loss", range(100), np.linspace(5, 1, 100)), Curve("mIoU", [0, 50], [0.1, 0.5]))
    return ReportData(
        run="smoke",
        recipe="smoke",
        stages=(
            StageRow(
                "image_pretrain", summary(0.53, 12.0), 250, 900, "pre.pt", "1" * 64, "", curves
            ),
            StageRow("video_train", summary(0.22, 55.0), 400, 1600, "vid.pt", "2" * 64, "1" * 64),
            StageRow("joint_train", summary(0.49, 60.0), 3660, 800, "joint.pt", "3" * 64, "2" * 64),
        ),
        description="Pictures, then video, then both.",
        untrained=summary(0.05, 4.0),
        repeated=summary(None, 30.0),
        cases=(Case("Best: swan", "J&F 65", frames[0]),),
        film=write_video(frames, tmp_path / "film.mp4"),
        config={"seed": 3, "note": "</pre><script>alert(1)</script>"},
        facts={"model": "micro"},
    )


def test_story_of_forgetting_and_recovery(data):
    assert story(data) == (
        "Video train moved J&F by +43.0 and cost 0.31 of mIoU@1 (0.53 → 0.22), "
        "of which joint train won back 87% (0.49); "
        "on held-out video the run ends at J&F 60.0, 30.0 points above repeating the first mask."
    )


@pytest.mark.parametrize(
    ("mious", "said"),
    [
        ([0.5, 0.2, 0.6], "all of which c won back (0.60)"),
        ([0.5, 0.2, 0.21], "which c did not win back (0.21)"),
        ([0.5, 0.2], "cost 0.30 of mIoU@1 (0.50 → 0.20); on"),
        ([0.5, 0.5, 0.6], "no stage clearly unlearned pictures: mIoU@1 went from 0.50 to 0.60"),
    ],
)
def test_other_stories(mious, said):
    stages = tuple(StageRow(n, summary(m, 20.0)) for n, m in zip("abc", mious, strict=False))
    text = story(ReportData("r", "r", stages, repeated=summary(None, 30.0)))
    assert said.lower() in text.lower()
    assert "10.0 points below repeating" in text


def details(miou: float, split: str = "s") -> Details:
    """Twenty objects in ten pictures that scatter around `miou`."""
    ious = np.clip(miou + np.random.default_rng(int(100 * miou)).normal(0, 0.2, (20, 3)), 0, 1)
    names = tuple(f"p{place // 2}" for place in range(20))
    return Details(PictureScores(names, ious, split, "clicks"))


@pytest.mark.parametrize(
    ("after", "said"), [(0.45, "no stage clearly unlearned"), (0.2, "cost 0.30 of miou@1")]
)
def test_a_loss_within_chance_is_not_told_as_one(after, said):
    stages = tuple(
        StageRow(name, summary(miou, 20.0), details=details(miou))
        for name, miou in (("a", 0.5), ("b", after))
    )
    assert said in story(ReportData("r", "r", stages)).lower()


def test_changes_have_arrows_only_where_single_scores_show_them(data):
    assert {cell.verdict for row in headline(data) for cell in row.cells} == {"same"}
    rows = (
        replace(data.stages[0], details=details(0.2)),
        replace(data.stages[1], details=details(0.8)),
    )
    assert headline(replace(data, stages=rows))[-1].cells[0].verdict == "better"
    other = replace(rows[1], details=details(0.8, "another split"))
    cell = headline(replace(data, stages=(rows[0], other)))[-1].cells[0]
    assert (cell.change, cell.verdict) == ("", "same"), "their difference would measure the data"


def test_story_without_pictures_or_without_anything():
    only_video = ReportData("r", "r", (StageRow("finetune", summary(None, 71.5)),))
    assert story(only_video) == "On held-out video the run ends at J&F 71.5."
    assert story(ReportData("r", "r", (StageRow("finetune", Summary()),))) == ""


class Page(HTMLParser):
    """Collects what a browser would fetch, the elements, and the visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.elements.append((tag, dict(attrs)))
        self.references += [
            value or "" for name, value in attrs if name in ("src", "href", "poster", "srcset")
        ]

    def handle_data(self, data):
        self.text.append(data)


def test_report_stands_alone_and_says_what_it_should(data, tmp_path):
    trained = tuple(replace(row, kind="finetune") for row in data.stages)
    path = write_report(replace(data, stages=trained), tmp_path / "out" / "report.html")
    html = path.read_text(encoding="utf-8")
    page = Page()
    page.feed(html)
    assert all(ref.startswith(("data:", "#")) for ref in page.references)
    assert "@import" not in html
    assert not re.findall(r"url\((?!#)", html)
    assert "script" not in page.tags
    assert (tmp_path / "out" / "figures" / "stages.png").stat().st_size > 2000
    assert "video" in page.tags
    text = " ".join(" ".join(page.text).split())
    for part in (
        "untrained network",
        "first mask repeated",
        "−0.310",
        "+43.0",
        "split aaaaaaaaaaaa",
        "split bbbbbbbbbbbb",
        "1 h 1 min",
        "<b>goat</b>",
        "started from scratch",
        "started from 2222222222222222",
        "alert(1)",
    ):
        assert part in text, part
    assert html.count("<svg") == 3
    assert "currentColor" in html
    assert "prefers-color-scheme" in html
    ids = re.findall(r'<(?:path|clipPath|g|symbol)[^>]* id="([mp][0-9a-f]{10})"', html)
    assert len(ids) == len(set(ids))


def test_the_page_reads_without_eyes_mouse_or_script(data, tmp_path):
    page = Page()
    page.feed(write_report(data, tmp_path / "r.html").read_text(encoding="utf-8"))
    for tag, attributes in page.elements:
        if tag == "img":
            assert len(attributes.get("alt") or "") > 10
        if tag in ("svg", "video"):
            assert len(attributes.get("aria-label") or "") > 10
        if tag == "th":
            assert attributes["scope"] in ("col", "row", "colgroup")
        if attributes.get("class") == "scroll":
            assert attributes["tabindex"] == "0" and attributes["aria-label"]
    assert page.tags.count("caption") == page.tags.count("table") > 0
    assert page.tags.count("summary") == page.tags.count("details") > 0
    assert page.tags.count("h1") == 1


def test_published_figures_are_marked_as_not_ours(data, tmp_path):
    kinds = (replace(row, kind=row.name) for row in data.stages)
    html = write_report(replace(data, stages=tuple(kinds)), tmp_path / "r.html").read_text()
    marked = re.findall(r'<td class="theirs">([\d.]+)</td>', html)
    assert marked == ["91.1", "89.3", "78.2", "91.5", "82.5"]
    assert "published, not measured here" in html
    words = re.sub(r"<svg.*?</svg>|data:[^\"]*", "", html, flags=re.DOTALL)
    assert [words.count(number) for number in marked] == [1] * 5
    assert 'class="theirs"' not in write_report(data, tmp_path / "other.html").read_text()


def test_further_protocols_have_a_table_with_what_they_mean(data, tmp_path):
    first, *others = data.stages
    figures = {"noc85": 3.254, "returns": 12345.0, "jf_returned/away 1-5": 7.0, "own_figure": 1.0}
    measured = Measured(figures, "clicks until IoU 0.85", "7" * 64)
    less = replace(measured, metrics={"noc85": 3.25})
    more = [{"clicks": measured}, *({"clicks": less} for _ in others[1:])]
    rows = (first, *(replace(row, more=one) for row, one in zip(others, more, strict=True)))
    page = Page()
    page.feed(write_report(replace(data, stages=rows), tmp_path / "r.html").read_text())
    text = " ".join(" ".join(page.text).split())
    assert "Also measured clicks" in text
    assert "clicks to IoU 85 % 3.25 3.25" in text
    assert "returns of objects 12345 –" in text
    assert "J&F after a return (away 1-5) 7.00 –" in text and "own figure 1.00 –" in text
    assert text.count("clicks until IoU 0.85; split 777777777777") == 1


def test_report_with_little_to_show(tmp_path):
    rows = (StageRow("finetune", summary(None, 71.5)),)
    text = write_report(ReportData("r", "finetune", rows), tmp_path / "r.html").read_text()
    assert "71.5" in text
    assert "Best and worst" not in text
    assert "<video" not in text
    write_report(ReportData("r", "finetune", (StageRow("a", Summary()),)), tmp_path / "e.html")


def test_long_lists_of_sequences_show_both_ends(data, tmp_path):
    video = data.stages[-1].summary.video
    assert video is not None
    many = replace(video, sequences={f"clip-{i:03d}": float(i) for i in range(100)})
    row = replace(data.stages[-1], summary=Summary(None, many))
    html = write_report(replace(data, stages=(row,)), tmp_path / "r.html").read_text()
    assert "76 more between these and the last 12" in html
    assert "clip-099" in html
    assert "clip-000" in html
    assert "clip-050" not in html


def test_times():
    assert [time_text(t) for t in (3.4, 60, 200, 3600, 7500)] == [
        "3 s",
        "1 min",
        "3 min 20 s",
        "1 h",
        "2 h 5 min",
    ]


def test_summaries_survive_the_disk(tmp_path):
    truth = np.zeros((5, 1, 20, 20), bool)
    truth[:, 0, 4:12, 4:12] = True
    video = score_video(truth, truth, name="v")
    images = ImageScores(("a", "a", "b"), np.array([[0.1, 0.2, 0.3]] * 3), "s1")
    found = summarise(images, VideoScores((video,), Protocol(), "s2", "given"))
    write_summary(tmp_path / "summary.json", found)
    assert read_summary(tmp_path / "summary.json") == found
    assert found.metrics() == {
        "image/miou@1": pytest.approx(0.1),
        "image/miou@2": pytest.approx(0.2),
        "image/miou@3": pytest.approx(0.3),
        "video/jf": 100.0,
        "video/j": 100.0,
        "video/f": 100.0,
        "video/presence": 100.0,
    }
    assert found.video is not None
    assert found.video.protocol.startswith("given; objects counted from first sight (SA-V)")
    assert Summary().metrics() == {}


@pytest.mark.parametrize("content", ["", "{}", '{"image": 3, "video": null}', "[]"])
def test_broken_summary_is_named(tmp_path: Path, content):
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(DataError, match=r"s\.json is not an evaluation summary"):
        read_summary(tmp_path / "s.json")
