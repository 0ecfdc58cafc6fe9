// Fills the combos that a node's definition marks with `worker_list` from the worker's lists. A name that a workflow
// holds is kept, whatever the worker has and even if it cannot be reached.
import { app } from "../../scripts/app.js";
import { ListButton } from "./list_button.js";
import * as fetches from "./model_fetches.js";
import { translate } from "./translation.js";
import { ask, offer, offered, watch, worker } from "./worker_lists.js";

// Values in the place of a name, in workflows that were saved with an earlier release while no worker answered.
const LOST = new Set([null, undefined, "Loading..."]);

// The words for a click on the button, by the state of the lists.
const AGAIN = { failed: () => translate("retry"), unasked: () => translate("ask now") };
const askAgain = () => translate("ask again");

const listedInputs = new Map(); // by node type: [name, kind] of each of its listed inputs
const listedNodes = new WeakMap(); // by node: its combos, its button, and whether it came from a workflow

function collect(definition) {
  const found = [];
  for (const group of [definition.input?.required, definition.input?.optional]) {
    for (const [name, spec] of Object.entries(group ?? {})) {
      const kind = spec?.[1]?.worker_list;
      if (!kind) continue;
      spec[1].options = offered(kind);
      found.push([name, kind]);
    }
  }
  if (found.length) listedInputs.set(definition.name, found);
}

function* allNodes() {
  const root = app.rootGraph ?? app.graph;
  for (const graph of [root, ...(root?.subgraphs?.values() ?? [])]) yield* graph?.nodes ?? [];
}

// Mark a combo as one that offers a list. The mark is in its options, because the frontend copies these, together with
// their present values, for the combo that it shows on a subgraph.
function mark(widget, kind) {
  widget.options.worker_list = kind;
  widget.options.values = offered(kind);
}

// Mark the combos of primitive nodes, which are copies of the combos that they are connected to.
function markPrimitives(node, combos) {
  for (const input of node.inputs ?? []) {
    const combo = combos.find(({ widget }) => widget.name === input.widget?.name);
    const link = combo && input.link != null && node.graph?.getLink?.(input.link);
    const origin = link && node.graph.getNodeById(link.origin_id);
    if (origin?.type !== "PrimitiveNode" || !origin.widgets?.[0]?.options) continue;
    mark(origin.widgets[0], combo.kind);
    // The frontend's own would replace a name that no list has by the first value, or by its first letter.
    origin.refreshComboInNode = () => {};
  }
}

function namesInUse(nodes) {
  const names = new Map();
  for (const widget of nodes.flatMap((node) => node.widgets ?? [])) {
    const kind = widget.options?.worker_list;
    if (!kind) continue;
    mark(widget, kind);
    if (typeof widget.value !== "string" || !widget.value) continue;
    if (!names.has(kind)) names.set(kind, new Set());
    names.get(kind).add(widget.value);
  }
  return names;
}

function update() {
  const nodes = [...allNodes()];
  for (const node of nodes) {
    const listed = listedNodes.get(node);
    if (!listed) continue;
    for (const { widget, kind } of listed.combos) {
      if (!listed.saved && !widget.value) widget.value = worker.lists[kind]?.[0] ?? "";
    }
    markPrimitives(node, listed.combos);
    listed.button.show(said(node, listed.combos));
  }
  offer(namesInUse(nodes));
  app.canvas?.setDirty(true, true);
}

function said(node, combos) {
  if (worker.asking) return { text: translate("asking the worker …"), disabled: true };
  if (worker.text) return { text: `${worker.text} (${(AGAIN[worker.state] ?? askAgain)()})`, warns: true };
  const absent = absentNames(node, combos);
  if (absent.length) {
    const files = offeredFiles(node, absent);
    if (files.length) return fetches.said(files);
    const names = absent.join(", ");
    return { text: `${translate("not in the worker's list: {names}", { names })} (${askAgain()})`, warns: true };
  }
  return { text: translate("ask the worker for its list") };
}

// Return the names that a node wants of the worker and that are not in its list.
function absentNames(node, combos) {
  if (node.widgets.find((widget) => widget.name === "use_runpod")?.value === false) return [];
  const absent = ({ widget, kind }) => widget.value && worker.lists[kind]?.includes(widget.value) === false;
  return combos.filter(absent).map(({ widget }) => widget.value);
}

// Return those files that the worker can fetch, since the workflow says where from: the node itself, or another one.
function offeredFiles(node, names) {
  if (!worker.takes_models) return [];
  const nodes = [node, ...allNodes()];
  return names.map((name) => fetches.wanted(name, nodes)).filter(Boolean);
}

function clicked(node, combos) {
  const files = worker.asking || worker.text ? [] : offeredFiles(node, absentNames(node, combos));
  if (!files.length) ask("click");
  else if (files.some(fetches.isFetching)) void fetches.stopAll(files);
  else void fetches.fetchAll(files, () => ask("click"));
}

function chain(object, name, after) {
  const before = object[name];
  object[name] = function (...parameters) {
    const result = before?.apply(this, parameters);
    after();
    return result;
  };
}

function attach(node, inputs) {
  const combos = inputs
    .map(([name, kind]) => ({ kind, widget: node.widgets?.find((widget) => widget.name === name) }))
    .filter(({ widget }) => widget);
  const listed = { combos, saved: false, button: new ListButton(node, () => clicked(node, combos)) };
  listedNodes.set(node, listed);
  for (const { widget, kind } of combos) {
    mark(widget, kind);
    if (LOST.has(widget.value)) widget.value = worker.lists[kind]?.[0] ?? "";
    chain(widget, "callback", update);
  }
  const where = node.widgets?.find((widget) => widget.name === "use_runpod");
  if (where) chain(where, "callback", update); // a name that the worker lacks matters only if the node runs there
  chain(node, "onConfigure", () => {
    listed.saved = true;
    for (const { widget, kind } of combos) {
      if (LOST.has(widget.value)) widget.value = "";
      else if (widget.value && !offered(kind).includes(widget.value)) offered(kind).push(widget.value);
    }
  });
  chain(node, "onConnectionsChange", () => queueMicrotask(update));
  if (worker.state === "unknown") ask("open");
  listed.button.show(said(node, combos));
}

const isUsed = () => [...allNodes()].some((node) => listedNodes.has(node));

app.registerExtension({
  name: "comfy-gpu-offload.listed-combos",
  setup() {
    watch(update);
    fetches.watch(update);
    app.api.addEventListener("execution_success", () => isUsed() && ask("run"));
  },
  beforeRegisterNodeDef(_, definition) {
    collect(definition);
  },
  nodeCreated(node) {
    const inputs = listedInputs.get(node.comfyClass);
    if (inputs) attach(node, inputs);
  },
  afterConfigureGraph() {
    update();
    if (isUsed()) ask("open");
  },
  refreshComboInNodes(definitions) {
    Object.values(definitions).forEach(collect);
    update();
    if (isUsed()) ask("refresh");
  },
});
