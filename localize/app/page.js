"use strict";

const $ = (id) => document.getElementById(id);
const TYPING_MS = 120;
const MOST_WORDS = 12;   // boxes with words beside them: more would hide the picture
const TITLES = {
  json: "JSON", overlay: "Overlays", coco: "COCO", "coco-results": "COCO results", yolo: "YOLO",
  voc: "Pascal VOC", labelme: "LabelMe", "label-studio": "Label Studio", createml: "Create ML",
  csv: "CSV", jsonl: "JSON lines",
};

let start;               // what the server told first
let picture = null;      // of the stage: its name on the server, its size, and how to send it again
let like = [];           // rectangles to find more like
let answer = null;       // the last one that came
let chosen = null;       // label of the prompt whose map is shown, null for all boxes
let dropped = new AbortController();
let asking = false, askAgain = false, sending = 0;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function percent(part) {
  const whole = Math.round(100 * part);
  if (whole === 100 && part < 1) return "over 99 %";
  return whole === 0 && part > 0 ? "under 1 %" : `${whole} %`;
}

const parts = (text) => [...new Set(text.split(/[,;\n]/).map((each) => each.trim().replace(/\s+/g, " ")).filter(Boolean))];

// Errors and progress ----------------------------------------------------------------------------

function complain(text, where = "error") {
  $(where).textContent = text;
  $(where).hidden = !text;
}

function showProgress(text, done = null, of = null) {
  $("progress").hidden = !text;
  $("progress-text").textContent = text ?? "";
  if (done === null) $("bar").removeAttribute("value");
  else { $("bar").max = of; $("bar").value = done; }
}

class Refusal extends Error {
  constructor(sentence, status) { super(sentence); this.status = status; }
}

async function request(address, options = {}) {
  let response;
  try {
    response = await fetch(address, options);
  } catch {
    throw new Refusal("The server does not answer. Is it still running?", 0);
  }
  if (response.ok) return response;
  let sentence = `The server refused this (${response.status}).`;
  try { sentence = (await response.json()).detail; } catch { /* it is no JSON */ }
  throw new Refusal(capital(sentence), response.status);
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

const post = (address, value, signal) => request(address, {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value), signal,
});

// The picture ------------------------------------------------------------------------------------

async function take(send, prompts = null) {
  const number = ++sending;
  complain("");
  showProgress("Reading the picture …");
  try {
    const facts = await send();
    if (number !== sending) return;
    picture = { ...facts, send };
    answer = null;
    chosen = null;
    if (prompts !== null) $("prompts").value = prompts.join(", ");
    showPicture();
    askInstead();
    $("prompts").focus();
  } catch (error) {
    if (number !== sending) return;
    showProgress(null);
    complain(error.message);
  }
}

function takeFile(file) {
  if (file.size > start.max_bytes) {
    const size = (bytes) => `${(bytes / 1e6).toLocaleString("en", { maximumFractionDigits: bytes < 1e7 ? 1 : 0 })} MB`;
    complain(`“${file.name}” has ${size(file.size)}; a picture may have ${size(start.max_bytes)} here.`);
    return;
  }
  take(async () => (await request(`pictures?name=${encodeURIComponent(file.name)}`, {
    method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file,
  })).json());
}

const takeFrom = (address, prompts) => take(async () => (await request(address, { method: "POST" })).json(), prompts);

function showPicture() {
  $("photo").src = `pictures/${picture.id}`;
  $("photo").style.aspectRatio = `${picture.width} / ${picture.height}`;
  $("photo").width = picture.width;
  $("empty").hidden = true;
  $("stage").hidden = $("under").hidden = false;
  $("drop").classList.add("full");
  const notes = picture.notes.length ? `; ${picture.notes.join("; ")}` : "";
  $("facts").textContent = `${picture.name}, ${picture.width} × ${picture.height}${notes}`;
  hideRectangle();
  draw();
}

// Asking -----------------------------------------------------------------------------------------

