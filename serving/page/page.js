// Takes pictures in, has them answered by the server that this page came from, and tells about its models.

import { ask } from "./asking.js";
import { Picture } from "./picture.js";
import { count, find, pause, percent, say, show } from "./showing.js";

const AT_ONCE = 4; // requests; the server puts pictures of several into one batch
const MOST_PICTURES = 200; // added at once; for more there is a command

const page = { currentModel, coverage: () => find("#coverage").value, enqueue, tell, remove: removePicture };
const pictures = new Set();
const queue = [];
let models = [];
let running = 0;

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

function currentModel() {
  return models.find((model) => model.name === find("#model").value);
}

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

// ---- the queue

function enqueue(task) {
  queue.push(task);
  work();
}

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
  const added = [...files].slice(0, MOST_PICTURES).map((file) => new Picture(file, page));
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
