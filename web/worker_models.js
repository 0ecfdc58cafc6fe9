// Keeps ComfyUI from offering to download to this machine what a workflow's loaders name for the worker. Frontends before
// 1.48 ask for each file in a node's `properties.models` that is not in this machine's folders. They read these from the
// workflow's file before its nodes are made, so the files of loaders that run at the worker wait under another name until
// the node has been configured.
import { app } from "../../scripts/app.js";

const ASIDE = "comfy-gpu-offload.models";

const remoteTypes = new Set();

// A loader's only switch says whether it runs at the worker.
const isRemote = ({ type, widgets_values: values }) =>
  remoteTypes.has(type) && Object.values(values ?? {}).find((value) => typeof value === "boolean") !== false;

function* fileNodes({ nodes, definitions }) {
  yield* nodes ?? [];
  for (const subgraph of definitions?.subgraphs ?? []) yield* subgraph.nodes ?? [];
}

function rename(properties, from, to) {
  if (!properties?.[from]) return;
  properties[to] = properties[from];
  delete properties[from];
}

app.registerExtension({
  name: "comfy-gpu-offload.worker-models",
  beforeRegisterNodeDef(type, definition) {
    const inputs = { ...definition.input?.required, ...definition.input?.optional };
    if (!Object.values(inputs).some((spec) => spec?.[1]?.worker_list)) return;
    remoteTypes.add(definition.name);
    const configured = type.prototype.onConfigure;
    type.prototype.onConfigure = function (...parameters) {
      rename(this.properties, ASIDE, "models");
      return configured?.apply(this, parameters);
    };
  },
  beforeConfigureGraph(file) {
    for (const node of fileNodes(file)) if (isRemote(node)) rename(node.properties, "models", ASIDE);
  },
});
