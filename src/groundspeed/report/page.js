"use strict";
// Colours that are distinguishable on light and dark backgrounds and by most colour-blind readers.
const COLOURS = ["#4477dd", "#d9722e", "#2f9e6e", "#a566cc", "#b28a1a", "#d14b78", "#2a9db0", "#85898f"];

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function dressed(layout) {
  const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--soft"), automargin: true };
  return Object.assign({}, layout, {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", colorway: COLOURS,
    font: { color: css("--ink"), family: "system-ui, sans-serif", size: 13 },
    margin: { l: 70, r: 20, t: 10, b: 55 }, hovermode: "closest",
    hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--ink") } },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", itemclick: "toggle", itemdoubleclick: "toggleothers" },
    xaxis: Object.assign({}, axis, layout.xaxis), yaxis: Object.assign({}, axis, layout.yaxis),
  });
}

async function draw(name) {
  const element = document.getElementById(name);
  const figure = FIGURES[name];
  await Plotly.react(element, figure.data, dressed(figure.layout), { responsive: true, displayModeBar: false });
  element.dataset.drawn = "yes";
}

async function drawAll() {
  for (const name of Object.keys(FIGURES)) {
    await draw(name);
    await new Promise((resolve) => setTimeout(resolve)); // keep the page responsive between plots
  }
  document.documentElement.dataset.ready = "yes";
}

function filter(box) {
  const input = box.querySelector("input");
  const count = box.querySelector(".count");
  const rows = [...box.querySelectorAll("tbody tr")].map((row) => [row, row.textContent.toLowerCase()]);
  function apply() {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const [row, text] of rows) {
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${rows.length}`;
  }
  input.addEventListener("input", apply);
  apply();
}

document.querySelectorAll("[data-filtered]").forEach(filter);
drawAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
