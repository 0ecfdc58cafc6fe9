// The configured worker's lists of models and ControlNets, as this page knows them. All combos of one kind share one
// array of values, which is changed in place.
import { api } from "../../scripts/api.js";
import { translate } from "./translation.js";

const ROUTE = "/comfy_gpu_offload/lists";
const arrays = new Map();
const watchers = [];
let asking = null;

// `state`: "unknown" before the first answer, then a `State` of src/comfy_gpu_offload/comfyui/client/model_lists.py.
// `takes_models`: whether the worker fetches models for its clients.
export const worker = { lists: {}, state: "unknown", text: "", takes_models: false, asking: false };

export function offered(kind) {
  if (!arrays.has(kind)) arrays.set(kind, []);
  return arrays.get(kind);
}

// Have each combo offer the worker's list, followed by the names in use that are not in it. The frontend would take a
// name that is in no combo for a missing model, mark it in red and offer to download it.
export function offer(namesInUse) {
  for (const [kind, array] of arrays) {
    const list = worker.lists[kind] ?? [];
    array.splice(0, array.length, ...new Set([...list, ...(namesInUse.get(kind) ?? [])]));
  }
}

export const watch = (watcher) => watchers.push(watcher);

// Ask ComfyUI for the lists. By `reason` ("open", "refresh", "click" or "run") it decides whether to ask the worker.
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
