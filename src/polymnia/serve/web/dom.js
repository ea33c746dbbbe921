// Elements without a line of HTML in a string: what is said of an item is never markup.

export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "style") made.style.cssText = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((c) => c !== null && c !== undefined));
  return made;
}

// Resolves with an element as soon as Gradio has drawn it.
export function whenThere(selector) {
  return new Promise((done) => {
    const look = () => document.querySelector(selector);
    if (look()) return done(look());
    const watcher = new MutationObserver(() => {
      if (!look()) return;
      watcher.disconnect();
      done(look());
    });
    watcher.observe(document.documentElement, { childList: true, subtree: true });
  });
}

// The value of one of Gradio's controls, as its input shows it.
export function value(id) {
  const chosen = document.querySelector(`#${id} input:checked`);
  const typed = document.querySelector(`#${id} textarea, #${id} input:not([type=radio])`);
  return ((chosen ?? typed)?.value ?? "").trim();
}

// Writes into a text field of Gradio as a hand would.
export function type(id, text) {
  const field = document.querySelector(`#${id} textarea, #${id} input`);
  if (!field) return;
  field.value = text;
  field.dispatchEvent(new Event("input", { bubbles: true }));
}

export const seconds = (s) => (s >= 60 ? `${Math.floor(s / 60)} min ${Math.round(s % 60)} s` : `${Number(s.toFixed(1))} s`);
