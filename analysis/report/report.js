// Draws figures when they come into view, in the page's colours, and makes the leaderboard sort and filter.
"use strict";
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function themed(layout) {
    const text = colour("--text"), line = colour("--line"), narrow = window.innerWidth < 640;
    const themed = { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true };
    themed.font = { ...layout.font, color: text, size: narrow ? 11 : 12 };
    themed.modebar = { bgcolor: "rgba(0,0,0,0)", color: colour("--faint"), activecolor: text };
    themed.hoverlabel = { bgcolor: colour("--panel"), font: { color: text } };
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(key)) {
        themed[key] = { gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true, ...layout[key] };
        Object.assign(themed[key], { gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true });
      }
    }
    if (narrow && layout.showlegend !== false) themed.legend = { ...layout.legend, orientation: "h", y: -0.25 };
    return themed;
  }

  // Parallel coordinates keep their own fonts, which do not follow the layout's.
  function withReadableAxes(data) {
    const font = { color: colour("--text"), size: 11 };
    return data.map((trace) => trace.type === "parcoords" ? { ...trace, tickfont: font, labelfont: font, rangefont: font } : trace);
  }

  function draw(plot) {
    const script = plot.parentElement.querySelector("script.spec");
    if (plot.dataset.drawn || !script || !window.Plotly) return;
    plot.dataset.drawn = "yes";
    const spec = JSON.parse(script.textContent);
    plot.spec = spec;
    window.Plotly.newPlot(plot, withReadableAxes(spec.data), themed(spec.layout), { responsive: true, displaylogo: false });
  }

  const plots = [...document.querySelectorAll(".plot")];
  const watcher = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
    { rootMargin: "400px" },
  );
  plots.forEach((plot) => watcher.observe(plot));
  dark.addEventListener("change", () => {
    plots.filter((plot) => plot.dataset.drawn).forEach((plot) => window.Plotly.react(plot, withReadableAxes(plot.spec.data), themed(plot.spec.layout)));
  });
  window.addEventListener("beforeprint", () => plots.forEach(draw));

  const PAGE = 25;
  const OPERATORS = {
    "=": (a, b) => String(a).toLowerCase() === b, ":": (a, b) => String(a).toLowerCase().includes(b),
    ">": (a, b) => a !== null && Number(a) > Number(b), "<": (a, b) => a !== null && Number(a) < Number(b),
    ">=": (a, b) => a !== null && Number(a) >= Number(b), "<=": (a, b) => a !== null && Number(a) <= Number(b),
  };

  function parse(query, columns) {
    return query.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
      const parts = word.match(/^([^<>=:]+)(>=|<=|>|<|=|:)(.+)$/);
      const index = parts ? columns.findIndex((c) => [c.name, c.label].includes(parts[1])) : -1;
      if (index < 0) return (row) => row.some((cell) => cell !== null && String(cell).toLowerCase().includes(word));
      return (row) => OPERATORS[parts[2]](row[index], parts[3]);
    });
  }

  function compare(a, b) {
    if (a === null || b === null) return (a === null) - (b === null);
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  }

  function format(cell, digits) {
    if (cell === null) return "–";
    if (typeof cell === "boolean") return cell ? "yes" : "no";
    if (typeof cell !== "number" || Number.isInteger(cell)) return typeof cell === "number" && Math.abs(cell) > 99999 ? cell.toLocaleString("en") : String(cell);
    return digits === null ? String(Number(cell.toPrecision(3))) : cell.toFixed(digits);
  }

  function leaderboard(board) {
    const { columns, rows } = JSON.parse(board.querySelector("script.rows").textContent);
    const head = board.querySelector("thead tr"), body = board.querySelector("tbody");
    const search = board.querySelector("input"), count = board.querySelector(".count");
    const more = board.querySelector(".more"), all = board.querySelector(".all");
    let sorted = null, descending = false, shown = PAGE, wide = false;

    function visible() { return columns.map((c, i) => i).filter((i) => wide || !columns[i].extra); }

    function matches() {
      const tests = parse(search.value, columns);
      const found = rows.filter((row) => tests.every((test) => test(row)));
      if (sorted === null) return found;
      const sign = descending ? -1 : 1;
      return found.sort((a, b) =>
        a[sorted] === null || b[sorted] === null ? compare(a[sorted], b[sorted]) : sign * compare(a[sorted], b[sorted]));
    }

    function render() {
      const found = matches(), indices = visible(), state = columns.findIndex((c) => c.name === "state");
      head.replaceChildren(...indices.map((i) => {
        const cell = document.createElement("th"), button = document.createElement("button");
        button.textContent = columns[i].label + (sorted === i ? (descending ? " ↓" : " ↑") : "");
        cell.title = columns[i].about;
        if (columns[i].number) cell.className = "number";
        if (sorted === i) cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
        button.addEventListener("click", () => {
          if (sorted === i) descending = !descending; else { sorted = i; descending = columns[i].number; }
          render();
        });
        cell.append(button);
        return cell;
      }));
      body.replaceChildren(...found.slice(0, shown).map((row) => {
        const line = document.createElement("tr");
        if (state >= 0) line.className = String(row[state]).split(":")[0];
        line.append(...indices.map((i) => {
          const cell = document.createElement("td");
          cell.textContent = format(row[i], columns[i].digits);
          if (columns[i].number) cell.className = "number";
          return cell;
        }));
        return line;
      }));
      const part = Math.min(shown, found.length);
      count.textContent = `${part.toLocaleString("en")} of ${found.length.toLocaleString("en")} shown, ${rows.length.toLocaleString("en")} trials in all`;
      more.hidden = found.length <= shown;
    }

    search.addEventListener("input", () => { shown = PAGE; render(); });
    more.addEventListener("click", () => { shown += 8 * PAGE; render(); });
    all.addEventListener("click", () => { wide = !wide; all.textContent = wide ? "fewer columns" : "all columns"; render(); });
    all.hidden = !columns.some((c) => c.extra);
    render();
  }

  document.querySelectorAll(".board").forEach(leaderboard);
})();
