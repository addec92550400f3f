// The slide itself: layers of tiles, the marked cell, the scale bar, keys, and the address that leads back.
"use strict";

const TITLES = {
  he: "H&E", cells: "Cell boundaries", nuclei: "Nucleus boundaries", qc: "QC flags", expression: "Expression",
};
const KEYS = Object.keys(TITLES);
const FROM_BELOW = ["he", "expression", "qc", "cells", "nuclei"];
const OPACITY = { he: 1, cells: 0.9, nuclei: 0.9, qc: 0.75, expression: 0.8 };
const CLOSE = 6; // screen px per µm where a cell is led to without a place
const SVG = "http://www.w3.org/2000/svg";

let info, viewer;
let gene = null, cell = null;
const layers = {}; // by name: { on, opacity, item, row }

document.addEventListener("DOMContentLoaded", () => start().catch((error) => say(error.message)));

async function start() {
  info = await ask("info.json");
  document.title = `${info.name} · PAST`;
  byId("name").textContent = info.name;
  const facts = [`${number(info.width)} × ${number(info.height)} px`];
  if (info.mpp !== null) facts.push(`${Number(info.mpp.toPrecision(4))} µm/px`);
  if (info.cells !== undefined) facts.push(`${number(info.cells)} cells`);
  byId("facts").textContent = facts.map((fact) => fact.replaceAll(" ", "\u00a0")).join(" · ");
  viewer = OpenSeadragon({
    element: byId("viewer"), drawer: "canvas", showNavigationControl: false, animationTime: 0.4,
    gestureSettingsMouse: { clickToZoom: false }, gestureSettingsTouch: { clickToZoom: false },
    gestureSettingsPen: { clickToZoom: false }, maxZoomPixelRatio: 16, minZoomImageRatio: 0.6, visibilityRatio: 0.3,
    imageLoaderLimit: 6, maxImageCacheCount: 400, preserveImageSizeOnResize: true,
  });
  const address = readAddress();
  for (const name of ["he", ...info.layers]) {
    layers[name] = { on: address.layers ? address.layers.has(name) : name === "he" || name === "cells", opacity: OPACITY[name] };
    addRow(name);
  }
  listen();
  await addImage("he");
  moveTo(address, true);
  if (info.layers.includes("expression")) {
    geneBox(chooseGene);
    showReasons(info);
    if (address.gene) await chooseGene(address.gene, { show: false });
  }
  await Promise.all(info.layers.filter((name) => name !== "expression").map(addImage));
  if (address.cell && info.layers.length) {
    await chooseCell(`cell/${encodeURIComponent(address.cell)}`);
    if (cell !== null && address.x === null) moveTo({ x: cell.x, y: cell.y, zoom: CLOSE * info.mpp }, true);
  }
  refresh();
  document.documentElement.dataset.started = "yes"; // what is to be seen now only waits for tiles
}

// --- layers -----------------------------------------------------------------------------------------------

function tileSource(name) {
  const folder = name === "he" ? "tiles" : name === "expression" ? `expression/${encodeURIComponent(gene.id)}` : `layers/${name}`;
  const suffix = name === "he" ? "jpg" : "png";
  const coarsest = Math.min(info.top, Math.ceil(Math.log2(info.tile)));
  return {
    width: info.width, height: info.height, tileSize: info.tile, tileOverlap: 0, minLevel: coarsest, maxLevel: info.top,
    getTileUrl: (level, x, y) => `${folder}/${level}/${x}_${y}.${suffix}?run=${info.run}`,
  };
}

function addImage(name) {
  const layer = layers[name];
  const turn = (layer.turn = (layer.turn || 0) + 1);
  return new Promise((resolve) => viewer.addTiledImage({
    tileSource: tileSource(name),
    index: FROM_BELOW.slice(0, FROM_BELOW.indexOf(name)).filter((other) => layers[other] && layers[other].item).length,
    opacity: layer.on ? layer.opacity : 0,
    success: ({ item }) => {
      if (layer.turn !== turn) viewer.world.removeItem(item);
      else layer.item = item;
      resolve();
    },
    error: ({ message }) => { say(message); resolve(); },
  }));
}

