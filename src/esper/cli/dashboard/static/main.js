// The frame of the page: which page is shown, the theme, and whether it is live.
import { listen } from "./api.js";
import { ComparePage } from "./compare.js";
import { el, emptyNote, fill } from "./dom.js";
import { OverviewPage } from "./overview.js";
import { RunPage } from "./run.js";

const STATE_WORDS = { live: "live", waiting: "connecting", offline: "offline", static: "exported" };

class Shell {
  constructor() {
    this.main = document.getElementById("main");
    this.page = null;
    this.stop = () => undefined;
    this.held = 0;
    this.unsent = 0;
    this.picks = new Map();
    this.live = el("span", { class: "live", test: "live-state", role: "status" });
    this.missed = el("span", { test: "num-missed" }, "0");
    this.missedBox = el("span", { class: "muted missed", title: "records that are not held any more, or were not told one by one", hidden: true }, this.missed, " not shown");
    this.toggle = el("button", { type: "button", class: "icon", test: "theme-toggle", on: { click: () => this.turnTheme() } });
    fill(document.getElementById("bar"),
      el("a", { href: "#/", class: "brand" }, el("span", { class: "leaf", "aria-hidden": "true" }), "esper"),
      el("nav", { "aria-label": "pages" }, el("a", { href: "#/" }, "Runs"), el("a", { href: "#/compare" }, "Compare")),
      el("span", { class: "grow" }), this.missedBox, this.live, this.toggle);
    this.setTheme(this.readTheme());
    globalThis.addEventListener("hashchange", () => this.open());
    document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); this.main.focus(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (!this.isThemeChosen) this.setTheme(this.readTheme()); });
  }

  readTheme() {
    let chosen = null;
    try {
      chosen = localStorage.getItem("esper-theme");
    } catch {
      chosen = null; // a page from a file may have no storage
    }
    this.isThemeChosen = chosen === "dark" || chosen === "light";
    return this.isThemeChosen ? chosen : matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  }

  setTheme(theme) {
    document.documentElement.setAttribute("data-theme", theme);
    const next = theme === "dark" ? "light" : "dark";
    this.toggle.textContent = theme === "dark" ? "\u2600" : "\u263e";
    this.toggle.setAttribute("aria-label", `switch to the ${next} theme`);
    this.toggle.title = `switch to the ${next} theme`;
    if (this.page && this.page.repaint) this.page.repaint();
  }

  turnTheme() {
    const next = document.documentElement.getAttribute("data-theme") === "dark" ? "light" : "dark";
    this.isThemeChosen = true;
    try {
      localStorage.setItem("esper-theme", next);
    } catch {
      this.isThemeChosen = true;
    }
    this.setTheme(next);
  }

  async open() {
    this.stop();
    if (this.page) this.page.close();
    this.held = 0;
    this.unsent = 0;
    this.drawMissed();
    const [kind, first, second] = location.hash.replace(/^#\/?/, "").split("/");
    let runId = "";
    if (kind === "run" && first) {
      runId = first;
      this.page = new RunPage(this, first, second);
    } else if (kind === "compare") this.page = new ComparePage(this, (first || "").split(",").filter(Boolean));
    else this.page = new OverviewPage(this);
    const { page } = this;
    fill(this.main, page.node);
    globalThis.scrollTo(0, 0);
    document.title = kind === "compare" ? "comparison \u2013 esper" : "runs \u2013 esper";
    this.markPage(kind);
    try {
      await page.start();
      if (runId && page.head) document.title = `${page.head.name} \u2013 esper`;
    } catch (error) {
      if (page === this.page) this.showError(error);
      return;
    }
    if (page !== this.page) return;
    this.stop = listen(runId, (news) => { if (page === this.page) page.onNews(news); }, (state) => this.showState(state));
  }

  markPage(kind) {
    for (const link of document.querySelectorAll("#bar nav a")) {
      const isHere = (link.getAttribute("href") === "#/compare") === (kind === "compare") && kind !== "run";
      if (isHere) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  showState(state) {
    this.live.setAttribute("data-live", state);
    this.live.textContent = STATE_WORDS[state];
  }

  showMissed(count) {
    this.held = count;
    this.drawMissed();
  }

  addMissed(count) {
    this.unsent += count || 0;
    this.drawMissed();
  }

  drawMissed() {
    const count = this.held + this.unsent;
    this.missed.textContent = String(count);
    this.missedBox.hidden = count === 0;
  }

  showError(error) {
    fill(this.main, el("div", { class: "page" }, el("a", { href: "#/", class: "back" }, "\u2190 all runs"), emptyNote(error.message)));
  }
}

new Shell().open();
