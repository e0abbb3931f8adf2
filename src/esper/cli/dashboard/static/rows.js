// A list of any length: only the rows that can be seen exist, and only pieces around them are asked for.
import { el, fill } from "./dom.js";

const PIECE = 100;
const MARGIN = 8;

export class RowList {
  // options: { test, label, rowHeight, load(start, count) -> { total, rows }, draw(row) -> node props and children, onOpen, opensOnMove }
  constructor(options) {
    this.options = options;
    this.height = options.rowHeight || 34;
    this.total = 0;
    this.pieces = new Map();
    this.selected = -1;
    this.followsEnd = Boolean(options.startsAtEnd);
    this.round = 0;
    this.space = el("div", { class: "rows-space" });
    this.node = el("div", { class: "rows", test: options.test, role: "listbox", tabindex: "0", "aria-label": options.label,
      on: { scroll: () => this.scrolled(), keydown: (event) => this.key(event), click: (event) => this.click(event) } }, this.space);
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.node);
  }

  async refresh(isNew) {
    this.round += 1;
    const round = this.round;
    if (isNew) {
      this.selected = -1;
      this.node.scrollTop = 0;
    }
    const start = isNew ? 0 : PIECE * Math.floor(this.firstVisible() / PIECE);
    const found = await this.options.load(start, PIECE);
    if (round !== this.round) return;
    if (isNew || found.total !== this.total) this.pieces.clear();
    this.total = found.total;
    this.pieces.set(start / PIECE, found.rows);
    this.space.style.height = `${this.total * this.height}px`;
    if (this.followsEnd) this.node.scrollTop = this.total * this.height;
    this.draw();
  }

  firstVisible() {
    return Math.max(0, Math.floor(this.node.scrollTop / this.height));
  }

  scrolled() {
    this.followsEnd = this.node.scrollTop + this.node.clientHeight >= this.total * this.height - 4 && this.total > 0;
    this.draw();
  }

  rowAt(index) {
    const piece = this.pieces.get(Math.floor(index / PIECE));
    return piece ? piece[index % PIECE] : undefined;
  }

  async need(index) {
    const place = Math.floor(index / PIECE);
    if (this.pieces.has(place)) return;
    this.pieces.set(place, []);
    const round = this.round;
    const found = await this.options.load(place * PIECE, PIECE).catch(() => null);
    if (found === null) this.pieces.delete(place);
    else if (round === this.round) {
      this.pieces.set(place, found.rows);
      this.draw();
    }
  }

  draw() {
    const first = Math.max(0, this.firstVisible() - MARGIN);
    const last = Math.min(this.total, first + Math.ceil(this.node.clientHeight / this.height) + 2 * MARGIN);
    const nodes = [];
    for (let index = first; index < last; index += 1) {
      const row = this.rowAt(index);
      if (row === undefined) this.need(index);
      nodes.push(this.rowNode(index, row));
    }
    if (this.total) fill(this.space, nodes);
    else fill(this.space, el("p", { class: "empty" }, this.options.empty || "nothing here"));
    const active = this.selected >= first && this.selected < last ? `${this.options.test}-${this.selected}` : null;
    if (active) this.node.setAttribute("aria-activedescendant", active);
    else this.node.removeAttribute("aria-activedescendant");
  }

  rowNode(index, row) {
    const drawn = row === undefined ? { props: {}, children: ["\u2026"] } : this.options.draw(row);
    const isSelected = index === this.selected;
    const node = el("div", { class: `row${isSelected ? " selected" : ""}`, id: `${this.options.test}-${index}`, role: "option",
      "aria-selected": String(isSelected), "aria-posinset": index + 1, "aria-setsize": this.total, "data-index": index, ...drawn.props }, drawn.children);
    node.style.top = `${index * this.height}px`;
    node.style.height = `${this.height}px`;
    return node;
  }

  click(event) {
    const node = event.target.closest("[data-index]");
    if (node) this.select(Number(node.getAttribute("data-index")), true);
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.node.clientHeight / this.height) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -this.total, End: this.total };
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      if (this.selected >= 0) this.select(this.selected, true);
    } else if (event.key in steps) {
      event.preventDefault();
      const from = this.selected < 0 ? (steps[event.key] > 0 ? -1 : 0) : this.selected;
      this.select(Math.min(this.total - 1, Math.max(0, from + steps[event.key])), this.options.opensOnMove);
    }
  }

  async select(index, isOpened) {
    if (index < 0 || index >= this.total) return;
    this.selected = index;
    const top = index * this.height;
    if (top < this.node.scrollTop) this.node.scrollTop = top;
    else if (top + this.height > this.node.scrollTop + this.node.clientHeight) this.node.scrollTop = top + this.height - this.node.clientHeight;
    this.draw();
    await this.need(index);
    const row = this.rowAt(index);
    if (isOpened && row !== undefined && this.selected === index) this.options.onOpen(row);
  }

  close() {
    this.observer.disconnect();
  }
}
