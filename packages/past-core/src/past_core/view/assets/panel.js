// The cards beside the slide: a cell's facts, the gene box with its completion, the legends.
"use strict";

const byId = (id) => document.getElementById(id);

function element(tag, { text, className, ...rest } = {}, ...children) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  for (const [name, value] of Object.entries(rest)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function swatch(colour, ring = false) {
  const made = element("span", { className: ring ? "swatch ring" : "swatch" });
  made.style[ring ? "borderColor" : "background"] = colour;
  return made;
}

const number = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

const words = (name) => {
  const text = name.replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
};

let messageTimer;
function say(text) {
  const message = byId("message");
  message.textContent = text;
  message.hidden = false;
  clearTimeout(messageTimer);
  messageTimer = setTimeout(() => { message.hidden = true; }, 8000);
}

async function ask(address) {
  const reply = await fetch(address);
  if (!reply.ok) throw new Error((await reply.text()).trim());
  return reply.json();
}

function showCell(cell, chooseGene) {
  byId("cell").hidden = cell === null;
  if (cell === null) return;
  byId("cell-id").textContent = cell.id;
  const state = byId("cell-state");
  state.textContent = cell.passed ? "passes QC" : `fails QC: ${cell.reasons.map(words).join(", ") || "no reason given"}`;
  state.className = cell.passed ? "" : "failed";
  const facts = [["Position", `${number(cell.x_um, 1)}, ${number(cell.y_um, 1)} µm`]];
  if (cell.cell_area_um2 !== null) facts.push(["Cell area", `${number(cell.cell_area_um2, 1)} µm²`]);
  if (cell.nucleus_area_um2 !== null) facts.push(["Nucleus area", `${number(cell.nucleus_area_um2, 1)} µm²`]);
  facts.push(["Counts", number(cell.counts)], ["Genes", number(cell.genes)]);
  for (const [name, value] of Object.entries(cell.more)) {
    const fraction = typeof value === "number" && !Number.isInteger(value);
    facts.push([words(name), fraction ? String(Number(value.toPrecision(4))) : String(value)]);
  }
  byId("cell-facts").replaceChildren(
    ...facts.flatMap(([name, value]) => [element("dt", { text: name }), element("dd", { text: value })]),
  );
  const most = cell.top_genes.length ? cell.top_genes[0].count : 1;
  const rows = cell.top_genes.map((gene) => {
    const bar = element("i");
    bar.style.width = `${(100 * gene.count) / most}%`;
    const row = element("li", { title: `Show ${gene.symbol}` }, bar, element("span", { text: gene.symbol }),
      element("span", { text: number(gene.count) }));
    row.addEventListener("click", () => chooseGene(gene.symbol));
    return row;
  });
  byId("cell-genes").replaceChildren(...(rows.length ? rows : [element("li", { text: "no counts", className: "none" })]));
}

function showLegend(gene, colours) {
  byId("legend").hidden = gene === null;
  if (gene === null) return;
  byId("ramp").style.background = `linear-gradient(to right, ${colours.join(", ")})`;
  byId("high").textContent = (gene.highest > gene.top ? "≥ " : "") + number(gene.top, 2);
  byId("expressing").textContent =
    `${gene.symbol}, log1p of counts per 10,000; in ${number(gene.expressing)} of ${number(gene.cells)} cells`;
}

function showReasons(info) {
  const entries = info.reasons.map((entry) => [swatch(entry.colour), words(entry.reason), entry.cells]);
  byId("reasons").replaceChildren(
    ...entries.map(([colour, reason, cells]) => element("li", {}, colour, element("span", { text: reason }),
      element("span", { text: number(cells) }))),
    element("li", {}, element("span", { text: "Pass" }),
      element("span", { text: `${number(info.passed)} of ${number(info.cells)}` })),
  );
}

// The gene box: asks for genes that match, and offers them; arrows and Enter choose.
function geneBox(chooseGene) {
  const box = byId("gene"), list = byId("genes");
  let offered = [], chosen = -1, asked = 0;
  const offer = (genes) => {
    offered = genes;
    chosen = genes.length ? 0 : -1;
    list.replaceChildren(...genes.map((gene) => {
      const row = element("li", { role: "option" }, element("b", { text: gene.symbol }), element("span", { text: gene.id }));
      row.addEventListener("mousedown", (event) => { event.preventDefault(); take(gene); });
      return row;
    }));
    list.hidden = !genes.length;
    box.setAttribute("aria-expanded", String(!list.hidden));
    mark();
  };
  const mark = () => [...list.children].forEach((row, k) => {
    row.classList.toggle("chosen", k === chosen);
    row.setAttribute("aria-selected", String(k === chosen));
    if (k === chosen) row.scrollIntoView({ block: "nearest" });
  });
  const take = (gene) => { offer([]); box.value = gene.symbol; box.blur(); chooseGene(gene.id); };
  const look = async () => {
    const turn = ++asked;
    try {
      const { genes } = await ask(`genes?q=${encodeURIComponent(box.value)}`);
      if (turn === asked && document.activeElement === box) offer(genes);
    } catch (error) { say(error.message); }
  };
  box.addEventListener("input", look);
  box.addEventListener("focus", () => { box.select(); look(); });
  box.addEventListener("blur", () => { asked++; offer([]); });
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const step = event.key === "ArrowDown" ? 1 : -1;
      if (offered.length) chosen = (chosen + step + offered.length) % offered.length;
      mark();
      event.preventDefault();
    } else if (event.key === "Enter" && offered[chosen]) take(offered[chosen]);
    else if (event.key === "Escape") box.blur();
  });
}