function addRow(name) {
  const box = element("input", { type: "checkbox", id: `layer-${name}` });
  const slider = element("input", { type: "range", min: "0", max: "100", "aria-label": `Opacity of ${TITLES[name]}` });
  slider.value = 100 * layers[name].opacity;
  const label = element("label", { for: box.id }, element("kbd", { text: KEYS.indexOf(name) + 1 }), box);
  if (info.colours && info.colours[name]) label.append(swatch(info.colours[name], true));
  label.append(TITLES[name]);
  const row = element("li", {}, label, slider);
  box.addEventListener("change", () => toggle(name, box.checked));
  slider.addEventListener("input", () => { layers[name].opacity = slider.value / 100; refresh(); });
  Object.assign(layers[name], { row, box });
  byId("layers").append(row);
}

function toggle(name, on) {
  if (!layers[name]) return;
  layers[name].on = on;
  refresh();
  if (name === "expression" && on && gene === null) byId("gene").focus();
}

function refresh() {
  for (const layer of Object.values(layers)) {
    layer.box.checked = layer.on;
    layer.row.classList.toggle("off", !layer.on);
    if (layer.item) layer.item.setOpacity(layer.on ? layer.opacity : 0);
  }
  byId("expression").hidden = !(layers.expression && layers.expression.on);
  byId("quality").hidden = !(layers.qc && layers.qc.on);
  writeAddress();
}

async function chooseGene(name, { show = true } = {}) {
  try {
    gene = await ask(`expression/${encodeURIComponent(name)}`);
  } catch (error) { say(error.message); return; }
  const layer = layers.expression;
  if (show) layer.on = true;
  byId("gene").value = gene.symbol;
  showLegend(gene, info.scale);
  if (layer.item) { viewer.world.removeItem(layer.item); layer.item = null; }
  await addImage("expression");
  refresh();
}

// --- cells ------------------------------------------------------------------------------------------------

async function chooseCell(address) {
  try {
    ({ cell } = await ask(address));
  } catch (error) { say(error.message); return; }
  showCell(cell, chooseGene);
  drawMark();
  writeAddress();
}

function drawMark() {
  const group = document.createElementNS(SVG, "g");
  const outlines = cell === null ? {} : cell.outlines;
  for (const [kind, rings] of Object.entries(outlines)) {
    for (const ring of rings) {
      for (const place of ["under", "over"]) {
        const polygon = document.createElementNS(SVG, "polygon");
        polygon.setAttribute("points", ring.map((point) => point.join(",")).join(" "));
        polygon.setAttribute("class", `${place} ${kind}`);
        group.append(polygon);
      }
    }
  }
  byId("mark").replaceChildren(group);
  placeMark();
}

function placeMark() {
  const group = byId("mark").firstElementChild;
  if (!group) return;
  const origin = viewer.viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
  group.setAttribute("transform", `translate(${origin.x} ${origin.y}) scale(${imageZoom(true)})`);
}

// --- view -------------------------------------------------------------------------------------------------

// Screen pixels per level-0 pixel; the slide is one wide in the viewport's own units.
const imageZoom = (current = false) =>
  (viewer.viewport.getZoom(current) * viewer.viewport.getContainerSize().x) / info.width;

function placeScale() {
  const micron = info.mpp === null ? imageZoom(true) : imageZoom(true) / info.mpp; // screen px per µm (or px)
  const power = 10 ** Math.floor(Math.log10(120 / micron));
  const length = [5, 2, 1].map((step) => step * power).find((step) => step * micron <= 120);
  byId("scale-bar").style.width = `${length * micron}px`;
  byId("scale-text").textContent = info.mpp === null ? `${length} px` : length >= 1000 ? `${length / 1000} mm` : `${length} µm`;
}

