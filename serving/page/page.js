// Sends pictures to the server that this page came from, and shows its answers.
"use strict";

const SHOWN_CLASSES = 5;
const AT_ONCE = 4; // requests; the server puts pictures of several into one batch
const WAITS = [1, 2, 4, 8, 15]; // seconds between tries while the server is busy or starting
const WEAK_DROP = 0.02;
const MOST_PICTURES = 200; // added at once; for more there is a command
const SMALL = { width: 192, height: 384 }; // pixels to which a smaller picture is enlarged

const find = (selector, inside = document) => inside.querySelector(selector);
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
const show = (element, visible = true) => { element.hidden = !visible; };

let models = [];
let token = sessionStorage.getItem("token") || "";
let onToken = []; // what waits for a token
const pictures = new Set();
const queue = [];
let running = 0;

class Refused extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

// ---- asking the server

async function ask(address, options = {}) {
  for (let attempt = 0; ; attempt += 1) {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    let response;
    try {
      response = await fetch(address, { ...options, headers: { ...options.headers, ...headers } });
    } catch {
      throw new Refused("The server does not answer: is it still running?");
    }
    if (response.status === 401) {
      await newToken(token);
      attempt = -1;
      continue;
    }
    const said = await response.json().catch(() => ({}));
    if (response.ok) return said;
    const isBusy = response.status === 429 || response.status === 503;
    if (!isBusy || attempt >= WAITS.length) throw new Refused(said.error || `The server failed (${response.status}).`, response.status);
    say(`The server is busy (${said.error || response.status}): asking again.`);
    await pause(WAITS[attempt]);
  }
}

function newToken(refused) {
  if (token !== refused) return Promise.resolve(); // another request got one meanwhile
  const form = find("#token-form");
  if (form.hidden || refused) {
    find("#token-why").textContent = refused ? "This token is not the server's." : "This server asks for its token.";
  }
  const wasHidden = form.hidden;
  show(form);
  if (wasHidden) find("#token").focus();
  return new Promise((resolve) => onToken.push(resolve));
}

find("#token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = find("#token").value.trim();
  if (/[^\x21-\x7e]/.test(token)) {
    find("#token-why").textContent = "A token is one word of ASCII characters.";
    return;
  }
  sessionStorage.setItem("token", token);
  find("#token").value = "";
  show(find("#token-form"), false);
  find("#choose").focus();
  const waiting = onToken;
  onToken = [];
  for (const resolve of waiting) resolve();
});

const say = (text) => { find("#status").textContent = text; };
const percent = (value) => {
  const shown = 100 * value;
  if (shown >= 99.95 && value < 1) return "> 99.9 %";
  if (shown < 0.05 && value > 0) return "< 0.1 %";
  return `${shown.toFixed(1)} %`;
};
const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

// ---- models

async function loadModels() {
  try {
    models = (await ask("models")).models;
  } catch (error) {
    say(error.message);
    return;
  }
  const starting = models.filter((model) => !model.ready);
  const chosen = find("#model").value;
  find("#model").replaceChildren(...models.map((model) => {
    const option = new Option(model.ready ? model.name : `${model.name} (starting)`, model.name);
    option.disabled = !model.ready;
    return option;
  }));
  const ready = models.filter((model) => model.ready);
  const kept = ready.find((model) => model.name === chosen) || ready[0];
  if (kept) find("#model").value = kept.name;
  show(find("#model-choice"), models.length > 1);
  describeModel();
  if (starting.length) {
    if (!kept) say(`${starting.map((model) => model.name).join(", ")}: the model is still starting.`);
    await pause(2);
    await loadModels();
  } else if (find("#status").textContent.endsWith("still starting.")) {
    say("The model is ready.");
  }
}

const currentModel = () => models.find((model) => model.name === find("#model").value);

function describeModel() {
  const model = currentModel();
  show(find("#about"), Boolean(model));
  if (!model) return;
  const title = models.length > 1 ? "Try the models" : `Try the model ${model.name}`;
  find("#title").textContent = document.title = title;
  const facts = [
    ["Classes", `${model.classes.length}: ${model.classes.slice(0, 20).join(", ")}${model.classes.length > 20 ? " …" : ""}`],
    ["Backbone", model.card.backbone],
    ["Picture size", `${model.image_size} × ${model.image_size} pixels, ${seenPart(model)}`],
    ["Validation accuracy", accuracy(model.card)],
    ["Unknown pictures", model.tells_unknown ? "are told" : "are not told from known ones"],
    ["Version", `${String(model.version).slice(0, 12)} (${model.format})`],
  ].filter(([, value]) => value);
  find("#facts").replaceChildren(...facts.flatMap(([name, value]) => {
    const term = document.createElement("dt");
    const text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    return [term, text];
  }));
  const coverages = model.coverages || [];
  const wanted = Number(find("#coverage").value || 0.9);
  find("#coverage").replaceChildren(...coverages.map((one) => new Option(`${Math.round(100 * one)} %`, one)));
  if (coverages.length) {
    find("#coverage").value = coverages.reduce((a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a));
  }
  show(find("#coverage-choice"), coverages.length > 0);
}

