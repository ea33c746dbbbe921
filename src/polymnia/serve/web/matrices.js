// The scores of the run: a row after each task, a column a task.

import { el } from "./dom.js";

const NUMBERS = {
  average: "average after the last task",
  average_incremental: "average over all moments",
  forgetting: "forgetting (lower is better)",
  backward_transfer: "backward transfer (below 0: forgotten)",
  forward_transfer: "forward transfer",
  plasticity: "each task when just learned",
};
const HEADS = { latest: "the heads as they were after that task", stored: "the heads kept when their pair was last taught" };

export function matrices(found) {
  const same = new Set(found.heads.map((h) => JSON.stringify(h.score))).size === 1;
  const heads = same ? found.heads.slice(0, 1) : found.heads;
  return el("div", { class: "pm-matrices" },
    el("p", {}, `The run ${found.name}: the score (in %) of each task, after each task. A frame marks a task when it was just learned; read down a column to see what was kept.`),
    ...heads.map((head) => one(found, head, same)));
}

function one(found, head, alone) {
  const all = head.score.flat().filter((v) => v !== null);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const rows = found.after.map((after, i) => {
    const name = after === 0 ? "before learning" : `after ${found.tasks[after - 1]}`;
    return el("tr", {}, el("th", { scope: "row" }, name), ...head.score[i].map((v, j) => cell(v, (v - low) / (high - low || 1), after, j)));
  });
  const title = alone ? "Score of each task" : `Score of each task, with ${HEADS[head.head] ?? head.head}`;
  const numbers = Object.entries(NUMBERS).filter(([key]) => key in head.summary);
  return el("section", {}, el("h2", {}, title),
    el("div", { class: "pm-scroll", tabindex: "0", role: "region", "aria-label": title },
      el("table", { class: "pm-heat", "aria-label": title },
        el("thead", {}, el("tr", {}, el("td"), ...found.tasks.map((t) => el("th", { scope: "col" }, t)))), el("tbody", {}, ...rows))),
    el("dl", { class: "pm-numbers" },
      ...numbers.map(([key, said]) => el("div", {}, el("dt", {}, said), el("dd", {}, head.summary[key].toFixed(1))))));
}

function cell(score, share, after, column) {
  if (score === null) return el("td", { class: "pm-missing" }, "\u2013");
  const kind = (share > 0.63 ? "pm-high " : "") + (after === column + 1 ? "pm-own" : "") + (after <= column ? "pm-early" : "");
  return el("td", { class: kind.trim() || null, style: `--v:${(100 * share).toFixed(1)}%` }, score.toFixed(1));
}
