// Models that a workflow names and the worker lacks: where the workflow says that they come from, and how far they are
// on their way to the worker. Nothing is asked of any site before a click.
import { api } from "../../scripts/api.js";
import { translate } from "./translation.js";

const ROUTE = "/comfy_gpu_offload/fetch";
const EVERY_MS = 500;
// Older names of ComfyUI's folders.
const FOLDERS = { unet: "diffusion_models", clip: "text_encoders", t2i_adapter: "controlnet" };

const states = new Map(); // by `keyOf`: a `FetchState` of src/comfy_gpu_offload/comfyui/client/model_fetches.py
const watchers = [];

export const watch = (watcher) => watchers.push(watcher);

const tell = () => watchers.forEach((watcher) => watcher());
const keyOf = ({ url, folder, name }) => `${folder}/${name} ${url}`;

// Return the file of that name as the first of the nodes has it that names one: its `url`, `folder`, `name` and
// `sha256`; null where none does.
export function wanted(name, nodes) {
  for (const node of nodes) {
    const models = node.properties?.models;
    const found = Array.isArray(models) && models.find((model) => model?.name === name && isAddress(model.url));
    if (!found || typeof found.directory !== "string") continue;
    const sha256 = String(found.hash_type).toLowerCase() === "sha256" ? String(found.hash).toLowerCase() : null;
    return { url: found.url, folder: FOLDERS[found.directory] ?? found.directory, name, sha256 };
  }
  return null;
}

const isAddress = (url) => typeof url === "string" && /^https?:\/\//.test(url) && URL.canParse(url);

export const isFetching = (file) => states.get(keyOf(file))?.state === "fetching";

// Return the text for a button on a node that lacks these files, and whether it is a warning.
export function said(files) {
  const known = files.map((file) => ({ file, ...(states.get(keyOf(file)) ?? { state: "none" }) }));
  const fetching = known.filter(({ state }) => state === "fetching");
  if (fetching.length) return { text: `${fetching.map(progress).join("\n")} (${translate("click to stop")})` };
  const failed = known.filter(({ state }) => state === "failed");
  if (failed.length) {
    const reasons = failed.map(({ file, text }) => translate("{name} was not fetched: {text}", { name: file.name, text }));
    return { text: `${reasons.join("\n")} (${translate("retry")})`, warns: true };
  }
  const names = files.map(({ name }) => name).join(", ");
  const hosts = [...new Set(files.map(({ url }) => new URL(url).host))].join(", ");
  return { text: translate("Fetch {names} to the worker, from {hosts}", { names, hosts }), warns: true };
}

function progress({ file, received, size_bytes: size, text }) {
  const name = file.name;
  if (text) return translate("fetching {name} to the worker: {text}", { name, text });
  if (!size) return translate("asking for {name} …", { name });
  const [unit, scale] = size >= 1e9 ? ["GB", 1e9] : ["MB", 1e6];
  const amount = `${Math.floor((100 * received) / size)} %, ${(received / scale).toFixed(2)} / ${(size / scale).toFixed(2)} ${unit}`;
  return translate("fetching {name} to the worker: {text}", { name, text: amount });
}

// Have the worker fetch the files. `then` is called once the last of them has ended.
export async function fetchAll(files, then) {
  await Promise.all(files.map((file) => follow(file)));
  then();
}

export const stopAll = (files) => Promise.all(files.filter(isFetching).map((file) => asked("stop", file)));

async function follow(file) {
  const key = keyOf(file);
  states.set(key, { state: "fetching", received: 0, size_bytes: null, text: "" });
  tell();
  for (let action = "begin"; isFetching(file); action = "state") {
    states.set(key, await asked(action, file));
    tell();
    if (isFetching(file)) await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

async function asked(action, file) {
  try {
    const reply = await api.fetchApi(ROUTE, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ action, ...file }),
    });
    const answer = await reply.json();
    return reply.ok ? answer : { state: "failed", text: answer.error };
  } catch {
    return { state: "failed", text: translate("ComfyUI does not answer.") };
  }
}