function seenPart(model) {
  const words = { crop: "the square in the middle", squash: "squeezed to a square", pad: "with margins to a square" };
  return words[model.card.fit] || "";
}

function accuracy(card) {
  const score = (card.scores || {}).val_accuracy;
  if (!score || typeof score.corrected !== "number") return "";
  return `${percent(score.corrected)} (${percent(score.low)} to ${percent(score.high)})`;
}

find("#model").addEventListener("change", () => { describeModel(); askAgain(); });
find("#coverage").addEventListener("change", askAgain);

function askAgain() {
  for (const picture of pictures) picture.ask();
}

// ---- pictures

class Picture {
  constructor(file) {
    this.file = file;
    this.asked = 0;
    this.map = null;
    this.canShow = true;
    this.element = find("#picture").content.firstElementChild.cloneNode(true);
    const part = (selector) => find(selector, this.element);
    this.parts = {
      image: part("img"), frame: part(".frame"), canvas: part("canvas"), caption: part("figcaption"), head: part("h2"),
      unknown: part(".unknown"), wrong: part(".wrong"), table: part("table"), rows: part("tbody"), set: part(".set"),
      more: part(".more"), explain: part(".explain"), choice: part(".explained"), classes: part(".explained select"),
      again: part(".again"), remove: part(".remove"), legend: part(".legend"),
    };
    this.name = file.name || "pasted picture";
    this.parts.caption.textContent = this.name;
    this.element.setAttribute("aria-label", this.name);
    this.parts.remove.setAttribute("aria-label", `Remove ${this.name}`);
    this.address = URL.createObjectURL(file);
    this.parts.image.alt = this.name;
    this.parts.image.addEventListener("error", () => this.cannotShow());
    this.parts.image.addEventListener("load", () => this.enlarge());
    this.parts.image.src = this.address;
    this.parts.more.addEventListener("click", () => this.toggleClasses());
    this.parts.explain.addEventListener("click", () => this.toggleMap());
    this.parts.classes.addEventListener("change", () => this.explain());
    this.parts.again.addEventListener("click", () => this.ask());
    this.parts.remove.addEventListener("click", () => removePicture(this));
  }

  enlarge() {
    const { image } = this.parts;
    const scale = Math.min(SMALL.width / image.naturalWidth, SMALL.height / image.naturalHeight);
    if (scale > 1) image.style.width = `${image.naturalWidth * scale}px`;
    this.draw();
  }

  cannotShow() {
    this.canShow = false;
    show(this.parts.image, false);
    this.parts.frame.classList.add("unshown");
    this.parts.caption.textContent = `${this.name} (this browser cannot show it)`;
    this.draw();
  }

  ask() {
    this.asked += 1;
    this.hideMap();
    this.parts.head.textContent = "…";
    for (const name of ["unknown", "wrong", "table", "set", "more", "explain", "again"]) show(this.parts[name], false);
    const turn = this.asked;
    queue.push(async () => {
      if (turn !== this.asked) return;
      const model = currentModel();
      try {
        if (!model) throw new Refused("No model is ready yet.");
        const coverage = find("#coverage").value;
        const query = coverage ? `?coverage=${coverage}` : "";
        const said = await this.send(model, `predict${query}`);
        const [found] = said.predictions;
        if (found.error) throw new Refused(found.error);
        if (turn === this.asked) this.answer(model, found, coverage);
      } catch (error) {
        if (turn === this.asked) this.fail(error);
      }
    });
    work();
  }

  send(model, what) {
    const headers = { "Content-Type": "application/octet-stream" };
    return ask(`models/${encodeURIComponent(model.name)}/${what}`, { method: "POST", body: this.file, headers });
  }

  fail(error) {
    this.parts.head.textContent = "No answer";
    this.parts.wrong.textContent = inWords(error);
    show(this.parts.wrong);
    show(this.parts.again);
    this.summary = `${this.name}: no answer`;
    tell(this);
  }