function question() {
  return {
    picture: picture.id,
    model: $("model").value,
    prompts: parts($("prompts").value),
    negatives: parts($("negatives").value),
    like: like.map(({ picture, box, label }) => ({ picture, box, label })),
    threshold: Number($("threshold").value),
  };
}

/** Ask for what the page says now; while an answer is on its way, once more when it is there. */
async function ask() {
  if (!picture) return;
  if (asking) { askAgain = true; return; }
  asking = true;
  do {
    askAgain = false;
    const asked = picture, signal = dropped.signal;
    try {
      const began = performance.now();
      const came = await stream(question(), signal);
      if (signal.aborted) { askAgain = true; continue; }
      answer = came;
      picture.sentAgain = false;
      complain("");
      showAnswer((performance.now() - began) / 1000);
    } catch (error) {
      if (signal.aborted) askAgain = true;
      else if (error.status === 404 && !asked.sentAgain) await sendAgain();
      else complain(error.message);
    }
  } while (askAgain);
  asking = false;
  $("answers").classList.remove("stale");
  showProgress(null);
}

/** Ask about another picture, or another model: nobody waits for what was asked before. */
function askInstead() {
  dropped.abort();
  dropped = new AbortController();
  ask();
}

/** The server has forgotten the picture, perhaps as it was started anew. */
async function sendAgain() {
  try {
    const old = picture.id;
    Object.assign(picture, await picture.send(), { sentAgain: true });
    for (const each of like) if (each.picture === old) each.picture = picture.id;
    askAgain = true;
  } catch (error) {
    complain(error.message);
  }
}

async function stream(asked, signal) {
  const slow = setTimeout(() => { showProgress("Looking …"); $("answers").classList.add("stale"); }, 300);
  try {
    for await (const line of lines(await post("ask", asked, signal))) {
      if ("answer" in line) return line.answer;
      clearTimeout(slow);
      $("answers").classList.add("stale");
      if ("loading" in line) showProgress(`Loading ${line.loading} …`);
      if ("done" in line) showProgress(`Looking at the picture: ${line.done} of ${line.of} windows`, line.done, line.of);
    }
    throw new Refusal("The answer was cut short. Is the server still running?", 0);
  } finally {
    clearTimeout(slow);
  }
}

