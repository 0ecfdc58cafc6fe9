// What the configured worker can load, as one page knows it. Combos of one kind share one array, which is changed in
// place.
import { api } from "../../scripts/api.js";
import { translate } from "./translation.js";

const ROUTE = "/comfy_gpu_offload/lists";
const arrays = new Map();
const watchers = [];
let asking = null;

// `state`: "unknown" before the first answer, then as src/comfy_gpu_offload/comfyui/client/model_lists.py says.
export const worker = { lists: {}, state: "unknown", text: "", asking: false };

export function offered(kind) {
  if (!arrays.has(kind)) arrays.set(kind, []);
  return arrays.get(kind);
}

// Has each combo offer the worker's list, and behind it the names in use that are not in it: to the frontend a name
// that no list has is a missing model, which it marks in red and offers to download.
export function offer(namesInUse) {
  for (const [kind, array] of arrays) {
    const list = worker.lists[kind] ?? [];
    array.splice(0, array.length, ...new Set([...list, ...(namesInUse.get(kind) ?? [])]));
  }
}

export const watch = (watcher) => watchers.push(watcher);

// Asks for the lists; `reason` says whether the worker may be asked for them: "open", "refresh", "click" or "run".
export function ask(reason) {
  asking ??= answered(reason).finally(() => {
    asking = null;
    worker.asking = false;
    tell();
  });
  worker.asking = true;
  tell();
  return asking;
}

const tell = () => watchers.forEach((watcher) => watcher());

async function answered(reason) {
  try {
    const reply = await api.fetchApi(ROUTE, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ reason }),
    });
    const answer = await reply.json();
    if (reply.ok) Object.assign(worker, answer);
    else Object.assign(worker, { state: "failed", text: answer.error });
  } catch {
    Object.assign(worker, { state: "failed", text: translate("ComfyUI does not answer.") });
  }
}
