"""HTML reports in a real browser: plots, no errors, filters, accessibility, hostile names."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from groundspeed.fleet.screen.score import score
from groundspeed.fleet.screen.screen_table import screen
from groundspeed.fleet.table import clean_fleet
from groundspeed.fleet.trial.simulated_fleet import Fault, simulate_fleet
from groundspeed.report.fleet import fleet_page
from groundspeed.report.page import Axis, Figure, Section, Table, as_script, numbers, render
from groundspeed.report.page import Page as Report
from groundspeed.report.sources import page_of
from profile_factory import profile as make_profile
from program import groundspeed

HOSTILE = "</script><script>window.hit=1</script><img src=x onerror=window.hit=1>\"'`${1}"


@dataclass
class Opened:
    """A report open in a browser, with its console messages and requested URLs."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


def opened(browser: Browser, path: Path, **options: Any) -> Opened:
    page = browser.new_page(**options)
    view = Opened(page)
    page.on("console", lambda m: view.said.append(m.text) if m.type != "log" else None)
    page.on("pageerror", lambda e: view.said.append(str(e)))
    page.on("request", lambda r: view.asked.append(r.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready=yes]", timeout=60_000)
    return view


def written(folder: Path, report: Report) -> Path:
    path = folder / "report.html"
    path.write_text(render(report), encoding="utf-8")
    return path


def hostile_fleet(nodes: int = 12) -> Report:
    faults = (Fault(3, 1, 0.2), Fault(5, 2, 0.06), Fault(7, 7, 0.3, ("hbm_copy",)))
    frame = simulate_fleet(nodes, seed=3, faults=faults).table
    frame["node"] = frame["node"].replace({"n00003": HOSTILE, "n00004": "../../x", "n00006": "=1"})
    frame["metric"] = frame["metric"].replace({"matmul_fp8": "matmul_<b>fp8</b>"})
    table = clean_fleet(frame, "x")
    return fleet_page(table, score(table), screen(table), f"{HOSTILE}.csv")


@pytest.fixture(scope="module")
def estimate_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("estimate") / "estimate.json"
    ran = groundspeed("estimate", "llama-3.1-8b", "--gpu", "h200", "--gpu", "mi300x",
                      "--concurrency", "1,8,32", "--json", "-o", str(path))  # fmt: skip
    assert ran.code == 0, ran.err
    return path


KINDS = ("profile", "fleet", "estimate", "comparison")


@pytest.fixture(params=KINDS)
def report(request: pytest.FixtureRequest, estimate_json: Path, tmp_path: Path) -> Path:
    kind = str(request.param)
    if kind == "profile":
        return written(tmp_path, page_of(["h200"]))
    if kind == "fleet":
        return written(tmp_path, hostile_fleet())
    if kind == "estimate":
        return written(tmp_path, page_of([str(estimate_json)]))
    return written(tmp_path, page_of(["h200", "h100"]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_report_draws_its_plots_without_errors_and_is_accessible(
    browser: Browser, report: Path, scheme: str
) -> None:
    view = opened(browser, report, color_scheme=scheme, viewport={"width": 1200, "height": 900})
    plots = view.page.locator(".plot").count()
    assert plots > 0
    assert view.page.locator(".plot[data-drawn=yes]").count() == plots
    for i in range(plots):
        plot = view.page.locator(".plot").nth(i)
        assert plot.locator("svg.main-svg").count() > 0
        assert plot.locator(".trace, .heatmaplayer image, .points path").count() > 0
    assert view.said == []
    assert [u for u in view.asked if not u.startswith(("file:", "data:", "blob:"))] == []
    audit = Axe().run(view.page)
    serious = [
        (v["id"], [n["html"][:120] for n in v["nodes"][:3]])
        for v in audit.response["violations"]
        if v["impact"] in ("serious", "critical")
    ]
    assert serious == []
    view.page.close()


def test_script_in_a_node_name_is_shown_and_not_run(browser: Browser, tmp_path: Path) -> None:
    view = opened(browser, written(tmp_path, hostile_fleet()))
    assert view.page.evaluate("() => window.hit") is None
    assert view.page.locator("img[src=x]").count() == 0
    assert view.page.get_by_text("</script><script>window.hit=1").count() > 0  # shown as plain text
    view.page.locator("#heat").hover()
    assert view.page.evaluate("() => window.hit") is None
    view.page.close()


def test_filter_hides_rows_and_the_heat_map_shows_a_tooltip(
    browser: Browser, tmp_path: Path
) -> None:
    size = {"width": 1200, "height": 900}
    view = opened(browser, written(tmp_path, hostile_fleet()), viewport=size)
    page = view.page
    box = page.locator("[data-filtered]").first
    rows = box.locator("tbody tr")
    everybody = rows.count()
    box.get_by_label("Filter").fill("n00005 gpu")
    shown = [r for r in rows.all() if r.is_visible()]
    assert 0 < len(shown) < everybody
    assert all("n00005" in (r.text_content() or "") for r in shown)
    assert box.locator(".count").text_content() == f"{len(shown)} of {everybody}"
    box.get_by_label("Filter").fill("")
    heat = page.locator("#heat .nsewdrag")
    heat.scroll_into_view_if_needed()
    spot = heat.bounding_box()
    assert spot is not None
    page.mouse.move(spot["x"] + spot["width"] / 2, spot["y"] + spot["height"] / 2)
    page.wait_for_selector(".hoverlayer .hovertext")
    assert "below its class" in (page.locator(".hoverlayer").first.text_content() or "")
    page.close()


def test_click_on_a_legend_entry_hides_its_curve(browser: Browser, estimate_json: Path,
                                              tmp_path: Path) -> None:  # fmt: skip
    view = opened(browser, written(tmp_path, page_of([str(estimate_json)])))
    plot = view.page.locator("#latency-throughput")
    before = plot.locator(".scatterlayer .trace").count()
    plot.locator(".legendtoggle").first.click()
    view.page.wait_for_timeout(800)  # plotly waits for a possible double click
    assert plot.locator(".scatterlayer .trace").count() == before - 1
    view.page.close()


def test_skip_link_works_by_keyboard_and_print_hides_the_navigation(
    browser: Browser, tmp_path: Path
) -> None:
    view = opened(browser, written(tmp_path, hostile_fleet()))
    view.page.keyboard.press("Tab")
    assert view.page.evaluate("() => document.activeElement.className") == "skip"
    view.page.keyboard.press("Enter")
    assert view.page.evaluate("() => document.activeElement.id") == "main"
    view.page.emulate_media(media="print")
    assert not view.page.locator("nav").is_visible()
    assert len(view.page.pdf()) > 20_000
    view.page.close()


def test_report_files_stay_below_their_size_limits(tmp_path: Path) -> None:
    assert len(render(page_of(["h200"])).encode()) < 3_000_000
    table = clean_fleet(simulate_fleet(1000, seed=1, extra_metrics=27).table, "x")
    big = render(fleet_page(table, score(table), screen(table), "a thousand nodes"))
    assert len(big.encode()) < 10_000_000


def test_report_of_a_thousand_nodes_opens_without_errors(browser: Browser, tmp_path: Path) -> None:
    table = clean_fleet(simulate_fleet(1000, seed=1, extra_metrics=27).table, "x")
    report = fleet_page(table, score(table), screen(table), "a thousand nodes")
    view = opened(browser, written(tmp_path, report))
    assert view.said == []
    view.page.close()


def test_report_of_a_measured_profile_shows_its_device_and_warnings(
    browser: Browser, tmp_path: Path
) -> None:
    profile = make_profile()
    path = tmp_path / "p.json"
    path.write_text(profile.model_dump_json())
    view = opened(browser, written(tmp_path, page_of([str(path)])))
    assert view.page.locator("h1").text_content() == profile.device.name
    for warning in profile.warnings:
        assert view.page.get_by_text(warning).count() == 1
    view.page.close()


def test_report_of_a_backtest_draws_its_scatter_plot(
    reference: Path, browser: Browser, tmp_path: Path
) -> None:
    rows = (reference / "e2e_dev.csv").read_text().splitlines()
    table = tmp_path / "some.csv"
    table.write_text("\n".join([rows[0], *rows[300:330]]))
    result = tmp_path / "backtest.json"
    ran = groundspeed("backtest", str(table), "--json", "-q", "-o", str(result))
    assert ran.code == 0, ran.err
    view = opened(browser, written(tmp_path, page_of([str(result)])))
    assert view.page.locator("#scatter-tpot_ms .points path").count() > 5
    assert view.said == []
    view.page.close()


# Tests without a browser.


@pytest.mark.parametrize("text", [HOSTILE, "<!--", "\u2028", "&amp;", "]]>"])
def test_any_text_is_escaped_in_a_script(text: str) -> None:
    script = as_script({text: [text]})
    assert "<" not in script and ">" not in script
    assert json.loads(script) == {text: [text]}


def test_numbers_are_rounded_and_nan_and_infinity_become_null() -> None:
    assert numbers(np.array([1.23456789e14, np.nan, np.inf, 0.0])) == [1.235e14, None, None, 0.0]


def test_two_figures_with_the_same_id_are_refused() -> None:
    figure = Figure("a", "A.", "Nothing.", [], Axis("x"), Axis("y"))
    page = Report("t", "s", [], [Section("one", figures=[figure, figure])])
    with pytest.raises(ValueError, match="two figures have the same name"):
        render(page)


def test_page_without_plots_does_not_include_plotly() -> None:
    text = render(Report("t", "s", [], [Section("one", tables=[Table(("a",), [("b",)])])]))
    assert len(text) < 20_000


def test_on_the_command_line(tmp_path: Path) -> None:
    ran = groundspeed("report", "h200", "-o", str(tmp_path / "r.html"))
    assert ran.code == 0
    assert "r.html" in ran.out
    ran = groundspeed("report", "h200", "-o", str(tmp_path / "r.html"))
    assert (ran.code, "--force" in ran.err) == (2, True)
    broken = tmp_path / "x.json"
    for text, reason in (
        ("{", "not valid JSON"),
        ("[]", "not a result of groundspeed"),
        ("{}", "not a profile or a result that has a report"),
        ('{"predictions":[{"concurrency":1}]}', "cannot be read as a result of groundspeed"),
    ):
        broken.write_text(text)
        ran = groundspeed("report", str(broken), "-o", str(tmp_path / "y.html"))
        assert ran.code == 2
        assert ran.err.count("\n") == 1
        assert reason in ran.err
    ran = groundspeed("report", "b200", "h100", "h200", "-o", str(tmp_path / "y.html"))
    assert ran.code == 2


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("plan", "llama-3.1-8b", "--gpu", "h100", "--gpus", "2", "--slo", "tpot=20"),
         "Plan of llama-3.1-8b"),
        (("compare", "llama-3.1-8b", "--option", "gpu=h100", "--option", "gpu=h200"),
         "Comparison of deployments"),
        (("estimate", "llama-3.1-8b", "--gpu", "h100"), "llama-3.1-8b on 1 x h100-sxm"),
    ],
)  # fmt: skip
def test_every_result_has_a_report(command: tuple[str, ...], said: str, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    ran = groundspeed(*command, "-o", str(result))
    assert ran.code == 0, ran.err
    written = groundspeed("report", str(result), "-o", str(tmp_path / "page.html"))
    assert written.code == 0, written.err
    assert said in (tmp_path / "page.html").read_text()
