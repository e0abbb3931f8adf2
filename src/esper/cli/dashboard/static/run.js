// One run: its head, and one of four tabs.
import { get } from "./api.js";
import { DecisionsTab } from "./decisions.js";
import { el, fill, name } from "./dom.js";
import { eventText, EventsTab, placeOf } from "./events.js";
import { GrowthTab } from "./growth.js";
import { stateBadge } from "./overview.js";
import { TrainingTab } from "./training.js";

const TABS = [["growth", "Growth", GrowthTab], ["training", "Training", TrainingTab], ["decisions", "Decisions", DecisionsTab], ["events", "Events", EventsTab]];

export class RunPage {
  constructor(shell, id, tab) {
    this.shell = shell;
    this.id = id;
    this.wanted = tab;
    this.picked = shell.picks.get(id) || "";
    this.instance = null;
    this.env = null;
    this.filterInstance = "";
    this.take(this.picked);
    this.revision = -1;
    this.isBusy = false;
    this.isDirty = false;
    this.title = el("h1", { test: "run-title" });
    this.facts = el("p", { class: "muted run-facts" });
    this.picker = el("select", { test: "env-picker", "aria-label": "host or environment", on: { change: () => this.pick(this.picker.value) } });
    this.pickerBox = el("label", { class: "muted", hidden: true }, "Show ", this.picker);
    this.tabs = el("nav", { class: "tabs", "aria-label": "parts of this run" });
    this.latest = el("p", { class: "latest muted", role: "status" });
    this.problems = el("div", {});
    this.body = el("div", {});
    this.node = el("div", { class: "page" },
      el("div", { class: "page-head" }, el("div", { class: "grow" }, el("a", { href: "#/", class: "back" }, "\u2190 all runs"), this.title, this.facts), this.pickerBox),
      this.problems, el("div", { class: "tab-line" }, this.tabs, this.latest), this.body);
  }

  async start() {
    await this.readHead();
    const isTraining = this.head.is_training && this.head.kinds.PolicyTrainingStarted;
    this.tabName = this.wanted || (isTraining ? "training" : "growth");
    const found = TABS.find(([key]) => key === this.tabName) || TABS[0];
    this.tab = new found[2](this);
    fill(this.body, this.tab.node);
    this.drawTabs();
    await this.tab.refresh();
  }

  async readHead() {
    this.head = await get(`/api/runs/${this.id}`);
    const head = this.head;
    fill(this.title, name(head.name), " ", stateBadge(head.state));
    const unit = head.is_training ? "round" : "epoch";
    fill(this.facts, "task ", name(head.task), " \u00b7 policy ", name(head.policy), ` \u00b7 seed ${head.seed} \u00b7 ${unit} ${head.epoch} of ${head.horizon || "?"}`,
      head.attempt ? ` \u00b7 resumed ${head.attempt} times` : "", head.is_behind ? " \u00b7 still reading its files\u2026" : "");
    const problems = [head.problem, ...(head.bad || []).slice(0, 3), head.num_bad > 3 ? `${head.num_bad} lines cannot be read` : ""].filter(Boolean);
    fill(this.problems, problems.map((text) => el("p", { class: "note problem" }, name(text))));
    this.shell.showMissed(head.num_dropped + head.num_missing);
    this.drawPicker();
  }

  drawTabs() {
    const kinds = this.head.kinds;
    const isShown = {
      growth: !this.head.is_training || kinds.EpochCompleted,
      training: kinds.PolicyTrainingStarted,
      decisions: true,
      events: true,
    };
    fill(this.tabs, TABS.filter(([key]) => isShown[key] || key === this.tabName).map(([key, title]) =>
      el("a", { href: `#/run/${this.id}/${key}`, test: `tab-${key}`, "aria-current": key === this.tabName ? "page" : null }, title)));
  }

  drawPicker() {
    const { head } = this;
    const hosts = head.instances.filter((each) => head.num_instances > 1 || each !== 0);
    const envs = head.is_training ? this.envIds() : [];
    const options = head.is_training && envs.length
      ? [["", "every environment"], ...envs.map((env) => [`env:${env}`, `environment ${env}`])]
      : hosts.length > 1 ? hosts.map((host) => [String(host), `host ${host}`]) : [];
    this.pickerBox.hidden = options.length < 2;
    const shape = options.map(([value]) => value).join();
    if (shape !== this.pickerShape) {
      this.pickerShape = shape;
      const chosen = this.picked;
      fill(this.picker, options.map(([value, title]) => el("option", { value }, title)));
      this.picker.value = options.some(([value]) => value === chosen) ? chosen : options.length ? options[0][0] : "";
    }
    if (this.instance === null) this.instance = head.instances.length && !head.is_training ? head.instances[0] : 0;
  }

  envIds() {
    return Array.from({ length: this.head.num_envs || 0 }, (_, index) => index);
  }

  // A choice holds for all tabs of the run.
  take(value) {
    this.env = value.startsWith("env:") ? Number(value.slice(4)) : null;
    const isHost = value !== "" && this.env === null;
    this.filterInstance = isHost ? value : "";
    if (isHost) this.instance = Number(value);
  }

  pick(value) {
    this.picked = value;
    this.shell.picks.set(this.id, value);
    this.take(value);
    this.tab.refresh(true);
  }

  chooseEnv(env) {
    this.picker.value = `env:${env}`;
    this.pick(`env:${env}`);
  }

  async onNews(news) {
    if (news.is_gone) {
      fill(this.problems, el("p", { class: "note problem" }, "this run is not there any more"));
      return;
    }
    if (!news.is_behind && !this.wasBehind) this.shell.addMissed(news.num_missed);
    this.wasBehind = news.is_behind;
    const last = news.events[news.events.length - 1];
    if (last) fill(this.latest, `${last.kind}, ${placeOf(last, this.head)}: `, name(eventText(last)));
    const key = `${news.revision} ${news.state} ${news.is_behind}`;
    if (key === this.revision) return;
    this.revision = key;
    this.isDirty = true;
    await this.catchUp();
  }

  async catchUp() {
    if (this.isBusy || !this.tab) return;
    this.isBusy = true;
    while (this.isDirty && !this.isClosed) {
      this.isDirty = false;
      await this.readHead().then(() => { this.drawTabs(); return this.tab.refresh(); }).catch(() => undefined);
      await new Promise((resolve) => { setTimeout(resolve, 400); });
    }
    this.isBusy = false;
  }

  repaint() {
    if (this.tab) this.tab.repaint();
  }

  close() {
    this.isClosed = true;
    if (this.tab) this.tab.close();
  }
}
