"use strict";
// Texts reach the page as texts alone (textContent), never as markup.
const get = (id) => document.getElementById(id);
const percent = (part) => `${Math.round(100 * part)}\u202f%`;
const main = get("cards"), viewer = get("viewer"), slider = get("threshold");
const prompts = [...document.querySelectorAll(".prompt")].map((button) => ({
  button,
  label: button.querySelector(".name").textContent,
  colour: button.style.getPropertyValue("--colour"),
}));
const cards = [...document.querySelectorAll(".card")].map((element, order) => ({
  element, order,
  name: element.dataset.name,
  picture: element.querySelector(".picture"),
  presence: new Map(element.dataset.presence.trim().split(" ").map((each) => each.split(":").map(Number))),
  boxes: [...element.querySelectorAll(".box")].map((box) => ({
    element: box, prompt: Number(box.dataset.prompt), score: Number(box.dataset.score),
  })),
  chips: [...element.querySelectorAll(".chip")],
  none: element.querySelector(".none"),
  shown: [],
}));
// Frames of videos are pictures too.
const kind = cards.every((card) => card.element.dataset.time) && cards.length ? "frame" : "picture";
const cardOf = new Map(cards.map((card) => [card.element, card]));
const state = { prompt: null, open: null, hovered: null };
let visible = cards;
// From the least score that there is, in whole percents.
slider.min = Math.floor(100 * Math.min(1, ...cards.flatMap((card) => card.boxes.map((box) => box.score)))) / 100;
slider.value = slider.min;

// What is shown ---------------------------------------------------------------------------------

const chosen = (prompt) => state.prompt === null || prompt === state.prompt;
const best = (card) => Math.max(0, ...card.shown.map((box) => box.score));
const presence = (card) =>
  state.prompt === null ? Math.max(0, ...card.presence.values()) : card.presence.get(state.prompt) ?? 0;
const names = new Intl.Collator("en", { numeric: true });
const orders = {
  given: () => 0,
  name: (a, b) => names.compare(a.name, b.name),
  best: (a, b) => best(b) - best(a),
  worst: (a, b) => (best(a) || 2) - (best(b) || 2),
  count: (a, b) => b.shown.length - a.shown.length,
  presence: (a, b) => presence(b) - presence(a),
};

function update() {
  const least = Number(slider.value), which = get("tools").elements.which.value;
  let boxes = 0;
  visible = [];
  for (const card of cards) {
    card.shown = card.boxes.filter((box) => chosen(box.prompt) && box.score >= least);
    for (const box of card.boxes) box.element.hidden = !(chosen(box.prompt) && box.score >= least);
    const here = new Set(card.shown.map((box) => box.prompt));
    for (const chip of card.chips) chip.hidden = !here.has(Number(chip.dataset.prompt));
    card.none.hidden = here.size > 0;
    card.none.textContent =
      state.prompt === null ? "not here" : `not here (presence ${percent(presence(card))})`;
    const wanted = which === "all" || (which === "here") === here.size > 0;
    card.element.hidden = !wanted;
    if (wanted) {
      visible.push(card);
      boxes += card.shown.length;
    }
  }
  visible.sort((a, b) => orders[get("sort").value](a, b) || a.order - b.order);
  get("threshold-value").textContent = percent(least);
  get("shown").textContent =
    `${visible.length} of ${cards.length} ${kind}${cards.length === 1 ? "" : "s"}, ` +
    `${boxes} box${boxes === 1 ? "" : "es"}`;
  get("empty").hidden = visible.length > 0;
  if (get("maps").checked) for (const card of cards) heat(card);
}

let laidOut = cards.map((card) => card.order).join();
function arrange() {
  update();
  const order = visible.map((card) => card.order).join();
  if (order !== laidOut) main.append(...visible.map((card) => card.element));
  laidOut = order;
  const focused = visible.find((card) => card.element === document.activeElement) ?? visible[0];
  for (const card of cards) card.element.tabIndex = card === focused ? 0 : -1;
}

let waiting = false;
function soon() {
  if (!waiting) requestAnimationFrame(() => { waiting = false; arrange(); });
  waiting = true;
}

function choose(prompt) {
  state.prompt = state.prompt === prompt ? null : prompt;
  prompts.forEach(({ button }, number) => button.setAttribute("aria-pressed", number === state.prompt));
  arrange();
}

// Maps ------------------------------------------------------------------------------------------

// The prompt whose map a card shows: the chosen one, or that of the best box that is shown.
const mapped = (card) =>
  state.prompt ?? card.shown[card.shown.length - 1]?.prompt ?? Number(card.picture.querySelector(".map")?.dataset.prompt ?? -1);

function heat(card, prompt = mapped(card)) {
  const on = get("maps").checked || state.hovered === card;
  card.picture.classList.toggle("heated", on);
  for (const map of card.picture.querySelectorAll(".map")) {
    map.hidden = !(on && Number(map.dataset.prompt) === prompt);
  }
  for (const box of card.boxes) box.element.classList.toggle("other", on && box.prompt !== prompt);
}

function hover(card, prompt) {
  const before = state.hovered;
  state.hovered = card;
  if (before && before !== card) heat(before);
  if (card) heat(card, prompt);
}

// One picture -----------------------------------------------------------------------------------

function make(kind, text, properties = {}) {
  const element = document.createElement(kind);
  if (text !== null) element.textContent = text;
  return Object.assign(element, properties);
}

// Black or white, whichever is read better on a colour.
function ink(colour) {
  const [red, green, blue] = colour.match(/\d+/g).map(Number);
  return 0.299 * red + 0.587 * green + 0.114 * blue > 110 ? "#000" : "#fff";
}

