// Acts on this page alone: code is copied, tables are sorted.
const UNITS = {us: 1e-3, ms: 1, s: 1e3, B: 1, KiB: 1024, MiB: 1048576, GiB: 1073741824};

async function copy(pre, button) {
  const text = [...pre.querySelectorAll(":scope > span")].map((line) => line.textContent).join("\n") + "\n";
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "copied";
  } catch {
    getSelection().selectAllChildren(pre);
    button.textContent = "selected: press Ctrl+C";
  }
}

for (const pre of document.querySelectorAll("pre.copy")) {
  const button = document.createElement("button");
  button.textContent = "copy";
  button.onclick = () => copy(pre, button);
  pre.before(button);
}

function value(cell) {
  const [number, unit] = cell.textContent.trim().replaceAll(",", "").split(" ");
  return number === "" || isNaN(parseFloat(number)) ? null : parseFloat(number) * (UNITS[unit] ?? 1);
}

function sort(th) {
  const table = th.closest("table");
  const down = th.ariaSort ? th.ariaSort === "ascending" : th.className === "number";
  const of = (row) => (th.className === "number" ? value : (cell) => cell.textContent)(row.cells[th.cellIndex]);
  const order = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", {numeric: true}) : a - b);
  const rows = [...table.tBodies[0].rows].map((row) => [of(row), row]);
  rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : order(a, b) * (down ? -1 : 1)));
  for (const each of table.querySelectorAll("th")) each.removeAttribute("aria-sort");
  th.ariaSort = down ? "descending" : "ascending";
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

for (const th of document.querySelectorAll("th")) {
  th.tabIndex = 0;
  th.onclick = () => sort(th);
  th.onkeydown = (event) => event.key === "Enter" && sort(th);
}
