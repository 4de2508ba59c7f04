// The page's script on a table and a listing of its own, without a browser: node page_dom.mjs page.js
import fs from "fs";

class Element {
  constructor(text) {
    this.textContent = text;
    this.className = "";
    this.sorted = null;
  }
  get ariaSort() {
    return this.sorted;
  }
  set ariaSort(value) {
    this.sorted = value;
  }
  removeAttribute() {
    this.sorted = null;
  }
}

const data = [["b", "1.5 s"], ["a10", ""], ["a9", "20 ms"], ["c", "1,200 ms"]];
let rows = data.map((row) => ({cells: row.map((text) => new Element(text))}));
const body = {get rows() { return rows; }, append(...sorted) { rows = sorted; }};
const heads = ["name", "time"].map((text) => new Element(text));
const table = {tBodies: [body], querySelectorAll: () => heads};
heads.forEach((th, n) => Object.assign(th, {cellIndex: n, className: n ? "number" : "", closest: () => table}));
const pre = {querySelectorAll: () => [new Element("x = 1"), new Element("y")], before(button) { this.button = button; }};
let copied = "";
const clipboard = {writeText: async (text) => { copied = text; }};
Object.defineProperty(globalThis, "navigator", {value: {clipboard}, configurable: true});
globalThis.document = {querySelectorAll: (what) => (what === "th" ? heads : [pre]), createElement: () => new Element("")};
new Function(fs.readFileSync(process.argv[2], "utf8"))();

const said = (th) => `${rows.map((row) => row.cells.map((cell) => cell.textContent).join("|")).join("; ")} ${th.ariaSort}`;
for (const n of [1, 1, 0]) {
  heads[n].onclick();
  console.log(said(heads[n]));
}
heads[0].onkeydown({key: "Enter"});
console.log(said(heads[0]));
await pre.button.onclick();
console.log(JSON.stringify(copied), pre.button.textContent);
