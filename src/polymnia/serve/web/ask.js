// The API. Every failure becomes an Error whose message can be shown.

async function answer(request) {
  let response;
  try {
    response = await request;
  } catch (failure) {
    if (failure.name === "AbortError") throw failure;
    throw new Error("The server does not answer. Is it still running?");
  }
  if (response.status === 401) {
    location.assign("/login");
    throw new Error("The server needs its token again.");
  }
  const said = await response.json().catch(() => ({}));
  if (response.ok) return said;
  const wait = response.headers.get("retry-after");
  throw new Error((said.error ?? `The server answered ${response.status}.`) + (wait ? ` (${wait} s)` : ""));
}

export const info = () => answer(fetch("/api/info"));
export const matrices = () => answer(fetch("/api/matrices"));

// query: {text, file, like, unlike, ...filters}; after: null for the index.
export function search(query, after, signal) {
  const form = new FormData();
  for (const [key, given] of Object.entries(query)) {
    if (given === null || given === "") continue;
    if (key === "file") form.append("file", given, given.name);
    else for (const one of [given].flat()) form.append(key, one);
  }
  if (after !== null) form.append("after", after);
  return answer(fetch("/api/search", { method: "POST", body: form, signal }));
}
