// Draws the curves of a page by uPlot, in place of the still ones, and lets its reader pick them.
"use strict";

const MOST = 12;
const DASHES = [[], [7, 4], [1, 4], [10, 3, 1, 3], [14, 5], [3, 3]];
let plot = null;
let zoom = null; // what a reader has zoomed to, kept when the page refreshes

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function draw() {
  const figure = document.getElementById("by-epoch");
  if (!figure || !window.uPlot) return;
  const given = JSON.parse(figure.dataset.plot);
  plot?.destroy();
  plot = null;
  if (!given.lines.length) return;
  const axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 } };
  const number = (value, digits) => (value == null ? "–" : value.toFixed(digits));
  const place = document.createElement("div");
  figure.querySelector(".drawn").replaceWith(place);
  figure.querySelector("figcaption .legend")?.remove();
  place.className = "drawn";
  const options = {
    width: place.clientWidth,
    height: 260,
    scales: { x: { time: false } },
    axes: [{ ...axis, label: "epoch", labelSize: 22, size: 34 }, { ...axis, size: 48 }],
    series: [
      { label: "epoch", value: (_, value) => number(value, 0) },
      ...given.lines.map((line, index) => ({
        label: line.label,
        stroke: color(`--l${(index % 6) + 1}`),
        dash: DASHES[index % 6],
        width: 1.75,
        spanGaps: true,
        points: { size: 4 },
        value: (_, value) => number(value, 2),
      })),
    ],
    cursor: { focus: { prox: 24 } },
    focus: { alpha: 0.35 },
    hooks: {
      setScale: [(chart, key) => {
        if (key !== "x" || chart !== plot) return;
        const { min, max } = chart.scales.x;
        const whole = min <= given.x[0] && max >= given.x.at(-1);
        zoom = whole ? null : { min, max };
      }],
    },
  };
  plot = new uPlot(options, [given.x, ...given.lines.map((line) => line.y)], place);
  if (zoom) plot.setScale("x", zoom);
}

function show() {
  for (const cell of document.querySelectorAll(".pick")) cell.hidden = false;
}

function pick(box) {
  const address = new URL(location.href);
  const boxes = [...document.querySelectorAll(".pick input")];
  const onPage = new Set(boxes.map((one) => one.value));
  const drawn = address.searchParams.get("curves") ?? document.getElementById("by-epoch")?.dataset.picked ?? "";
  const elsewhere = drawn.split(",").filter((number) => number && !onPage.has(number)); // on other pages of the table
  const numbers = [...elsewhere, ...boxes.filter((one) => one.checked).map((one) => one.value)];
  if (numbers.length > MOST) {
    box.checked = false;
    return lncisSay(`At most ${MOST} curves at a time.`);
  }
  if (numbers.length) address.searchParams.set("curves", numbers.join(","));
  else address.searchParams.delete("curves");
  history.replaceState(null, "", address.href.replaceAll("%2C", ","));
  lncisRefresh();
}

document.addEventListener("change", (event) => {
  if (event.target.matches(".pick input")) pick(event.target);
  if (event.target.matches("[data-submits]")) event.target.form.requestSubmit();
});
document.addEventListener("lncis:replaced", (event) => {
  show();
  if (event.detail === "curves") draw();
});
addEventListener("resize", () => {
  const place = document.querySelector("#by-epoch .drawn");
  if (plot && place) plot.setSize({ width: place.clientWidth, height: 260 });
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
show();
draw();
