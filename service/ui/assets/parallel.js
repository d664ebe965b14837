// Parallel coordinates: a click picks the nearest line and shows its trial, a drag along an axis keeps a range of it.
"use strict";

{
  const NEAR = 14; // pixels
  const TOP = 6, BOTTOM = 94; // of an axis, in the drawing's own units, of which it is 300 wide and 100 high
  const WIDTH = 300, HEIGHT = 100;
  const kept = new Map(); // name of an axis -> the range that is kept, from 0 (bottom) to 1
  let picked = null; // number of the trial
  let drag = null;

  const drawing = () => document.querySelector("#parallel svg");
  const ways = () => [...document.querySelectorAll("#parallel .way")];
  const axes = () => [...document.querySelectorAll("#parallel .axis")].map((axis) => ({ name: axis.dataset.name, x: +axis.dataset.x }));
  const heights = (way) => way.dataset.heights.split(",").map((text) => (text === "" ? null : +text));

  // Where a pointer is: its axis if it is near one, the height on it, and the scale.
  function place(event) {
    const box = drawing().getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDTH;
    const y = ((event.clientY - box.top) / box.height) * HEIGHT;
    const at = axes().findIndex((axis) => (Math.abs(axis.x - x) * box.width) / WIDTH < NEAR);
    return { x, y, at, height: Math.min(1, Math.max(0, (BOTTOM - y) / (BOTTOM - TOP))), pixel: box.height / HEIGHT };
  }

  function distance(way, { x, y, pixel }) {
    const points = axes().map((axis, number) => [axis.x, heights(way)[number]]);
    for (let i = 0; i + 1 < points.length; i++) {
      const [[x0, h0], [x1, h1]] = [points[i], points[i + 1]];
      if (x < x0 - 3 || x > x1 + 3 || h0 === null || h1 === null) continue;
      const height = h0 + ((h1 - h0) * Math.min(x1 - x0, Math.max(0, x - x0))) / (x1 - x0);
      return Math.abs(BOTTOM - height * (BOTTOM - TOP) - y) * pixel;
    }
    return Infinity;
  }

  function inside(way) {
    const of = heights(way);
    return axes().every(({ name }, number) => {
      const range = kept.get(name);
      return !range || (of[number] !== null && of[number] >= range[0] - 1e-3 && of[number] <= range[1] + 1e-3);
    });
  }

  function rectangle(x, [low, high]) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const given = { class: "kept", x: x - 2, width: 4, y: BOTTOM - high * (BOTTOM - TOP), height: (high - low) * (BOTTOM - TOP) };
    for (const [name, value] of Object.entries(given)) made.setAttribute(name, value);
    return made;
  }

  function link(text, address) {
    const made = document.createElement("a");
    made.textContent = text;
    made.href = address;
    return made;
  }

  function show() {
    const svg = drawing();
    const says = document.getElementById("picked");
    if (!svg || !says) return;
    document.querySelector("#parallel .how").hidden = false;
    svg.querySelectorAll(".kept").forEach((old) => old.remove());
    for (const { name, x } of axes()) if (kept.has(name)) svg.append(rectangle(x, kept.get(name)));
    const all = ways();
    const left = all.filter(inside);
    for (const way of all) {
      way.classList.toggle("out", !left.includes(way));
      way.classList.toggle("here", +way.dataset.trial === picked);
    }
    const parts = [];
    const way = all.find((one) => +one.dataset.trial === picked);
    if (way) {
      const here = svg.dataset.here;
      const row = document.getElementById(`trial-${picked}`);
      const curve = new URL(location.href);
      curve.searchParams.set("curves", picked);
      curve.hash = "h-curves";
      parts.push(`${way.querySelector("title").textContent} `);
      parts.push(link(`trial ${picked}`, row ? `#trial-${picked}` : `${here}?page=${Math.ceil(picked / 100)}#trial-${picked}`), " ");
      parts.push(link("its curve", curve.href));
    }
    if (kept.size) parts.push(`${way ? "; " : ""}${left.length} of ${all.length} configurations are in the ranges that you keep`);
    says.replaceChildren(...parts);
  }

  // The picked line lies above all others while it is looked at.
  function pick(way) {
    picked = way ? +way.dataset.trial : null;
    show();
  }

  function walk(step) {
    const there = ways().filter(inside);
    const at = there.findIndex((way) => +way.dataset.trial === picked);
    const next = at < 0 ? there.length - 1 : Math.min(there.length - 1, Math.max(0, at + step));
    if (there.length) pick(there[next]);
  }

  document.addEventListener("pointerdown", (event) => {
    if (!event.target.closest?.("#parallel svg")) return;
    const from = place(event);
    drag = { from, pointer: event.pointerId, moved: false };
    if (from.at >= 0) drawing().setPointerCapture(event.pointerId);
  });
  document.addEventListener("pointermove", (event) => {
    if (!drag || drag.pointer !== event.pointerId || drag.from.at < 0) return;
    const now = place(event);
    if (Math.abs(now.y - drag.from.y) * now.pixel > 4) drag.moved = true;
    if (!drag.moved) return;
    const ends = [drag.from.height, now.height].sort((a, b) => a - b);
    kept.set(axes()[drag.from.at].name, ends);
    show();
  });
  document.addEventListener("pointerup", (event) => {
    if (!drag || drag.pointer !== event.pointerId) return;
    const { from, moved } = drag;
    drag = null;
    if (moved) return;
    const name = from.at >= 0 ? axes()[from.at].name : null;
    if (name !== null && kept.delete(name)) return show();
    const [nearest] = ways().filter(inside).map((way) => [distance(way, from), way]).sort((a, b) => a[0] - b[0]);
    pick(nearest && nearest[0] <= NEAR ? nearest[1] : null);
  });
  document.addEventListener("pointercancel", () => { drag = null; });
  document.addEventListener("keydown", (event) => {
    if (!event.target.closest?.("#parallel svg")) return;
    if (event.key === "ArrowUp") walk(1);
    else if (event.key === "ArrowDown") walk(-1);
    else if (event.key === "Escape") { kept.clear(); pick(null); }
    else return;
    event.preventDefault();
  });
  document.addEventListener("lncis:replaced", (event) => { if (event.detail === "parallel") show(); });
  show();
}