  answer(model, found, coverage) {
    this.model = model;
    this.found = found;
    this.ranked = Object.entries(found.probabilities).sort((a, b) => b[1] - a[1]);
    const place = this.ranked.findIndex(([name]) => name === found.label);
    this.ranked.unshift(...this.ranked.splice(place, 1)); // an operating point may answer the less likely class
    this.parts.head.textContent = found.known === false ? `Unknown; nearest to ${found.label}` : found.label;
    show(this.parts.unknown, found.known === false);
    this.fillTable(SHOWN_CLASSES);
    show(this.parts.table);
    const rest = this.ranked.length - SHOWN_CLASSES;
    this.parts.more.textContent = `All ${this.ranked.length} classes`;
    this.parts.more.setAttribute("aria-expanded", "false");
    show(this.parts.more, rest > 0);
    const sure = Math.round(100 * coverage);
    const others = found.set.length === 1 ? `only ${found.set[0]}` : found.set.slice(0, 20).join(", ");
    this.parts.set.textContent = `The ${sure} % set holds ${others}${found.set.length > 20 ? " and more" : ""}.`;
    show(this.parts.set, Boolean(coverage));
    show(this.parts.explain);
    this.summary = `${this.name}: ${found.known === false ? "unknown, nearest to " : ""}${found.label}, ${percent(found.probability)}`;
    tell(this);
  }

  fillTable(number) {
    this.parts.rows.replaceChildren(...this.ranked.slice(0, number).map(([name, value], index) => {
      const row = document.createElement("tr");
      row.className = index === 0 ? "best" : "";
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = name;
      const bar = document.createElement("td");
      const track = bar.appendChild(document.createElement("span"));
      track.className = "track";
      const fill = track.appendChild(document.createElement("span"));
      fill.className = "fill";
      fill.style.width = `${100 * value}%`;
      const text = document.createElement("td");
      text.className = "percent";
      text.textContent = percent(value);
      row.append(head, bar, text);
      return row;
    }));
  }

  toggleClasses() {
    const isOpen = this.parts.more.getAttribute("aria-expanded") === "true";
    this.parts.more.setAttribute("aria-expanded", String(!isOpen));
    this.parts.more.textContent = isOpen ? `All ${this.ranked.length} classes` : "Fewer classes";
    this.fillTable(isOpen ? SHOWN_CLASSES : this.ranked.length);
  }

  // ---- what the model looked at

  toggleMap() {
    if (this.parts.explain.getAttribute("aria-pressed") === "true") {
      this.hideMap();
      return;
    }
    this.parts.classes.replaceChildren(...this.ranked.slice(0, SHOWN_CLASSES).map(([name]) => new Option(name, name)));
    this.explain();
  }

  hideMap() {
    this.map = null;
    this.parts.explain.setAttribute("aria-pressed", "false");
    this.parts.frame.classList.remove("mapped");
    for (const name of ["canvas", "legend", "choice"]) show(this.parts[name], false);
  }

  async explain() {
    const turn = this.asked;
    const label = this.parts.classes.value;
    this.parts.explain.setAttribute("aria-pressed", "true");
    show(this.parts.choice);
    show(this.parts.legend);
    this.parts.legend.textContent = "Covering the picture part by part …";
    try {
      const found = await this.send(this.model, `explain?label=${encodeURIComponent(label)}`);
      const isWanted = this.parts.explain.getAttribute("aria-pressed") === "true" && label === this.parts.classes.value;
      if (turn !== this.asked || !isWanted) return;
      this.map = found;
      this.parts.legend.textContent = legend(found);
      this.draw();
    } catch (error) {
      if (turn === this.asked) this.parts.legend.textContent = inWords(error);
    }
  }

  draw() {
    if (!this.map) return;
    const { image, canvas } = this.parts;
    const width = this.canShow ? image.naturalWidth : 512;
    const height = this.canShow ? image.naturalHeight : 512;
    if (!width || !height) return;
    const scale = Math.min(1, 1024 / Math.max(width, height));
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
    const seen = seenBox(this.model.card.fit, canvas.width, canvas.height, this.model);
    drawMap(canvas, this.map.grid, seen);
    this.parts.frame.classList.add("mapped");
    show(canvas);
  }
}

function inWords(error) {
  if (!(error instanceof Refused)) return `This page failed: ${error.message}`;
  return error.status === 400 ? `The server cannot read this picture: ${error.message}.` : error.message;
}

function legend(found) {
  const values = found.grid.flat();
  const most = Math.max(...values);
  const least = Math.min(...values);
  const points = (value) => `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} points`;
  if (most < WEAK_DROP && least > -WEAK_DROP) {
    return `No part alone decides: covering any one changes the probability of ${found.label} by less than ${points(WEAK_DROP)}.`;
  }
  const drops = `Orange: covered, it lowers the probability of ${found.label}, by up to ${points(Math.max(most, 0))}.`;
  return least <= -WEAK_DROP ? `${drops} Blue: covered, it raises it, by up to ${points(-least)}.` : drops;
}

