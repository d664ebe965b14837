"use strict";
// The review of a list of suspects. Decisions are rank - 1 -> number of a class; the page sends nothing anywhere.

const PER_PAGE = 100;
const element = (id) => document.getElementById(id);
const data = JSON.parse(element("data").textContent);
const pictures = element("pictures").textContent.slice(1).split("\n");
const { rows, names } = data;
const readOnly = document.documentElement.hasAttribute("data-read-only"); // as a service shows it
const storageKey = `lncis-suspects-${data.digest}`;

const decisions = new Map();
let shown = []; // numbers of the rows that the filters let through
let current = 0; // place in `shown`
let keptInBrowser = true;
let unsaved = false;

// ---- what is decided, and where it is kept

function restore() {
  try {
    for (const [row, label] of JSON.parse(localStorage.getItem(storageKey) ?? "[]")) {
      if (row in rows && label in names) decisions.set(row, label);
    }
  } catch {
    keptInBrowser = false;
  }
}

function keep() {
  unsaved = true;
  try {
    localStorage.setItem(storageKey, JSON.stringify([...decisions]));
  } catch {
    keptInBrowser = false;
  }
  if (!keptInBrowser) say("This browser keeps nothing for this page: save your decisions before you close it.");
}

function decide(row, label) {
  if (readOnly) return;
  decisions.set(row, label);
  keep();
  redraw(row);
  move(1);
}

function undo(row) {
  if (readOnly || !decisions.delete(row)) return;
  keep();
  redraw(row);
  show();
}

function stateOf(row) {
  const label = decisions.get(row);
  if (label === undefined) return "open";
  if (label === rows[row].given) return "keep";
  return label === rows[row].suggested ? "accept" : "other";
}

// ---- the file of decisions

function saved() {
  const lines = [...decisions].sort(([a], [b]) => a - b).map(([number, label]) => {
    const row = rows[number];
    // ids stand as their own JSON text: numbers beyond 2^53 would be rounded
    return `{"rank": ${number + 1}, "image_id": ${row.image}, "annotation_id": ${row.annotation}, ` +
      `"given": ${JSON.stringify(names[row.given])}, "label": ${JSON.stringify(names[label])}}`;
  });
  const head = { [data.format]: data.version, list: data.digest, annotations: data.annotations };
  return `${JSON.stringify(head).slice(0, -1)},"decisions":[\n${lines.join(",\n")}\n]}\n`;
}