function listen() {
  viewer.addHandler("update-viewport", () => { placeMark(); placeScale(); });
  viewer.addHandler("animation-finish", writeAddress);
  viewer.addHandler("tile-load-failed", async ({ tile }) => {
    const reply = await fetch(tile.getUrl()).catch(() => null);
    if (reply === null) say("The server has stopped: start `past view` again.");
    else if (!reply.ok) say((await reply.text()).trim());
  });
  viewer.addHandler("canvas-key", (event) => { event.preventDefaultAction = true; }); // `keydown` below sees to them
  viewer.addHandler("canvas-click", ({ quick, position }) => {
    if (!quick || !info.layers.length) return;
    const point = viewer.viewport.pointFromPixel(position, true);
    chooseCell(`cells?x=${(point.x * info.width).toFixed(3)}&y=${(point.y * info.width).toFixed(3)}`);
  });
  document.addEventListener("keydown", key);
  window.addEventListener("hashchange", () => { if (location.hash !== written) location.reload(); });
  const zoom = (factor) => { viewer.viewport.zoomBy(factor); viewer.viewport.applyConstraints(); };
  byId("in").addEventListener("click", () => zoom(1.6));
  byId("out").addEventListener("click", () => zoom(1 / 1.6));
  byId("home").addEventListener("click", () => viewer.viewport.goHome());
  byId("close").addEventListener("click", closeCell);
  byId("fold").addEventListener("click", () => {
    const open = byId("folded").hidden;
    byId("folded").hidden = !open;
    byId("fold").textContent = open ? "–" : "+";
    byId("fold").setAttribute("aria-expanded", String(open));
  });
}

function closeCell() { cell = null; showCell(null); drawMark(); writeAddress(); }

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input[type=search], input[type=range]")) return;
  const { viewport } = viewer;
  const pan = (x, y) => viewport.panBy(viewport.deltaPointsFromPixels(new OpenSeadragon.Point(100 * x, 100 * y)));
  const actions = {
    "+": () => viewport.zoomBy(1.6), "=": () => viewport.zoomBy(1.6), "-": () => viewport.zoomBy(1 / 1.6),
    0: () => viewport.goHome(), Escape: closeCell, ArrowLeft: () => pan(-1, 0), ArrowRight: () => pan(1, 0),
    ArrowUp: () => pan(0, -1), ArrowDown: () => pan(0, 1),
  };
  const name = KEYS[Number(event.key) - 1];
  if (name && layers[name]) toggle(name, !layers[name].on);
  else if (actions[event.key]) actions[event.key]();
  else return;
  viewport.applyConstraints();
  event.preventDefault();
}

// --- address ----------------------------------------------------------------------------------------------

let written = "";

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const decimal = (name) => (Number.isFinite(parseFloat(given.get(name))) ? parseFloat(given.get(name)) : null);
  return {
    x: decimal("x"), y: decimal("y"), zoom: decimal("zoom"), gene: given.get("gene"), cell: given.get("cell"),
    layers: given.has("layers") ? new Set(given.get("layers").split(",")) : null,
  };
}

function moveTo({ x, y, zoom }, immediately) {
  const { viewport } = viewer;
  if (x === null || y === null) return;
  viewport.panTo(new OpenSeadragon.Point(x / info.width, y / info.width), immediately);
  if (zoom > 0) viewport.zoomTo((zoom * info.width) / viewport.getContainerSize().x, undefined, immediately);
  viewport.applyConstraints(immediately);
}

function writeAddress() {
  if (!viewer.world.getItemCount()) return;
  const middle = viewer.viewport.getCenter();
  const parts = {
    x: (middle.x * info.width).toFixed(1), y: (middle.y * info.width).toFixed(1), zoom: imageZoom().toPrecision(4),
    layers: KEYS.filter((name) => layers[name] && layers[name].on).join(","),
  };
  if (gene !== null) parts.gene = gene.symbol;
  if (cell !== null) parts.cell = cell.id;
  written = `#${Object.entries(parts).map(([name, value]) => `${name}=${encodeURIComponent(value).replaceAll("%2C", ",")}`).join("&")}`;
  history.replaceState(null, "", written);
}
