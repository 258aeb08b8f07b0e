"""The pages as a browser shows them: nothing fetched, nothing reported, nothing wider than a phone."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from stages.evaluation.compare import compare
from stages.evaluation.details import Details
from stages.evaluation.jf import ObjectScore, Protocol, VideoScore, VideoScores
from stages.evaluation.media import write_video
from stages.evaluation.overlays import Shown, film, strip
from stages.evaluation.report.comparison import write_comparison
from stages.evaluation.report.data import Case, Curve, ReportData, StageRow
from stages.evaluation.report.page import write_report
from stages.evaluation.scored import scored_details
from stages.evaluation.summary import ImageSummary, Summary, summarise

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine"),
]
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--dump-dom",
    "--window-size=1600,1000", "--virtual-time-budget=5000",
)  # fmt: skip
PROBE = """<script>
window.troubles = [];
addEventListener("error", e => troubles.push(String(e.message || (e.target.src || "").slice(0, 80))), true);
addEventListener("securitypolicyviolation", e => troubles.push("fetches " + e.blockedURI));
addEventListener("load", () => setTimeout(() => {
  const wide = [...document.querySelectorAll("main *")].filter(
    e => !e.closest(".scroll, pre, .unseen, svg") && e.getBoundingClientRect().right > innerWidth + 1
      || e.matches(".tile") && e.scrollWidth > e.clientWidth);
  const fetched = performance.getEntriesByType("resource").map(e => e.name);
  parent.postMessage(JSON.stringify({
    width: innerWidth, page: document.documentElement.scrollWidth,
    wide: wide.slice(0, 5).map(e => e.outerHTML.slice(0, 120)),
    fetched: fetched.filter(name => !name.startsWith("data:")), troubles: troubles,
    ground: getComputedStyle(document.body).backgroundColor,
  }), "*");
}, 300));
</script>"""
WINDOW = """<!doctype html><meta name="color-scheme" content="light dark"><body>
<script>addEventListener("message", e => document.body.dataset.probe = e.data)</script>
<iframe src="probed.html" style="width: {width}px; height: 900px; border: 0"></iframe>"""
"""A browser window is never narrower than 500 pixels; a frame in it may be as narrow as a phone."""
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def scores(level: float) -> VideoScores:
    rng = np.random.default_rng(int(level))
    seen = np.ones(12, bool)
    seen[4:6] = False
    videos = []
    for place in range(30):
        j = np.clip(level / 100 + rng.normal(0, 0.2, 12), 0, 1)
        name = f"a_rather_long_video_name_without_a_break_{place:03}"
        objects = tuple(ObjectScore(n, tuple(range(12)), j, j * 0.9, seen, seen) for n in (1, 2))
        videos.append(VideoScore(name, objects))
    return VideoScores(tuple(videos), Protocol(), "5" * 64, "each object shown as a mask")


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """A report with everything in it, and a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    frames = np.full((9, 48, 80, 3), 90, np.uint8)
    masks = np.zeros((9, 1, 48, 80), bool)
    masks[:, 0, 10:30, 20:50] = True
    shown = Shown("clip", frames, masks, {"image pretrain": masks, "video train": ~masks})
    clip = write_video(film([shown]), folder / "clip.mp4")
    curves = (Curve("loss", range(200), np.linspace(5, 1, 200)),)
    pictures = ImageSummary({1: 0.6, 3: 0.7}, 10, 20, "one click per round", "6" * 64)
    rows = tuple(
        StageRow(
            name, Summary(pictures, summarise(None, scores(level)).video), 250, 900,
            f"runs:/{'3f' * 16}/checkpoints/model.pt", str(place) * 64, str(place - 1) * 64 if place else "",
            curves, name, Details(None, scores(level)),
            {"stage": {"optim": {"lr": 1e-4 * (place + 1)}, "datasets": ["a_data_set"] * place}},
        )
        for place, (name, level) in enumerate(
            {"image_pretrain": 20, "video_train": 60, "joint_train": 65}.items()
        )
    )  # fmt: skip
    data = ReportData(
        "a_run_with_quite_a_long_name_" * 3, "smoke", rows, "The three stages.",
        untrained=summarise(None, scores(5)), untrained_details=Details(None, scores(5)),
        repeated=summarise(None, scores(30)),
        cases=(Case("clip (best of 1 drawn)", "J&F 66.0", strip(shown), clip),), film=clip,
        config={"seed": 3, "root": "/data/" + "very_long_folder_name/" * 9}, facts={"seed": "3"},
    )  # fmt: skip
    pair = compare(
        *(scored_details(Details(None, scores(level)), f"runs/{level}", f"/{level}") for level in (60, 65))
    )  # fmt: skip
    return {
        "report": write_report(data, folder / "report.html"),
        "comparison": write_comparison([pair], folder / "compare.html", 0.5),
    }


def look(page: Path, folder: Path, width: int, *, dark: bool) -> dict:
    """What the browser has to say of the page, which may fetch nothing."""
    html = page.read_text(encoding="utf-8")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    probed = folder / "probed.html"
    probed.write_text(html.replace("<head>", f"<head>{policy}{PROBE}", 1), encoding="utf-8")
    window = folder / "window.html"
    window.write_text(WINDOW.format(width=width), encoding="utf-8")
    ended = subprocess.run(
        [CHROMIUM, *OPTIONS, f"--user-data-dir={folder / 'profile'}",
         f"--blink-settings=preferredColorScheme={0 if dark else 1}", window.as_uri()],
        capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    found = re.search(r'data-probe="([^"]*)"', ended.stdout)
    assert found, ended.stderr[-2000:]
    probe = json.loads(unescape(found.group(1)))
    probe["console"] = re.findall(r"CONSOLE.*", ended.stderr)
    return probe


@pytest.mark.parametrize("name", ["report", "comparison"])
@pytest.mark.parametrize(("width", "dark"), [(390, False), (600, False), (1400, True)])
def test_a_browser_finds_nothing_to_complain_of(pages, tmp_path, name, width, dark):
    found = look(pages[name], tmp_path, width, dark=dark)
    assert found["width"] == width
    assert found["page"] <= width, found["wide"]
    assert found["wide"] == []
    assert (found["fetched"], found["troubles"], found["console"]) == ([], [], [])
    assert found["ground"] == ("rgb(18, 21, 28)" if dark else "rgb(246, 247, 249)")


def test_the_probe_sees_what_is_wrong(tmp_path):
    """A page that overflows, fetches and fails, so that the test above can."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><html><head></head><body><main><p style='width:900px'>x</p>"
        "<img src='http://127.0.0.1:9/x.png'><script>nothing()</script></main></body></html>"
    )
    found = look(page, tmp_path, 390, dark=False)
    assert found["page"] > 390
    assert found["wide"]
    assert any("fetches" in trouble for trouble in found["troubles"])
    assert any("nothing" in trouble for trouble in found["troubles"])
    assert found["console"]
