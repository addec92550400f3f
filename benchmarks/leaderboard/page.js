"use strict";
// Sorts a table by the column whose heading is pressed; rows that were not measured stay last.
function key(row, column) {
  const cell = row.cells[column];
  const value = cell.dataset.value;
  return value === undefined ? cell.textContent.trim() : Number(value);
}
function empty(value) {
  return value === "" || value === "-" || Number.isNaN(value);
}
function sort(heading) {
  const table = heading.closest("table");
  const column = heading.cellIndex;
  const first = heading.dataset.better === "higher" ? "descending" : "ascending";
  const other = first === "ascending" ? "descending" : "ascending";
  const order = heading.getAttribute("aria-sort") === first ? other : first;
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  rows.sort((a, b) => {
    const lost = a.classList.contains("missing") - b.classList.contains("missing");
    if (lost) return lost;
    const x = key(a, column), y = key(b, column);
    if (empty(x) || empty(y)) return empty(x) - empty(y);
    if (typeof x === "number" && typeof y === "number") return sign * (x - y);
    if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
    return sign * x.localeCompare(y, "en", { numeric: true });
  });
  body.append(...rows);
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sort(button.parentElement));
}
const theme = document.querySelector(".theme");
theme.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : window.matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
