// Refreshes the parts of a page that change, and keeps focus, scroll positions and open details.
"use strict";

const PAUSE = 5000;
const shown = new Map([...document.querySelectorAll("[data-live]")].map((part) => [part.id, part.outerHTML]));
const wanted = document.querySelector("#refresh input");
const trouble = document.getElementById("trouble");

function say(text) {
  if (trouble.textContent !== text) trouble.textContent = text;
}

// A log that is shown from its end stays there as it grows, unless its reader has scrolled back.
function atEnd(box) {
  return "end" in box.dataset && box.scrollTop + box.clientHeight >= box.scrollHeight - 4;
}

function replace(old, now) {
  const before = [...old.querySelectorAll(".scroll, pre")].map((box) => [box.scrollLeft, atEnd(box) ? Infinity : box.scrollTop]);
  const open = [...old.querySelectorAll("details[open]")].map((box) => box.id);
  const able = "a, button, summary, [tabindex]";
  const place = [...old.querySelectorAll(able)].indexOf(document.activeElement);
  old.replaceWith(now);
  open.forEach((id) => now.querySelector(`#${id}`)?.setAttribute("open", ""));
  now.querySelectorAll(".scroll, pre").forEach((box, number) => {
    const [left, top] = before[number] ?? [0, 0];
    box.scrollTo(left, top === Infinity ? box.scrollHeight : top);
  });
  document.dispatchEvent(new CustomEvent("lncis:replaced", { detail: now.id }));
  localTimes(now);
  if (place >= 0) now.querySelectorAll(able)[place]?.focus({ preventScroll: true });
}

// What a reader selects or types in stays as it is.
function busy(part) {
  const selection = document.getSelection();
  const typed = [...part.querySelectorAll("input:not([type=hidden])")].some((input) => input.value !== input.defaultValue);
  return (!selection.isCollapsed && selection.containsNode(part, true)) || typed || document.activeElement?.matches(`#${part.id} input`);
}

async function refresh() {
  const answer = await fetch(location.href, { signal: AbortSignal.timeout(20000) });
  if (answer.status === 401) return say("You are no longer signed in: load this page again.");
  if (!answer.ok) throw new Error(answer.status);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const old of document.querySelectorAll("[data-live]")) {
    const now = page.getElementById(old.id);
    if (!now || now.outerHTML === shown.get(old.id) || busy(old)) continue;
    shown.set(old.id, now.outerHTML);
    replace(old, document.adoptNode(now));
  }
  document.title = page.title;
  say("");
}

// Beside UTC the reader's own time: as a hint everywhere, and as text where the page leaves room for it.
function localTimes(root) {
  if (document.getElementById("here").hidden) return;
  for (const time of root.querySelectorAll("time")) {
    const local = new Date(time.dateTime).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    time.title = `${local} here`;
    if (time.closest(".facts, .head")) time.dataset.local = local;
  }
}

async function forever() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
    if (document.hidden || !wanted.checked) continue;
    await lncisRefresh();
  }
}

window.lncisSay = say;
window.lncisRefresh = () => refresh().catch(() => say("The service does not answer; this page shows its last answer."));
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
if (zone && new Date().getTimezoneOffset()) {
  document.querySelector("#here span").textContent = zone;
  document.getElementById("here").hidden = false;
  localTimes(document);
}
document.querySelectorAll("[data-end]").forEach((box) => box.scrollTo(0, box.scrollHeight));
if (shown.size) {
  document.getElementById("refresh").hidden = false;
  forever();
}
