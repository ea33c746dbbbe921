// What is asked beside words: a file that was dropped, chosen or recorded, and items to be like or unlike.

import { el } from "./dom.js";
import { canRecord, record } from "./record.js";

const LONGEST = 30; // seconds of a recording

export class Query {
  constructor(place, info, changed) {
    Object.assign(this, { info, changed, file: null, like: [], unlike: [], recording: null });
    this.input = el("input", {
      type: "file", id: "pm-file", accept: info.upload_types.join(","), class: "pm-hidden",
      onchange: () => this.take(this.input.files[0]),
    });
    const nothing = info.upload_types.length === 0;
    const what = [["audio", "a sound"], ["image", "a picture"]].filter(([m]) => info.queries.includes(m)).map(([, w]) => w);
    this.zone = el("label", { class: "pm-drop", for: "pm-file" }, el("span", {}, `Choose or drop ${what.join(" or ")}`), this.input);
    this.button = el("button", { type: "button", class: "pm-button", onclick: () => this.record() }, "Record a sound");
    this.said = el("p", { class: "pm-note", role: "status" });
    this.chips = el("ul", { class: "pm-chips", "aria-label": "Also asked for" });
    place.replaceChildren(el("div", { class: "pm-media" }, nothing ? null : this.zone, info.queries.includes("audio") ? this.button : null), this.said, this.chips);
    if (!canRecord()) {
      this.button.disabled = true;
      this.button.title = "Browsers record only on this machine itself or over https";
    }
    this.listen();
  }

  listen() {
    const over = (on) => (event) => {
      event.preventDefault();
      this.zone.classList.toggle("pm-over", on);
    };
    this.zone.addEventListener("dragover", over(true));
    this.zone.addEventListener("dragleave", over(false));
    this.zone.addEventListener("drop", (event) => {
      over(false)(event);
      this.take(event.dataTransfer.files[0]);
    });
  }

  take(file) {
    if (!file) return;
    const suffix = /\.[^.]*$/.exec(file.name.toLowerCase())?.[0] ?? "";
    const megabytes = (n) => `${(n / 1e6).toFixed(1)} MB`;
    if (!this.info.upload_types.includes(suffix)) {
      this.said.textContent = `${file.name} is no type of file that can be searched with: ${this.info.upload_types.join(" ")}`;
    } else if (file.size > this.info.upload_bytes) {
      this.said.textContent = `${file.name} has ${megabytes(file.size)}; this server takes ${megabytes(this.info.upload_bytes)} at most.`;
    } else {
      this.said.textContent = "";
      this.file = file;
      this.show();
      this.changed();
    }
    this.input.value = "";
  }

  async record() {
    if (this.recording) return this.recording.stop();
    try {
      this.recording = await record(Math.min(LONGEST, this.info.upload_seconds));
    } catch {
      this.said.textContent = "The microphone cannot be used: the browser was not allowed to, or there is none.";
      return;
    }
    this.button.textContent = "Stop recording";
    this.button.setAttribute("aria-pressed", "true");
    this.said.textContent = `Recording, ${LONGEST} s at most.`;
    try {
      this.take(await this.recording.file);
    } catch {
      this.said.textContent = "The recording was too short.";
    } finally {
      this.recording = null;
      this.button.textContent = "Record a sound";
      this.button.removeAttribute("aria-pressed");
    }
  }

  only(item) {
    Object.assign(this, { file: null, like: [item], unlike: [] });
    this.show();
  }

  without(item) {
    if (!this.unlike.some((i) => i.id === item.id)) this.unlike.push(item);
    this.show();
  }

  // Ids name items of one gallery: those of another mean nothing there.
  forget() {
    Object.assign(this, { like: [], unlike: [] });
    this.show();
  }

  show() {
    const chip = (word, shown, remove) =>
      el("li", { class: "pm-chip" }, el("span", {}, word), shown,
        el("button", { type: "button", "aria-label": `Remove: ${word}`, onclick: () => { remove(); this.show(); this.changed(); } }, "\u00d7"));
    const items = (list, word) => list.map((item) =>
      chip(`${word} ${item.caption || item.id}`, null, () => list.splice(list.indexOf(item), 1)));
    const chips = [...items(this.like, "like"), ...items(this.unlike, "not like")];
    if (this.file) chips.unshift(chip(this.file.name, this.preview(), () => (this.file = null)));
    this.chips.replaceChildren(...chips);
  }

  preview() {
    if (this.address) URL.revokeObjectURL(this.address);
    this.address = URL.createObjectURL(this.file);
    const picture = /\.(jpe?g|png|gif|bmp|webp)$/i.test(this.file.name);
    return picture
      ? el("img", { src: this.address, alt: "The picture that is searched with" })
      : el("audio", { src: this.address, controls: true, "aria-label": "The sound that is searched with" });
  }

  asked() {
    const ids = (list) => list.map((item) => item.id);
    return { file: this.file, like: ids(this.like), unlike: ids(this.unlike) };
  }

  get empty() {
    return !this.file && this.like.length === 0;
  }
}

