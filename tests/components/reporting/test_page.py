"""The page: complete, self-contained, and fit for a phone; looked at in a real browser."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.data import astronaut

from components import images
from components.reporting import comparison, groups
from components.reporting.charts import Node
from components.reporting.comparison import Compared, FaceScores, Pair
from components.reporting.gallery import Gallery
from components.reporting.page import Output, Report, TableFacts, WeightsFacts, _training, render

GAINS = {"sd21-sdfm": 1.5, "sd21-text": 0.9, "qwen-sdfm": -0.4}


def _result(model: str, gain: float) -> dict[str, Any]:
    backbone, condition = model.split("-")
    random = np.random.default_rng(1)
    faces = []
    for i in range(30):
        before = random.normal(22, 2)
        roles = {"degraded": before, "restored": before + gain + random.normal(0, 0.3)}
        if condition == "sdfm":
            roles = {"degraded": before, "intermediate": before + 0.2, **roles}
        angle = {role: 60 - value for role, value in roles.items()}
        faces.append(FaceScores(f"face {i}", 0, {"psnr": roles, "identity_angle": angle}))
    facts = {"name": model, "fingerprint": "ab" * 32, "backbone": backbone, "condition": condition}
    protocol = {"faces": "30 <i>faces</i>", "size": 64, "degradation": {"sigma": [0.1, 3]}}
    why = {"lpips": "weights are missing under /hub"}
    result = comparison.result(facts, protocol, faces, why, samples=300, seed=1)
    noise = {
        f"face {i}": f"{1 + i // 15}: {i // 15 * 10} to {10 + i // 15 * 10}" for i in range(30)
    }
    age = {f"face {i}": ("<30", "30+")[i % 2] for i in range(20)}
    return groups.add(result, {"noise": noise, "age": age}, samples=99, seed=1)


def _gallery(model: str, size: int) -> Gallery:
    hq = images.resize(astronaut()[0:256, 96:352].copy(), size)
    lq = images.resize(images.resize(hq, size // 4), size)
    has_gate = model.endswith("sdfm")
    gate = np.linspace(0.2, 0.4, 16, dtype=np.float32).reshape(4, 4) if has_gate else None
    pair = Pair('a "quoted" <b>.jpg', 0, hq, lq)
    one = Compared(pair, lq if has_gate else None, hq, gate, {"psnr": {"degraded": 20.0}})
    worse = replace(one, scores={"psnr": {"degraded": 20.0, "restored": 18.75}})
    return Gallery.of(model, [one, one], [] if model.endswith("text") else [worse])


def test_scores_of_a_validation_have_charts_of_their_own_and_memory_has_none() -> None:
    history = [
        {"step": float(step), "loss": 1 / step, "system/host_memory_gb": 2.0}
        | ({"validation_psnr": 20.0 + step, "best_step": step} if step % 4 == 0 else {})
        for step in range(1, 13)
    ]
    drawn = list(_training("sd21-sdfm", history))
    assert [(one["title"], [curve.name for curve in one["curves"]]) for one in drawn] == [
        ("sd21-sdfm: losses", ["loss"]),
        ("sd21-sdfm: psnr of test faces", ["validation_psnr"]),
    ]


def _report(size: int = 64) -> Report:
    history = [
        {"step": float(step), "mse": math.exp(-step / 50), "loss": 1.1 * math.exp(-step / 50)}
        | {"images_per_s": 20.0 + step % 3, "learning_rate": 1e-3}
        for step in range(1, 150)
    ]
    return Report(
        title="HDRFace & friends",
        results={model: _result(model, gain) for model, gain in GAINS.items()},
        galleries={model: _gallery(model, size) for model in GAINS},
        histories=dict.fromkeys(GAINS, history),
        tables=[TableFacts("faces", "faces", "c0ffee" * 8, 157, [("b<a>d.jpg", "not a JPEG")])],
        weights=[WeightsFacts("sd21", "stand-in", "trained here", "Apache-2.0", 28.13)],
        params={"degrade": "seed: 42\n" + "long: " + "x" * 300},
        commit="0123456789abcdef",
        is_dirty=True,
        stages=[Node("faces", (), frozenset()), Node("degrade", (), frozenset({"faces"}))],
        outputs=[Output("faces", "data/faces", "f00" * 10)],
    )


@pytest.fixture(scope="module")
def html() -> str:
    return render(_report())


def test_logits_have_a_chart_of_their_own_and_shares_have_none() -> None:
    """They may be negative, which a logarithmic axis of losses cannot show."""
    report = _report()
    points = [
        {"step": float(step), "loss": 10.0**-step, "discriminator": 0.7, "gradient_norm": 3.0}
        | {"logit_real": 0.1, "logit_fake": -0.2, "share_latent": 0.5}
        for step in range(1, 5)
    ]
    html = render(replace(report, histories={"sd21-sdfm": points}))
    charts = re.findall(r'aria-label="(sd21-sdfm: [^"]*)"', html)
    assert charts == [
        "sd21-sdfm: losses, over steps, logarithmic axis",
        "sd21-sdfm: the discriminator&#39;s mean logits, over steps, linear axis",
    ]
    legends = re.findall(r'class="key line s\d">(\w+)<', html)
    assert legends == ["loss", "discriminator", "logit_real", "logit_fake"]


def test_models_are_sorted_and_the_best_is_bold_whichever_way_is_better(html: str) -> None:
    # Better is a higher PSNR and a lower angle, so both tables have one order here.
    for metric in ("psnr", "identity_angle"):
        rows = html.split(f'data-metric="{metric}"')
        order = [row.rsplit('data-model="', 1)[1].split('"')[0] for row in rows[:-1]]
        assert order == list(GAINS)
        best = ['class="best"' in row.split("</tr>")[0] for row in rows[1:]]
        assert best == [True, False, False]


def test_a_gain_below_zero_is_called_worse(html: str) -> None:
    highlights = html.split('class="card headline"')[1:4]
    assert ["better" in part.split("</div>")[0] for part in highlights] == [True, True, False]
    assert "tag worse" in highlights[2]


def test_names_from_outside_are_text_never_markup(html: str) -> None:
    assert "b&lt;a&gt;d.jpg" in html
    assert "30 &lt;i&gt;faces&lt;/i&gt;" in html
    assert "<b>.jpg" not in html
    assert "HDRFace &amp; friends" in html


def test_scores_of_a_group_stand_beside_its_number_of_faces(html: str) -> None:
    rows = _result("qwen-sdfm", -0.4)["groups"]
    [row] = [row for row in rows if (row["metric"], row["group"]) == ("psnr", "<30")]
    part = html.split('data-model="qwen-sdfm" data-grouped="psnr" data-column="age"')[1]
    second = part.split("</td>")[1]  # groups are sorted: 30+ comes first
    assert f">{row['mean']:.2f}<" in second
    assert f"{row['low']:.2f} … {row['high']:.2f}" in second
    assert f"gain −{-row['gain']['mean']:.2f}" in second
    assert '>&lt;30<span class="between">10 faces<' in html
    assert '>0 to 10<span class="between">15 faces<' in html  # without the number that sorts


def test_faces_that_got_worse_have_a_section_with_their_pictures(html: str) -> None:
    section = html.split('<section id="failures">')[1].split("</section>")[0]
    assert "30 of 30" in section or "29 of 30" in section  # qwen-sdfm loses 0.4 dB on average
    assert section.count("worse by 1.25 dB") == 2
    assert section.count("<figure") == 2  # sd21-text has none


def test_missing_metrics_and_rejected_pictures_are_listed(html: str) -> None:
    assert "weights are missing under /hub" in html
    assert "not a JPEG" in html
    assert "changes that were not committed" in html
    assert "28.13 dB" in html


def test_scores_of_different_faces_do_not_share_a_table() -> None:
    report = _report()
    other = {**report.results["qwen-sdfm"]}
    other["protocol"] = {**other["protocol"], "size": 128}
    mixed = Report("x", {**report.results, "qwen-sdfm": other}, {}, {})
    with pytest.raises(ValueError, match=r"scored with size = 64, qwen-sdfm with 128: run 'dvc"):
        render(mixed)
    with pytest.raises(ValueError, match="no metrics file"):
        render(Report("x", {}, {}, {}))


def test_the_page_is_the_same_bytes_again(html: str) -> None:
    assert render(_report()) == html


def test_a_page_needs_no_data_lineage_or_pictures() -> None:
    bare = render(Report("x", {"a-text": _result("a-text", 1)}, {}, {}))
    assert "There is no dvc.lock" in bare
    assert "not in a git repository" in bare
    assert 'id="pictures"' not in bare


def test_large_faces_do_not_make_a_large_page() -> None:
    assert len(render(_report(size=512))) < 1_500_000


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_the_page_is_complete_in_a_browser(
    browser: Any, html: str, tmp_path: Path, width: int, scheme: str
) -> None:
    file = tmp_path / "index.html"
    file.write_text(html, encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    problems: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_load_state("networkidle")

    assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]
    broken = "[...document.images].filter(i => i.src && !(i.complete && i.naturalWidth)).length"
    assert page.evaluate(broken) == 0
    assert page.evaluate("[...document.images].every(i => i.alt || i.closest('dialog'))")
    assert page.evaluate("document.documentElement.scrollWidth") <= width

    restored = page.locator("tr[data-model='sd21-sdfm'][data-metric='psnr'] td").nth(2)
    expected = _result("sd21-sdfm", 1.5)["metrics"]["psnr"]["restored"]
    assert restored.locator(".mean").inner_text() == f"{expected['mean']:.2f}"
    assert restored.locator(".between").inner_text().split() == [
        f"{expected['low']:.2f}",
        "…",
        f"{expected['high']:.2f}",
    ]

    # A tab shows its model and hides the others.
    assert page.locator(".panel:visible").count() == 1
    page.locator("label", has_text="sd21-text").click()
    assert page.locator("#panel2").is_visible()
    assert not page.locator("#panel1").is_visible()

    # The filter leaves no face where none got worse, and says so.
    assert not page.locator("#panel2 .none").is_visible()
    page.locator("label", has_text="only faces that got worse").click()
    assert page.locator("#panel2 .face:visible").count() == 0
    assert page.locator("#panel2 .none").is_visible()
    page.locator("label", has_text="only faces that got worse").click()

    # A picture is enlarged, and the arrow keys flip between its versions.
    page.locator("#panel2 .row button").first.click()
    large = page.locator("dialog img")
    assert large.get_attribute("alt") == 'a "quoted" <b>.jpg, LQ'
    page.keyboard.press("ArrowRight")
    assert large.get_attribute("alt") == 'a "quoted" <b>.jpg, restored'
    box = large.bounding_box()
    assert box is not None
    assert 64 < box["width"] <= width
    page.keyboard.press("Escape")
    assert not large.is_visible()

    # A chart is read by pointing at it: at its left end stands the first step.
    chart = page.locator(".chart").first
    chart.locator("svg").hover(position={"x": 20, "y": 60})
    assert chart.locator("output").first.inner_text().endswith("at 1")
    assert problems == []
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(browser: Any, html: str, tmp_path: Path, scheme: str) -> None:
    file = tmp_path / "index.html"
    file.write_text(html, encoding="utf-8")
    page = browser.new_page(color_scheme=scheme)
    page.goto(file.as_uri())
    names = ["text", "soft", "link", "better", "worse", "open", "card", "page"]
    names += ["better-bg", "worse-bg", "open-bg"]
    script = "names => names.map(n => getComputedStyle(document.documentElement)"
    script += ".getPropertyValue('--' + n).trim())"
    hexes = dict(zip(names, page.evaluate(script, names), strict=True))
    page.close()
    pairs = [("text", "card"), ("text", "page"), ("soft", "card"), ("soft", "page")]
    pairs += [("link", "card"), ("better", "card"), ("worse", "card")]
    pairs += [(name, f"{name}-bg") for name in ("better", "worse", "open")]
    for front, back in pairs:
        assert _contrast(hexes[front], hexes[back]) >= 4.5, (front, back)  # WCAG AA


def _contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