// Where on the picture lies the square that the model sees? As contract/decoding.py cuts it.
function seenBox(fit, width, height, model) {
  if (fit === "squash") return { left: 0, top: 0, width, height };
  if (fit === "pad") {
    const side = Math.max(width, height);
    return { left: (width - side) / 2, top: (height - side) / 2, width: side, height: side };
  }
  const side = Math.min(width, height) * (model.image_size / (model.card.storage_size || model.image_size));
  return { left: (width - side) / 2, top: (height - side) / 2, width: side, height: side };
}

function drawMap(canvas, grid, seen) {
  const size = grid.length;
  const small = document.createElement("canvas");
  small.width = small.height = size;
  const pixels = small.getContext("2d").createImageData(size, size);
  const largest = Math.max(...grid.flat().map(Math.abs), WEAK_DROP);
  grid.flat().forEach((drop, index) => {
    const strength = Math.min(1, Math.abs(drop) / largest);
    pixels.data.set(drop > 0 ? [255, 106, 0] : [0, 120, 255], 4 * index);
    pixels.data[4 * index + 3] = Math.round(190 * strength);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = "rgba(0, 0, 0, 0.55)"; // the model does not see this margin
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.clearRect(seen.left, seen.top, seen.width, seen.height);
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(small, seen.left, seen.top, seen.width, seen.height);
}

// ---- the queue

function work() {
  while (running < AT_ONCE && queue.length) {
    running += 1;
    queue.shift()().finally(() => { running -= 1; work(); });
  }
}

function tell(picture) {
  const waiting = queue.length + running - 1;
  say(waiting > 0 ? `${picture.summary}; ${count(waiting, "picture")} to come.` : `${picture.summary}.`);
}

// ---- adding and removing

function addFiles(files) {
  const added = [...files].slice(0, MOST_PICTURES).map((file) => new Picture(file));
  if (!added.length) return;
  for (const picture of added) pictures.add(picture);
  find("#results").prepend(...added.map((picture) => picture.element));
  show(find("#clear"));
  const others = files.length - added.length;
  const more = others ? ` ${count(others, "picture")} more left out: "python -m serving predict" takes whole folders.` : "";
  say(`Asking about ${count(added.length, "picture")} …${more}`);
  for (const picture of added) picture.ask();
}

function removePicture(picture) {
  picture.asked += 1;
  const next = picture.element.nextElementSibling || picture.element.previousElementSibling;
  picture.element.remove();
  pictures.delete(picture);
  URL.revokeObjectURL(picture.address);
  show(find("#clear"), pictures.size > 0);
  say(`${picture.name} is removed.`);
  (next ? find(".remove", next) : find("#choose")).focus();
}

find("#clear").addEventListener("click", () => {
  for (const picture of [...pictures]) removePicture(picture);
  say("All pictures are removed.");
});

for (const name of ["#choose", "#camera"]) {
  find(name).addEventListener("change", (event) => {
    addFiles(event.target.files);
    event.target.value = ""; // so that the same picture can be chosen again
  });
}

document.addEventListener("paste", (event) => {
  if (event.target instanceof HTMLInputElement && event.target.type === "password") return;
  const files = [...event.clipboardData.files];
  if (files.length) addFiles(files);
  else say("Nothing pasted is a picture: copy the picture itself, not its address.");
});

let depth = 0; // dragenter and dragleave come for every element on the way
const holdsFiles = (event) => [...event.dataTransfer.types].some((type) => type === "Files" || type === "text/uri-list");
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    depth = name === "drop" ? 0 : depth + (name === "dragenter") - (name === "dragleave");
    find("#drop").classList.toggle("over", depth > 0);
  });
}

document.addEventListener("drop", async (event) => {
  if (!holdsFiles(event)) return;
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry());
  const files = [...event.dataTransfer.files];
  const inFolders = [];
  if (entries.some((entry) => entry && entry.isDirectory)) {
    for (const entry of entries) if (entry) inFolders.push(...await filesOf(entry));
  }
  const found = inFolders.length ? inFolders : files;
  if (found.length) addFiles(found);
  else say("Nothing dropped is a picture: save it first, then drop the file.");
});

async function filesOf(entry) {
  if (entry.isFile) return entry.name.startsWith(".") ? [] : [await new Promise((done, fail) => entry.file(done, fail))];
  const reader = entry.createReader();
  const found = [];
  for (;;) { // a reader tells up to 100 entries at a time
    const some = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!some.length) return found;
    for (const one of some) found.push(...await filesOf(one));
  }
}

loadModels();
