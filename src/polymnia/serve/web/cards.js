// What was found: a card a hit.

import { el, seconds } from "./dom.js";

const KINDS = { audio: "sound", image: "picture", text: "text" };

export function card(hit, act) {
  const { item } = hit;
  const name = item.caption || item.id;
  const facts = [
    item.task && el("span", { class: "pm-tag", title: "the task that it came with" }, item.task),
    item.topic && el("span", { class: "pm-tag pm-plain", title: "topic" }, item.topic),
    item.duration !== null && el("span", { class: "pm-fact" }, seconds(item.duration)),
    hit.window && el("span", { class: "pm-fact" }, `found at ${seconds(hit.window.start)} to ${seconds(hit.window.end)}`),
  ].filter(Boolean);
  return el("li", { class: "pm-card", "data-id": item.id, "data-kind": hit.modality },
    media(item, name),
    el("div", { class: "pm-words" },
      el("p", { class: "pm-caption", title: item.id, dir: "auto" }, name),
      el("p", { class: "pm-facts" }, score(hit), ...facts)),
    el("div", { class: "pm-acts" },
      el("button", { type: "button", class: "pm-button", "aria-label": `More like this: ${name}`, onclick: () => act.more(item) }, "More like this"),
      el("button", { type: "button", class: "pm-button pm-quiet", "aria-label": `Less like this: ${name}`, onclick: () => act.less(item) }, "Less like this")));
}

function score(hit) {
  const share = Math.round(100 * Math.max(0, Math.min(1, hit.cosine)));
  return el("span", { class: "pm-score", title: `${KINDS[hit.modality]} number ${hit.rank}; the cosine with the query is ${hit.cosine.toFixed(3)}` },
    el("span", { class: "pm-bar", "aria-hidden": "true" }, el("i", { style: `width:${share}%` })), hit.score.toFixed(3));
}

function media(item, name) {
  const { links } = item;
  const shown = el("div", { class: "pm-shown" });
  if (links.thumbnail) {
    const picture = image(links.thumbnail, `Picture: ${name}`, "pm-picture");
    shown.append(links.picture ? el("a", { href: links.picture, target: "_blank", rel: "noopener", class: "pm-link" }, picture) : picture);
  }
  if (links.spectrogram) shown.append(sound(links, name));
  if (!links.thumbnail && !links.spectrogram) shown.append(el("div", { class: "pm-none", "aria-hidden": "true" }, "text"));
  return shown;
}

function sound(links, name) {
  const line = el("i", { class: "pm-line", hidden: true });
  const drawn = el("div", { class: "pm-spectrogram" }, image(links.spectrogram, `Spectrogram: ${name}`), line);
  if (!links.sound) return el("div", {}, drawn, el("p", { class: "pm-note" }, "Browsers do not play this type of file."));
  const player = el("audio", { src: links.sound, controls: true, preload: "none", "aria-label": `Sound: ${name}` });
  player.addEventListener("timeupdate", () => {
    const [from, to] = stretch(links.sound, player.duration);
    line.hidden = !(to > from);
    line.style.left = `${Math.max(0, Math.min(100, (100 * (player.currentTime - from)) / Math.min(30, to - from)))}%`;
  });
  player.addEventListener("play", () => {
    for (const other of document.querySelectorAll(".pm-card audio")) if (other !== player) other.pause();
  });
  player.addEventListener("error", () => player.replaceWith(el("p", { class: "pm-note", role: "alert" }, "This sound cannot be played.")));
  return el("div", {}, drawn, player);
}

function stretch(address, duration) {
  const said = /#t=([\d.]+)(?:,([\d.]+))?/.exec(address);
  return [Number(said?.[1] ?? 0), Number(said?.[2] ?? duration)];
}

function image(address, alt, className = "") {
  const drawn = el("img", { src: address, alt, loading: "lazy", decoding: "async", class: className });
  drawn.addEventListener("error", () => drawn.replaceWith(el("div", { class: "pm-none" }, "cannot be shown")), { once: true });
  return drawn;
}