function open(card) {
  state.open = card;
  const { name, link, width, height, time } = card.element.dataset;
  get("viewer-name").textContent = name;
  get("viewer-size").textContent = `${width} × ${height} pixels` + (time ? `, at ${time} s` : "");
  get("viewer-link").textContent = time ? "Open the video with its boxes" : "Open the picture itself";
  get("viewer-link").hidden = !link;
  if (link) get("viewer-link").href = link;
  const picture = card.picture.cloneNode(true);
  picture.id = "viewer-picture";
  picture.classList.remove("heated");
  picture.querySelectorAll(".map").forEach((map) => { map.hidden = true; });
  picture.querySelectorAll(".other").forEach((box) => box.classList.remove("other"));
  for (const box of picture.querySelectorAll(".box")) {
    const label = make("b", `${prompts[box.dataset.prompt].label} ${percent(box.dataset.score)}`);
    box.style.setProperty("--on", ink(prompts[box.dataset.prompt].colour));
    box.append(label);
  }
  // The thumbnail stays where there is a video, or the picture itself is not there or none that browsers show.
  const full = make("img", null, { className: "photo", alt: "" });
  full.addEventListener("load", () => picture.querySelector(".photo").replaceWith(full));
  if (link && !time) full.src = link;
  get("viewer-picture").replaceWith(picture);
  get("viewer-facts").replaceChildren(...facts(card));
  if (!viewer.open) viewer.showModal();
  viewerHeat(get("maps").checked ? mapped(card) : null);
}

function facts(card) {
  const rows = [...card.presence].map(([prompt, sure]) => {
    const boxes = card.boxes.filter((box) => box.prompt === prompt).reverse();
    const row = make("tr", null, { tabIndex: 0 }), last = make("td", boxes.length ? null : "not here");
    row.style.setProperty("--colour", prompts[prompt].colour);
    for (const box of boxes) {
      last.append(percent(box.score), make("small", box.element.dataset.xyxy.split(" ").join(", ")));
    }
    row.append(make("th", prompts[prompt].label), make("td", percent(sure)), last);
    for (const event of ["mouseenter", "focus"]) row.addEventListener(event, () => viewerHeat(prompt));
    for (const event of ["mouseleave", "blur"]) row.addEventListener(event, () => viewerHeat(null));
    return { row, key: boxes.length ? 1 + boxes[0].score : sure };
  });
  return rows.sort((a, b) => b.key - a.key).map(({ row }) => row);
}

function viewerHeat(prompt) {
  const picture = get("viewer-picture");
  picture.classList.toggle("heated", prompt !== null);
  for (const map of picture.querySelectorAll(".map")) map.hidden = Number(map.dataset.prompt) !== prompt;
  for (const box of picture.querySelectorAll(".box")) {
    const score = Number(box.dataset.score), own = Number(box.dataset.prompt);
    box.hidden = prompt === null ? !(chosen(own) && score >= Number(slider.value)) : own !== prompt;
  }
}

function step(by) {
  const next = visible[visible.indexOf(state.open) + by];
  if (next) open(next);
}

viewer.addEventListener("close", () => {
  state.open?.element.focus();
  state.open = null;
});
viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
get("previous").addEventListener("click", () => step(-1));
get("next").addEventListener("click", () => step(1));
get("close").addEventListener("click", () => viewer.close());

// Hands -----------------------------------------------------------------------------------------

prompts.forEach(({ button }, number) => button.addEventListener("click", () => choose(number)));
get("tools").addEventListener("submit", (event) => event.preventDefault());
get("tools").addEventListener("input", soon);
get("maps").addEventListener("change", () => cards.forEach((card) => heat(card)));
const under = (event) => cardOf.get(event.target.closest?.(".card"));
main.addEventListener("click", (event) => { if (under(event)) open(under(event)); });
main.addEventListener("mouseover", (event) => {
  const chip = event.target.closest(".chip"), frame = event.target.closest(".frame");
  hover(chip || frame ? under(event) : null, chip ? Number(chip.dataset.prompt) : undefined);
});
main.addEventListener("mouseleave", () => hover(null));
main.addEventListener("focusin", (event) => {
  const card = under(event);
  for (const each of cards) each.element.tabIndex = each === card ? 0 : -1;
  if (event.target.matches(":focus-visible")) hover(card);
});
main.addEventListener("focusout", () => hover(null));

function columns() {
  const top = visible[0]?.element.offsetTop;
  const second = visible.findIndex((card) => card.element.offsetTop !== top);
  return second < 0 ? visible.length : second;
}

function move(by) {
  const at = visible.findIndex((card) => card.element === document.activeElement);
  const next = visible[at < 0 ? 0 : at + by];
  next?.element.focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { key, target } = event, typing = target.closest?.("input, select, textarea");
  const inViewer = { ArrowLeft: () => step(-1), ArrowRight: () => step(1) };
  const onCards = {
    ArrowLeft: () => move(-1), ArrowRight: () => move(1),
    ArrowUp: () => move(-columns()), ArrowDown: () => move(columns()),
  };
  const anywhere = {
    m: () => { get("maps").click(); if (viewer.open) open(state.open); },
    "-": () => { slider.stepDown(5); soon(); },
    "+": () => { slider.stepUp(5); soon(); },
    "=": () => { slider.stepUp(5); soon(); },
    0: () => choose(state.prompt),
  };
  let act = viewer.open ? inViewer[key] ?? { m: anywhere.m }[key] : typing ? anywhere[key] : onCards[key] ?? anywhere[key];
  if (!viewer.open && /^[1-9]$/.test(key) && prompts[key - 1]) act = () => choose(key - 1);
  if (key === "Enter" && cardOf.has(target)) act = () => open(cardOf.get(target));
  if (act) {
    event.preventDefault();
    act();
  }
});

arrange();
