// The page: what Gradio's controls say, asked of the API, and what was found.

import * as ask from "./ask.js";
import { card } from "./cards.js";
import { el, type, value, whenThere } from "./dom.js";
import { matrices } from "./matrices.js";
import { Query } from "./query.js";

document.documentElement.lang = "en";
let running = null;

function filters() {
  const any = (word) => (word === "any" ? "" : word);
  return {
    modalities: value("pm-modality").split(",").filter(Boolean), tasks: any(value("pm-task")), topics: any(value("pm-topic")),
    shortest: number("pm-shortest"), longest: number("pm-longest"), k: value("pm-k") || "12",
  };
}

// "1,5" is one and a half, as it is typed in half of the world.
const number = (id) => value(id).replace(",", ".");

const moment = (state) => (state.task === 0 ? "before learning" : `after ${state.name}`);

function note(info, chosen) {
  if (chosen === "index") {
    const [first, ...more] = info.spaces.map((s) => moment(s));
    const whose = more.length ? `of several encoders (${[first, ...more].join(", ")})` : `of the encoder ${first ?? ""}`;
    return `Shown: the index, ${info.rows.toLocaleString("en")} vectors ${whose}.`;
  }
  const when = chosen === "all" ? "after each task" : moment(info.states.find((s) => String(s.task) === chosen));
  return `Shown: the test items of the run, not the index, with the encoder ${when}.`;
}

class Page {
  constructor(info, place, media) {
    this.info = info;
    this.status = el("p", { class: "pm-status", role: "status", "aria-live": "polite" });
    this.note = el("p", { class: "pm-note", id: "pm-note" });
    this.found = el("div", { id: "pm-found" });
    place.replaceChildren(this.note, this.status, this.found);
    this.query = new Query(media, info, () => this.search());
    this.gallery = null;
    this.says = (words) => (this.status.textContent = words);
    this.begin();
  }

  begin() {
    this.note.textContent = note(this.info, value("pm-with") || "index");
    this.status.textContent = "";
    this.found.replaceChildren(el("p", { class: "pm-empty" },
      this.info.rows ? "Type some words, drop a file, or record a sound." : "The index is empty: add something to it first."));
  }

  async search() {
    const chosen = value("pm-with") || "index";
    const gallery = chosen === "index" ? "index" : "run";
    if (this.gallery && this.gallery !== gallery) this.query.forget();
    this.gallery = gallery;
    const query = { text: value("pm-text"), ...this.query.asked(), ...filters() };
    if (!query.text && this.query.empty) return this.begin();
    running?.abort();
    const mine = (running = new AbortController());
    this.note.textContent = note(this.info, chosen);
    this.waits(true);
    try {
      await (chosen === "all" ? this.beside(query, mine.signal) : this.single(query, chosen, mine.signal));
    } catch (failure) {
      if (failure.name === "AbortError") return;
      this.status.textContent = "";
      this.found.replaceChildren(el("p", { class: "pm-error", role: "alert" }, failure.message));
    } finally {
      if (running === mine) this.waits(false);
    }
  }

  waits(on) {
    this.found.setAttribute("aria-busy", String(on));
    this.found.classList.toggle("pm-waits", on);
    if (on) this.status.textContent = "Searching\u2026";
  }

  async single(query, chosen, signal) {
    const got = await ask.patiently(query, chosen === "index" ? null : chosen, signal, this.says);
    const count = got.hits.length;
    this.status.textContent = count ? `${count} ${count === 1 ? "hit" : "hits"} in ${got.seconds.toFixed(2)} s, best first.` : "";
    this.found.replaceChildren(count ? this.list(got.hits) : el("p", { class: "pm-empty" }, "Nothing fits. Try other words, or fewer filters."));
  }

  async beside(query, signal) {
    const columns = [];
    for (const state of this.info.states) {
      const got = await ask.patiently({ ...query, k: "5" }, state.task, signal, this.says);
      columns.push(el("section", { class: "pm-column" }, el("h2", {}, moment(state)), got.hits.length ? this.list(got.hits) : el("p", { class: "pm-empty" }, "Nothing fits.")));
      this.found.replaceChildren(el("div", { class: "pm-beside", tabindex: "0", role: "region", "aria-label": "The best five with each encoder" }, ...columns));
    }
    this.status.textContent = "The best five with each encoder of the run.";
  }

  list(hits) {
    const act = {
      more: (item) => {
        type("pm-text", "");
        this.query.only(item);
        this.search();
        document.querySelector("#pm-ask")?.scrollIntoView({ block: "start" });
      },
      less: (item) => {
        if (this.query.empty && !value("pm-text")) return;
        this.query.without(item);
        this.search();
      },
    };
    return el("ol", { class: "pm-cards" }, ...hits.map((hit) => card(hit, act)));
  }
}

async function start() {
  const [media, place] = await Promise.all([whenThere("#pm-media"), whenThere("#pm-results"), whenThere("#pm-go")]);
  let page;
  try {
    page = new Page(await ask.info(), place, media);
  } catch (failure) {
    return place.replaceChildren(el("p", { class: "pm-error", role: "alert" }, failure.message));
  }
  document.addEventListener("click", (event) => event.target.closest("#pm-go") && page.search());
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !event.target.closest("#pm-text")) return;
    event.preventDefault();
    page.search();
  });
  document.addEventListener("change", (event) => event.target.closest("#pm-with, #pm-modality") && setTimeout(() => page.search()));
  document.documentElement.dataset.ready = "true";
}

async function scores() {
  const place = await whenThere("#pm-matrices");
  try {
    place.replaceChildren(matrices(await ask.matrices()));
  } catch (failure) {
    place.replaceChildren(el("p", { class: "pm-empty" }, failure.message));
  }
}

start();
scores();
