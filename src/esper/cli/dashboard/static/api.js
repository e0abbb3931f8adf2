// Where answers come from: the server that sent this page, or the page itself where it was exported.

const embedded = readEmbedded();

export const isStatic = embedded !== null;

function readEmbedded() {
  const node = document.getElementById("answers");
  return node === null ? null : JSON.parse(node.textContent);
}

export async function get(path, params) {
  const query = Object.entries(params || {})
    .filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([key, value]) => `${key}=${encodeURIComponent(value)}`)
    .join("&");
  if (isStatic) return fromPage(path, params || {}, query);
  const answer = await fetch(query ? `${path}?${query}` : path, { credentials: "same-origin" });
  if (!answer.ok) throw new Error((await answer.text()).trim() || `the server answered ${answer.status}`);
  return answer.json();
}

function fromPage(path, params, query) {
  if (path.endsWith("/events") || path.endsWith("/decisions")) return pieceOf(embedded[path] || [], params);
  if (path === "/api/compare") return embedded[path];
  const found = embedded[query ? `${path}?${query}` : path];
  if (found === undefined) throw new Error("this page does not hold that part of the run");
  return found;
}

function pieceOf(rows, params) {
  const words = (params.text || "").toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = params.kind || params.op;
  const found = rows.filter((row) =>
    (!wanted || row.kind === wanted || row.op === wanted)
    && (params.env === undefined || params.env === null || row.env_id === params.env || (row.fields && row.fields.env_id === params.env))
    && (params.instance === undefined || params.instance === null || params.instance === "" || row.instance === Number(params.instance))
    && (!words.length || words.every((word) => JSON.stringify(row).toLowerCase().includes(word))));
  const start = params.start || 0;
  return { total: found.length, start, rows: found.slice(start, start + (params.count || 100)) };
}

// Calls onNews with every message and onState with "live", "offline" or "static"; returns how to stop.
export function listen(runId, onNews, onState) {
  if (isStatic) {
    onState("static");
    return () => undefined;
  }
  const source = new EventSource(runId ? `/api/stream?run=${runId}` : "/api/stream");
  onState("waiting");
  source.addEventListener("open", () => onState("live"));
  source.addEventListener("error", () => onState("offline"));
  source.addEventListener("news", (message) => {
    onState("live");
    onNews(JSON.parse(message.data));
  });
  return () => source.close();
}
