// Draws the pack's lines of text under nodes: a wait, the end of a run, a note on what was left out. They come as an
// event of the pack's own, because the frontend's line of text shows nothing in a subgraph, shows prompts of other tabs
// and workflows, breaks words in the middle, and stays when its run is over.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { Line, Lines } from "./lines.js";
import { translate } from "./translation.js";

const EVENT = "comfy_gpu_offload.line";
const STYLE = `
.comfy-gpu-offload-lines { position: absolute; inset: 0; overflow: hidden; pointer-events: none; }
.comfy-gpu-offload-line {
  position: absolute; top: 0; left: 0; transform-origin: 0 0; box-sizing: border-box; padding: 4px 8px;
  border-radius: 0 0 8px 8px; background: rgb(32 32 32 / 85%); color: #ddd; font: 12px/1.35 sans-serif;
  white-space: pre-line; overflow-wrap: break-word; word-break: normal; hyphens: none;
}`;
const LEAST_WIDTH = 220;

const lines = new Lines();
const owners = new Map(); // by prompt: the workflow that it was queued from. Another one may be open when it runs.
let running = null;

const rootGraph = () => app.rootGraph ?? app.graph;
const ownerOf = (prompt) => owners.get(prompt) ?? rootGraph()?.id;

// Return the node on the screen under which the line of a node is drawn: the node itself, or the subgraph's node that
// contains it. `executionId` is like "5:12:3": the nodes from the outermost subgraph inwards.
function visibleNode(executionId) {
  let graph = rootGraph();
  let shown = null;
  let node = null;
  for (const id of executionId.split(":")) {
    node = graph?.getNodeById(id);
    if (!node) return null;
    if (graph === app.canvas.graph) shown = node;
    graph = node.subgraph;
  }
  return shown && { shown, inner: node };
}

function layer() {
  const canvas = app.canvas.canvas;
  let found = canvas.parentElement.querySelector(":scope > .comfy-gpu-offload-lines");
  if (!found) {
    found = document.createElement("div");
    found.className = "comfy-gpu-offload-lines";
    canvas.after(found);
  }
  return found;
}

// Return the texts for the nodes on the screen; a subgraph's node shows those of all its inner nodes.
function texts() {
  const found = new Map();
  const open = rootGraph()?.id;
  for (const line of lines.of(open)) {
    const place = visibleNode(line.node);
    if (!place) continue;
    const { shown, inner } = place;
    const said = shown === inner ? line.text : `${inner.title}: ${line.text}`;
    const known = found.get(shown);
    // Inside a subgraph that two nodes stand for, an inner node has a line for each of them: the latest counts.
    const replaces = !known || shown === inner;
    found.set(shown, { text: replaces ? said : `${known.text}\n${said}`, id: line.node });
  }
  return found;
}

function put(element, node, { text, id }) {
  const { scale, offset } = app.canvas.ds;
  const collapsed = node.flags?.collapsed;
  const width = Math.max(LEAST_WIDTH, (collapsed && node._collapsed_width) || node.size[0]);
  const x = (node.pos[0] + offset[0]) * scale;
  const y = (node.pos[1] + (collapsed ? 0 : node.size[1]) + offset[1]) * scale;
  if (element.textContent !== text) element.textContent = text;
  element.dataset.node = String(node.id);
  element.dataset.execution = id;
  element.style.width = `${width}px`;
  element.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
}

function draw() {
  if (!app.canvas?.canvas?.parentElement) return;
  const found = [...texts()];
  const parent = layer();
  while (parent.children.length > found.length) parent.lastChild.remove();
  found.forEach(([node, said], index) => {
    if (!parent.children[index]) {
      const element = document.createElement("div");
      element.className = "comfy-gpu-offload-line";
      parent.append(element);
    }
    put(parent.children[index], node, said);
  });
}

const redraw = () => app.canvas?.setDirty(true, true);

function listen(name, told) {
  api.addEventListener(name, ({ detail }) => {
    told(detail);
    redraw();
  });
}

function rememberOwners() {
  const queue = api.queuePrompt;
  api.queuePrompt = async function (number, prompt, ...rest) {
    const reply = await queue.call(this, number, prompt, ...rest);
    if (reply?.prompt_id) owners.set(reply.prompt_id, prompt?.workflow?.id ?? rootGraph()?.id);
    return reply;
  };
}

app.registerExtension({
  name: "comfy-gpu-offload.node-lines",
  setup() {
    document.head.append(Object.assign(document.createElement("style"), { textContent: STYLE }));
    const drawn = app.canvas.onDrawForeground;
    app.canvas.onDrawForeground = function (...parameters) {
      drawn?.apply(this, parameters);
      draw();
    };
    rememberOwners();
    listen(EVENT, ({ prompt, node, kind, text }) => lines.tell(ownerOf(prompt), new Line(node, prompt, kind, text)));
    listen("execution_start", ({ prompt_id }) => (running = prompt_id));
    listen("execution_cached", ({ prompt_id, nodes }) => lines.begin(ownerOf(prompt_id), nodes ?? []));
    listen("executing", (node) => lines.onlyRuns(running, node == null ? null : String(node)));
    const end = ({ prompt_id, node_id }, how) => lines.end(prompt_id, how, String(node_id));
    listen("execution_error", (detail) => end(detail, translate("failed")));
    listen("execution_interrupted", (detail) => end(detail, translate("cancelled")));
    listen("execution_success", ({ prompt_id }) => lines.end(prompt_id));
    const lost = () => translate("no connection to ComfyUI: what became of the run is not known");
    listen("reconnecting", () => lines.lose(lost()));
  },
});
