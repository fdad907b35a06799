// A picture on the page: its answer, and on request what the model looked at.

import { Refused, ask, inWords } from "./asking.js";
import { drawMap, isWeak, legend, seenBox } from "./map.js";
import { find, percent, show } from "./showing.js";

const SHOWN_CLASSES = 5;
const SMALL = { width: 192, height: 384 }; // pixels to which a smaller picture is enlarged

export class Picture {
  // `page` has currentModel, coverage, enqueue, tell and remove.
  constructor(file, page) {
    this.page = page;
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
    this.parts.remove.addEventListener("click", () => this.page.remove(this));
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
    this.page.enqueue(async () => {
      if (turn !== this.asked) return;
      const model = this.page.currentModel();
      try {
        if (!model) throw new Refused("No model is ready yet.");
        const coverage = this.page.coverage();
        const query = coverage ? `?coverage=${coverage}` : "";
        const said = await this.send(model, `predict${query}`);
        const [found] = said.predictions;
        if (found.error) throw new Refused(found.error);
        if (turn === this.asked) this.answer(model, found, coverage);
      } catch (error) {
        if (turn === this.asked) this.fail(error);
      }
    });
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
    this.page.tell(this);
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
    show(this.parts.set, Boolean(coverage) && found.known !== false); // no set holds a class that it does not know
    show(this.parts.explain);
    this.summary = `${this.name}: ${found.known === false ? "unknown, nearest to " : ""}${found.label}, ${percent(found.probability)}`;
    this.page.tell(this);
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
    this.parts.frame.classList.toggle("mapped", !isWeak(this.map.grid));
    show(canvas);
  }
}
