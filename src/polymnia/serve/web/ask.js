// The API. Every failure becomes an Error whose message can be shown.

const TURNS = 60;

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
  const failure = new Error(said.error ?? `The server answered ${response.status}.`);
  throw Object.assign(failure, { status: response.status, wait: Number(response.headers.get("retry-after") ?? 2) });
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

// The same, but where the server is still preparing, it is asked again; `said` is told so.
export async function patiently(query, after, signal, said) {
  for (let turn = 0; ; turn++) {
    try {
      return await search(query, after, signal);
    } catch (failure) {
      if (failure.status !== 503 || turn === TURNS) throw failure;
      said(`${failure.message} Waiting\u2026`);
      await new Promise((done) => setTimeout(done, 1000 * failure.wait));
      signal.throwIfAborted();
    }
  }
}