function save() {
  const url = URL.createObjectURL(new Blob([saved()], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = `${data.annotations.replace(/\.json$/i, "")}.decisions.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
  unsaved = false;
}

function readBack(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    return say("This file is no JSON; open one that this page has saved.");
  }
  if (file?.[data.format] !== data.version || !Array.isArray(file.decisions)) {
    return say("This is no file of decisions; open one that this page has saved.");
  }
  const same = file.list === data.digest;
  const byKey = new Map(rows.map((row, number) => [`${row.image} ${row.annotation}`, number]));
  const known = new Map(names.map((name, number) => [name, number]));
  let fitting = 0;
  for (const one of file.decisions) {
    const key = `${JSON.stringify(one?.image_id)} ${JSON.stringify(one?.annotation_id)}`;
    const number = same && Number.isInteger(one?.rank) ? one.rank - 1 : byKey.get(key);
    const row = rows[number];
    if (row && names[row.given] === one.given && known.has(one.label)) {
      decisions.set(number, known.get(one.label));
      fitting += 1;
    }
  }
  keep();
  filter();
  const rest = file.decisions.length - fitting;
  say(`${count(fitting)} decisions read.` + (rest ? ` ${count(rest)} are about labels that are not on this page.` : ""));
}

// ---- drawing

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function tile(number) {
  const made = make("div", "tile");
  const [width, height, path, jpeg] = pictures[number].split("|");
  if (!jpeg) {
    made.append(make("small", "", `no picture: ${rows[number].file}`));
    return made;
  }
  const image = make("img");
  image.alt = "";
  image.src = `data:image/jpeg;base64,${jpeg}`;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${data.steps * width} ${data.steps * height}`);
  for (const layer of ["under", "over"]) {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
    line.setAttribute("d", path);
    line.setAttribute("class", layer);
    svg.append(line);
  }
  made.append(image, svg);
  return made;
}

function fromTo(number, tag) {
  const row = rows[number];
  const made = make(tag, "names");
  const line = make("span");
  line.append(names[row.given], row.given === row.suggested ? ": no better class" : " → ");
  if (row.given !== row.suggested) line.append(make("b", "", names[row.suggested]));
  made.append(line);
  return made;
}

function chance(number) {
  const made = make("div", "chance");
  const bar = make("i");
  bar.style.setProperty("--share", `${100 * rows[number].wrong}%`);
  made.append(bar, `${percent(rows[number].wrong)} wrong`);
  return made;
}

function count(number) {
  return number.toLocaleString("en");
}

function percent(share) {
  const rounded = Math.round(100 * share);
  return rounded === 100 && share < 1 ? "> 99 %" : `${rounded} %`;
}

function card(number) {
  const state = stateOf(number);
  const made = make("div", `card ${state}`);
  made.dataset.row = number;
  made.setAttribute("role", "option");
  const picture = tile(number);
  if (state !== "open") {
    const text = { accept: "✓ accepted", keep: "= kept", other: `→ ${names[decisions.get(number)]}` }[state];
    const mark = make("span", "mark", text.length > 20 ? `${text.slice(0, 19)}…` : text);
    picture.append(mark);
  }
  const text = make("div", "text");
  text.append(fromTo(number, "div"), chance(number));
  made.append(picture, text);
  return made;
}

function filter() {
  const [state, given, wanted] = ["state", "class", "wanted"].map((id) => element(id).value);
  const inState = {
    all: () => true,
    open: (number) => !decisions.has(number),
    done: (number) => decisions.has(number),
    changed: (number) => ["accept", "other"].includes(stateOf(number)),
  }[state];
  const before = shown[current];
  shown = [...rows.keys()].filter(
    (n) => inState(n) && (given === "" || rows[n].given === +given) && (wanted === "" || rows[n].suggested === +wanted),
  );
  current = Math.max(shown.indexOf(before), 0);
  drawPage();
}

function drawPage() {
  const start = current - (current % PER_PAGE);
  const cards = shown.slice(start, start + PER_PAGE).map(card);
  element("grid").replaceChildren(...(cards.length ? cards : [make("p", "", "No suspect is left with this choice.")]));
  element("page").textContent = shown.length
    ? `${count(start + 1)} to ${count(start + cards.length)} of ${count(shown.length)}`
    : "0 of 0";
  element("before").disabled = start === 0;
  element("after").disabled = start + PER_PAGE >= shown.length;
  show();
}

function redraw(number) {
  cardOf(number)?.replaceWith(card(number));
}

function cardOf(number) {
  return element("grid").querySelector(`[data-row="${number}"]`);
}

function show() {
  const number = shown[current];
  element("grid").querySelector(".current")?.classList.remove("current");
  element("grid").querySelector("[aria-selected]")?.removeAttribute("aria-selected");
  const changed = [...decisions.keys()].filter((row) => stateOf(row) !== "keep").length;
  element("progress").textContent =
    `${count(decisions.size)} of ${count(rows.length)} decided, ${count(changed)} changed`;
  element("meter").style.width = `${rows.length ? (100 * decisions.size) / rows.length : 0}%`;
  const none = number === undefined;
  for (const id of ["accept", "keep", "other", "skip", "undo"]) element(id).disabled = none;
  if (none) {
    for (const id of ["view", "about", "known"]) element(id).replaceChildren();
    return;
  }
  const row = rows[number];
  const chosen = cardOf(number);
  chosen.classList.add("current");
  chosen.setAttribute("aria-selected", "true");
  chosen.scrollIntoView({ block: "nearest" });
  element("view").replaceChildren(tile(number));
  const where = make("p", "soft", `#${number + 1} · ${row.file}`);
  element("about").replaceChildren(fromTo(number, "h2"), chance(number), where);
  element("accept").textContent = `Accept: ${names[row.suggested]}`;
  element("accept").disabled = row.given === row.suggested;
  element("keep").textContent = `Keep: ${names[row.given]}`;
  element("undo").disabled = !decisions.has(number);
  const facts = { image: row.image, annotation: row.annotation, ...row.known };
  element("known").replaceChildren(
    ...Object.entries(facts).flatMap(([name, value]) => [make("dt", "", name), make("dd", "", value)]),
  );
}

function say(text) {
  element("note").textContent = text;
  element("note").hidden = !text;
  measure();
}

function measure() {
  document.documentElement.style.setProperty("--top", `${document.querySelector("header").offsetHeight}px`);
}

// ---- moving

function move(by) {
  goTo(current + by);
}

function goTo(place) {
  const to = Math.min(Math.max(place, 0), Math.max(shown.length - 1, 0));
  const turned = Math.floor(to / PER_PAGE) !== Math.floor(current / PER_PAGE);
  current = to;
  if (turned) {
    drawPage();
    if (current % PER_PAGE === 0) scrollTo(0, 0);
  } else {
    show();
  }
}

function turn(by) {
  goTo(Math.max((Math.floor(current / PER_PAGE) + by) * PER_PAGE, 0));
}

function inARow() {
  return getComputedStyle(element("grid")).gridTemplateColumns.split(" ").length;
}

// ---- the dialog of classes

let matching = [];
let marked = 0;

function openDialog() {
  if (readOnly || shown[current] === undefined) return;
  element("filter").value = "";
  element("dialog").showModal();
  listClasses();
}

function listClasses() {
  const typed = element("filter").value.trim().toLowerCase();
  const places = [...names.keys()].slice(0, data.choices);
  matching = places.filter((n) => names[n].toLowerCase().includes(typed));
  matching.sort((a, b) => names[b].toLowerCase().startsWith(typed) - names[a].toLowerCase().startsWith(typed));
  marked = 0;
  element("classes").replaceChildren(
    ...matching.map((n) => {
      const item = make("li", "", names[n]);
      item.setAttribute("role", "option");
      item.addEventListener("click", () => choose(n));
      return item;
    }),
  );
  markClass();
}

function markClass() {
  [...element("classes").children].forEach((item, place) => {
    item.setAttribute("aria-selected", String(place === marked));
    if (place === marked) item.scrollIntoView({ block: "nearest" });
  });
}

function choose(label) {
  element("dialog").close();
  if (label !== undefined) decide(shown[current], label);
}

// ---- what people do

const actions = {
  accept: () => rows[shown[current]].given !== rows[shown[current]].suggested && decide(shown[current], rows[shown[current]].suggested),
  keep: () => decide(shown[current], rows[shown[current]].given),
  other: openDialog,
  skip: () => move(1),
  undo: () => undo(shown[current]),
};
const keys = {
  a: actions.accept, Enter: actions.accept, k: actions.keep, o: actions.other, s: actions.skip, " ": actions.skip,
  u: actions.undo, n: () => turn(1), p: () => turn(-1), PageDown: () => turn(1), PageUp: () => turn(-1),
  m: () => document.body.classList.toggle("bare"),
  ArrowRight: () => move(1), ArrowLeft: () => move(-1), ArrowDown: () => move(inARow()), ArrowUp: () => move(-inARow()),
  Home: () => goTo(0), End: () => goTo(shown.length - 1),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || element("dialog").open) return;
  if (event.target.closest("select, input, textarea")) return;
  if (event.target.closest("button") && ["Enter", " "].includes(event.key)) return;
  const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act) return;
  event.preventDefault();
  if (shown.length) act();
});
for (const [id, act] of Object.entries(actions)) element(id).addEventListener("click", act);
for (const id of ["state", "class", "wanted"]) {
  element(id).addEventListener("change", () => {
    filter();
    element(id).blur();
  });
}
element("grid").addEventListener("click", (event) => {
  const chosen = event.target.closest(".card");
  if (chosen) goTo(shown.indexOf(Number(chosen.dataset.row)));
});
element("before").addEventListener("click", () => turn(-1));
element("after").addEventListener("click", () => turn(1));
element("save").addEventListener("click", save);
element("open").addEventListener("click", () => element("file").click());
element("file").addEventListener("change", async () => {
  const [file] = element("file").files;
  if (file) readBack(await file.text());
  element("file").value = "";
});
element("filter").addEventListener("input", listClasses);
element("filter").addEventListener("keydown", (event) => {
  if (event.key === "Enter") {
    event.preventDefault();
    choose(matching[marked]);
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    marked = Math.min(Math.max(marked + (event.key === "ArrowDown" ? 1 : -1), 0), matching.length - 1);
    markClass();
  }
});
addEventListener("beforeunload", (event) => {
  if (unsaved && !keptInBrowser) event.preventDefault();
});
addEventListener("resize", measure);

for (const [id, part] of [["class", "given"], ["wanted", "suggested"]]) {
  const present = new Set(rows.map((row) => row[part]));
  const all = make("option", "", "all");
  all.value = "";
  const options = [...present].sort((a, b) => names[a].localeCompare(names[b])).map((number) => {
    const option = make("option", "", names[number]);
    option.value = number;
    return option;
  });
  element(id).replaceChildren(all, ...options);
}
if (!readOnly) restore();
measure();
filter();