/** The lines of an answer as they come; a refusal among them is thrown. */
async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch(() => ({ done: true }));
      if (done) return;
      text += value;
      const whole = text.split("\n");
      text = whole.pop();
      for (const line of whole.map((each) => JSON.parse(each))) {
        if ("detail" in line) throw new Refusal(capital(line.detail), line.status);
        yield line;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

let timer;
function askSoon() {
  clearTimeout(timer);
  timer = setTimeout(ask, TYPING_MS);
}

// The answer -------------------------------------------------------------------------------------

function showAnswer(seconds) {
  const prompts = answer?.prompts ?? [];
  if (!prompts.some((each) => each.label === chosen)) chosen = prompts.length === 1 ? prompts[0].label : null;
  $("answers").hidden = !prompts.length;
  $("seconds").textContent = `${seconds.toFixed(seconds < 1 ? 2 : 1)} s`;
  $("list").replaceChildren(...(prompts.length > 1 ? [allRow()] : []), ...prompts.map(row));
  const rows = (answer?.boxes ?? []).map(tableRow);
  $("table").tBodies[0].replaceChildren(...rows);
  $("table").parentElement.hidden = !rows.length;
  $("no-boxes").hidden = rows.length > 0;
  draw();
}

function choose(label) {
  chosen = label;
  for (const each of $("list").querySelectorAll("button")) each.ariaPressed = each.value === (label ?? "");
  draw();
}

function allRow() {
  const button = make("button", { className: "answer all", value: "", textContent: "All boxes", ariaPressed: chosen === null });
  button.onclick = () => choose(null);
  return make("li", {}, button);
}

function row(prompt) {
  const says = make("span", { className: "says", textContent: prompt.says });
  const bar = make("span");
  bar.style.width = `${100 * prompt.presence}%`;
  const button = make("button", { className: "answer", value: prompt.label, ariaPressed: chosen === prompt.label },
    make("span", { className: "mini" }, make("img", { src: $("photo").src, alt: "" }), make("img", { src: prompt.map, alt: "" })),
    make("span", { className: "name", title: prompt.label }, says, prompt.label),
    make("span", { className: "meter", title: `presence ${prompt.presence}` }, bar));
  button.style.setProperty("--colour", prompt.colour);
  button.classList.toggle("absent", prompt.says === "not here");
  button.onclick = () => choose(chosen === prompt.label && answer.prompts.length > 1 ? null : prompt.label);
  return make("li", {}, button);
}

function tableRow(box, number) {
  const cells = [answer.prompts[box.prompt].label, percent(box.score), ...box.xyxy.map(Math.round)];
  const line = make("tr", {}, ...cells.map((text) => make("td", { textContent: text })));
  const light = (lit) => $("boxes").querySelector(`[data-number="${number}"]`)?.classList.toggle("lit", lit);
  line.onmouseenter = () => light(true);
  line.onmouseleave = () => light(false);
  return line;
}

function draw() {
  const prompt = answer?.prompts.find((each) => each.label === chosen);
  $("heat").hidden = !prompt;
  $("canvas").classList.toggle("heated", Boolean(prompt));
  if (prompt) $("heat").src = prompt.map;
  const boxes = (answer?.boxes ?? []).map((box, number) => ({ ...box, number }));
  const shown = boxes.filter((box) => !prompt || answer.prompts[box.prompt] === prompt);
  shown.reverse();  // so that the best one's words are on top
  $("boxes").replaceChildren(...shown.map((box) => {
    const [left, top, right, bottom] = box.xyxy;
    const { label, colour } = answer.prompts[box.prompt];
    const element = make("div", { className: "box" }, make("span", { textContent: `${label} ${percent(box.score)}` }));
    element.firstChild.hidden = box.number >= MOST_WORDS;
    element.dataset.number = box.number;
    element.style.setProperty("--colour", colour);
    place(element, 100 * left / picture.width, 100 * top / picture.height,
      100 * (right - left) / picture.width, 100 * (bottom - top) / picture.height);
    const above = shown.slice(shown.indexOf(box) + 1).filter(({ xyxy }) =>
      Math.abs(xyxy[0] - left) < 0.15 * picture.width && Math.abs(xyxy[1] - top) < 0.03 * picture.height);
    element.firstChild.style.marginBottom = `${2 + 22 * above.length}px`;
    element.classList.toggle("low", top < 0.06 * picture.height);
    element.classList.toggle("far", left > 0.7 * picture.width);
    return element;
  }));
}

function place(element, left, top, width, height) {
  Object.assign(element.style, { left: `${left}%`, top: `${top}%`, width: `${width}%`, height: `${height}%` });
}

// More like this ---------------------------------------------------------------------------------

let corner = null, drawn = null;

function at(event) {
  const area = $("canvas").getBoundingClientRect();
  const inside = (value) => Math.min(1, Math.max(0, value));
  return [inside((event.clientX - area.left) / area.width), inside((event.clientY - area.top) / area.height)];
}

function hideRectangle() {
  corner = drawn = null;
  $("rectangle").hidden = $("more").hidden = true;
}

$("canvas").onpointerdown = (event) => {
  if (event.target === $("more") || event.button !== 0) return;
  hideRectangle();
  corner = at(event);
  $("canvas").setPointerCapture(event.pointerId);
};

$("canvas").onpointermove = (event) => {
  if (!corner) return;
  const [x, y] = at(event);
  drawn = [Math.min(x, corner[0]), Math.min(y, corner[1]), Math.max(x, corner[0]), Math.max(y, corner[1])];
  $("rectangle").hidden = false;
  place($("rectangle"), 100 * drawn[0], 100 * drawn[1], 100 * (drawn[2] - drawn[0]), 100 * (drawn[3] - drawn[1]));
};

$("canvas").onpointerup = () => {
  if (!corner) return;
  corner = null;
  const { width, height } = $("canvas").getBoundingClientRect();
  if (!drawn || (drawn[2] - drawn[0]) * width < 8 || (drawn[3] - drawn[1]) * height < 8) { hideRectangle(); return; }
  $("more").hidden = false;
  $("more").style.left = `${Math.min(100 * drawn[0], 100 - 100 * 170 / width)}%`;
  $("more").style.top = drawn[3] * height + 42 < height ? `calc(${100 * drawn[3]}% + 6px)` : `calc(${100 * drawn[3]}% - 42px)`;
};
$("canvas").onpointercancel = hideRectangle;

$("more").onclick = () => {
  const box = [drawn[0] * picture.width, drawn[1] * picture.height, drawn[2] * picture.width, drawn[3] * picture.height].map(Math.round);
  let number = 1;
  while (like.some((each) => each.label === `like picture ${number}`)) number++;
  like.push({ picture: picture.id, box, label: `like picture ${number}`, thumbnail: cut(drawn) });
  chosen = like.at(-1).label;
  hideRectangle();
  showLike();
  ask();
};

/** A small picture of a part of the stage, as a data address. */
function cut([left, top, right, bottom]) {
  const photo = $("photo"), canvas = make("canvas", { width: 72, height: 72 });
  const width = (right - left) * photo.naturalWidth, height = (bottom - top) * photo.naturalHeight;
  const scale = Math.min(72 / width, 72 / height);
  canvas.getContext("2d").drawImage(photo, left * photo.naturalWidth, top * photo.naturalHeight, width, height,
    (72 - scale * width) / 2, (72 - scale * height) / 2, scale * width, scale * height);
  return canvas.toDataURL("image/png");
}

function showLike() {
  $("like").replaceChildren(...like.map((each) => {
    const remove = make("button", { textContent: "×", title: "Look for this no longer", ariaLabel: `Remove ${each.label}` });
    remove.onclick = () => { like = like.filter((other) => other !== each); showLike(); ask(); };
    return make("li", {}, make("img", { src: each.thumbnail, alt: "" }), each.label, remove);
  }));
}

// Downloads --------------------------------------------------------------------------------------

async function download(kind) {
  try {
    const response = await post(`download/${kind}`, question());
    const name = decodeURIComponent(/filename\*=utf-8''(.*)$/.exec(response.headers.get("Content-Disposition"))[1]);
    const address = URL.createObjectURL(await response.blob());
    make("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
  } catch (error) {
    complain(error.message);
  }
}

// The library ------------------------------------------------------------------------------------

let searching = 0, searched = new AbortController();

async function search() {
  searched.abort();
  searched = new AbortController();
  const number = ++searching, prompts = parts($("query").value);
  complain("", "library-error");
  $("looking").textContent = "";
  if (!prompts.length) { $("found").textContent = ""; $("wall").replaceChildren(); return; }
  $("found").textContent = "Searching …";
  try {
    const asked = { prompts, least: Number($("least").value), again: $("again").checked };
    for await (const line of lines(await post("search", asked, searched.signal))) {
      if (number !== searching) return;
      if ("hits" in line) showHits(line, prompts);
      if ("looked" in line) $("looking").textContent = `looking again: ${line.looked}`;
    }
  } catch (error) {
    if (number !== searching) return;
    $("found").textContent = "";
    complain(error.message, "library-error");
  }
}

function showHits({ hits, pictures, last }, prompts) {
  const all = `${pictures.toLocaleString("en")} picture${pictures === 1 ? "" : "s"}`;
  const count = hits.length === 24 ? "the surest 24" : hits.length || "none";
  $("found").textContent = `${prompts.join(" and ")}: ${count} of ${all}`;
  $("looking").textContent = last ? "" : "at first sight; looking again …";
  $("wall").classList.toggle("doubtful", !last);
  $("wall").replaceChildren(...hits.map((hit) => card(hit, prompts)));
}

function card(hit, prompts) {
  const thumb = make("div", { className: "thumb" }, make("img", { src: `hits/${hit.id}`, alt: "" }));
  const width = Math.min(190 * hit.ratio, 456);
  Object.assign(thumb.style, { width: `${width}px`, height: `${width / hit.ratio}px` });
  for (const box of hit.boxes) {
    const element = make("div", { className: "box", title: box.label });
    element.style.setProperty("--colour", box.colour);
    place(element, box.left, box.top, box.width, box.height);
    thumb.append(element);
  }
  const button = make("button", { title: `${hit.file}: look closer` }, thumb,
    make("div", { className: "name" }, make("span", { textContent: hit.file }), make("span", { textContent: percent(hit.presence) })));
  button.onclick = () => {
    $("model").value = start.library.model;
    showModel();
    showTab("picture");
    takeFrom(`hits/${hit.id}`, prompts);
  };
  return make("li", {}, button);
}

function showTab(name) {
  for (const each of ["picture", "library"]) {
    $(`${each}-tab`).hidden = each !== name;
    $(`tab-${each}`).ariaSelected = each === name;
  }
  document.querySelector("header .model").style.visibility = name === "picture" ? "visible" : "hidden";
  $(name === "library" ? "query" : "prompts").focus();
}

// What happens on the page -----------------------------------------------------------------------

function showModel() {
  const drawn = $("model").value === "emoji";
  $("known").hidden = !drawn;
  $("examples-note").textContent = drawn ? "" : "(drawings: the model “emoji” knows them best)";
}

function showThreshold() {
  $("threshold-text").textContent = percent(Number($("threshold").value));
  $("least-text").textContent = percent(Number($("least").value));
}

function example({ title, prompts, image }) {
  const button = make("button", {}, make("img", { src: image.slice(1), alt: "" }), make("span", { textContent: title }));
  button.onclick = () => takeFrom(image.slice(1), prompts);
  return make("li", {}, button);
}

function wire() {
  $("model").replaceChildren(...start.models.map((name) => make("option", { value: name, textContent: name })));
  $("threshold").value = start.threshold;
  $("least").value = 0.7;
  $("known-count").textContent = start.known.length;
  $("known-words").textContent = start.known.join(", ");
  $("examples").replaceChildren(...start.examples.map(example));
  $("downloads").replaceChildren(...start.downloads.map((kind) => {
    const button = make("button", { textContent: TITLES[kind] ?? kind });
    button.onclick = () => download(kind);
    return button;
  }));
  showModel();
  showThreshold();
  if (start.library) {
    $("tabs").hidden = false;
    $("tab-library").textContent = `Library (${start.library.pictures.toLocaleString("en")})`;
    $("tab-picture").onclick = () => showTab("picture");
    $("tab-library").onclick = () => showTab("library");
    $("search").onsubmit = (event) => { event.preventDefault(); search(); };
    $("least").oninput = showThreshold;
    $("least").onchange = $("again").onchange = search;
  }
  $("model").onchange = () => { showModel(); askInstead(); };
  $("prompts").oninput = $("negatives").oninput = askSoon;
  $("threshold").oninput = () => { showThreshold(); askSoon(); };
  $("choose").onclick = $("other").onclick = () => $("file").click();
  $("file").onchange = () => { if ($("file").files.length) takeFile($("file").files[0]); $("file").value = ""; };
  document.onpaste = (event) => { if (event.clipboardData.files.length) takeFile(event.clipboardData.files[0]); };
  document.ondragover = (event) => { event.preventDefault(); $("drop").classList.add("over"); };
  document.ondragleave = (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); };
  document.ondrop = (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    if (event.dataTransfer.files.length) takeFile(event.dataTransfer.files[0]);
  };
}

request("start").then((response) => response.json()).then((facts) => { start = facts; wire(); })
  .catch((error) => complain(error.message));
